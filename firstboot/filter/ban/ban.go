// Package ban shows and changes who is banned: the members of the two sets in the kernel's table filter.BanTable, which
// rules fill by rate and administrators by hand. The admin commands bans, ban and unban are List, Add and Remove; each
// takes CAP_NET_ADMIN.
//
// What it deliberately does not do: keep bans on disk. They are short, and a guest that starts anew forgets them.
package ban

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/google/nftables"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/kernel"
	"rempart/profiles"
)

// MaxLength is the longest a ban by hand may hold.
const MaxLength = 30 * 24 * time.Hour

// sourceBits6 is how much of an IPv6 address is a source: who has one address of a subnet has them all.
const sourceBits6 = 64

// Ban is one source that is shut out.
type Ban struct {
	Source netip.Prefix  // an IPv4 address as /32, or an IPv6 /64
	Left   time.Duration // until it ends by itself
}

// Errors that callers tell people about in their own words.
var (
	// ErrNotBanned is returned by Remove for a source that is not banned.
	ErrNotBanned = errors.New("is not banned")
	// ErrFull is returned by Add when filter.MaxBanned sources of the family are banned.
	ErrFull = errors.New("as many are banned as can be")
	// ErrNever is returned by Add for an address that must not be banned.
	ErrNever = errors.New("cannot be banned")
)

// Ensure puts the rules of the ban table in force, and keeps who is banned. Rules that are in force stay untouched, and
// so do the counts of attempts.
func Ensure(ctx context.Context, p *profiles.Profile, opts kernel.Options) error {
	rules, err := filter.Bans(p)
	if err != nil {
		return err
	}
	inForce, err := kernel.InForce(ctx, rules, opts)
	if err != nil || inForce {
		return err
	}
	return kernel.Apply(ctx, rules, opts)
}

// Keep is Ensure where the profile bans by rate or anybody ever banned by hand, and nothing otherwise: a guest that
// bans nobody does not pay for it with each packet.
func Keep(ctx context.Context, p *profiles.Profile, opts kernel.Options) error {
	if len(p.Bans) == 0 {
		conn, err := dial(opts)
		if err != nil {
			return err
		}
		if there, err := present(conn); err != nil || !there {
			return err
		}
	}
	return Ensure(ctx, p, opts)
}

// List returns who is banned, IPv4 first, in the order of the addresses; nobody where there is no ban table.
func List(ctx context.Context, opts kernel.Options) ([]Ban, error) {
	const attempts = 5 // a dump that another change interrupts is incomplete, and says so with EINTR
	for attempt := 1; ; attempt++ {
		out, err := list(opts)
		if err == nil || attempt == attempts || ctx.Err() != nil || !errors.Is(err, syscall.EINTR) {
			return out, err
		}
	}
}

func list(opts kernel.Options) ([]Ban, error) {
	conn, err := dial(opts)
	if err != nil {
		return nil, err
	}
	if there, err := present(conn); err != nil || !there {
		return nil, err
	}
	var out []Ban
	for _, v6 := range []bool{false, true} {
		elements, err := conn.GetSetElements(set(v6))
		if err != nil {
			return nil, fmt.Errorf("list bans: %w", err)
		}
		for _, e := range elements {
			a, ok := netip.AddrFromSlice(e.Key)
			if !ok {
				return nil, fmt.Errorf("list bans: the kernel has an address of %d bytes", len(e.Key))
			}
			out = append(out, Ban{source(a), e.Expires})
		}
	}
	slices.SortFunc(out, func(a, b Ban) int {
		return cmp.Or(cmp.Compare(a.Source.Addr().BitLen(), b.Source.Addr().BitLen()),
			a.Source.Addr().Compare(b.Source.Addr()))
	})
	return out, nil
}

// Add bans the source an address belongs to, for so long from now, and returns it. One that is banned already is banned
// for the new time. The guest's own addresses, and others that are no host's, are refused with ErrNever, and so are the
// addresses that admin names: SSH would be open to them all the same.
func Add(ctx context.Context, p *profiles.Profile, a netip.Addr, length time.Duration, opts kernel.Options) (
	netip.Prefix, error) {
	a = a.Unmap().WithZone("")
	if why := never(p, a); why != "" {
		return netip.Prefix{}, fmt.Errorf("%v %w: %s", a, ErrNever, why)
	}
	if length = length.Truncate(time.Second); length < time.Second || length > MaxLength {
		return netip.Prefix{}, fmt.Errorf("ban %v: %v is too short or too long; from 1 s to %v", a, length, MaxLength)
	}
	if err := Ensure(ctx, p, opts); err != nil {
		return netip.Prefix{}, err
	}
	conn, err := dial(opts)
	if err != nil {
		return netip.Prefix{}, err
	}
	who := source(a)
	banned := set(who.Addr().Is6())
	old, new := element(who), element(who)
	new.Timeout = length
	// An element that is there keeps its time when it is added again: out and in, in one transaction.
	err = change(conn, func() error {
		return errors.Join(conn.SetAddElements(banned, []nftables.SetElement{old}),
			conn.SetDeleteElements(banned, []nftables.SetElement{old}),
			conn.SetAddElements(banned, []nftables.SetElement{new}))
	})
	if errors.Is(err, syscall.ENFILE) {
		err = ErrFull
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("ban %v: %w", who, err)
	}
	// Flows of the source that skip the rules would skip this one too.
	if err := kernel.EndOffload(ctx, opts); err != nil {
		return who, fmt.Errorf("ban %v: it is banned, but what it had open may go on: %w", who, err)
	}
	return who, nil
}

// Remove ends the ban of the source an address belongs to, and returns it. What it attempted before is forgotten only
// when its time is over.
func Remove(_ context.Context, a netip.Addr, opts kernel.Options) (netip.Prefix, error) {
	who := source(a.Unmap().WithZone(""))
	conn, err := dial(opts)
	if err != nil {
		return who, err
	}
	err = change(conn, func() error {
		return conn.SetDeleteElements(set(who.Addr().Is6()), []nftables.SetElement{element(who)})
	})
	if errors.Is(err, syscall.ENOENT) { // the element, or the whole table
		return who, fmt.Errorf("%v %w", who, ErrNotBanned)
	}
	if err != nil {
		return who, fmt.Errorf("unban %v: %w", who, err)
	}
	return who, nil
}

// change carries out what build adds to a batch.
func change(conn *nftables.Conn, build func() error) error {
	if err := build(); err != nil {
		return err
	}
	return conn.Flush()
}

// never tells why an address must not be banned; empty: it may be.
func never(p *profiles.Profile, a netip.Addr) string {
	if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return "it is no host of its own"
	}
	who := source(a)
	for _, l := range p.Links {
		for _, own := range l.Addresses {
			if who.Contains(own.Addr()) {
				return own.Addr().String() + " is the guest's own, and would be shut out with it"
			}
		}
		for _, g := range l.Gateways {
			if who.Contains(g.Addr) {
				return g.Addr.String() + " is a gateway of the guest, and would be shut out with it"
			}
		}
	}
	for _, from := range p.Admin.Prefixes {
		if from.Overlaps(who) {
			return "admin.from names it"
		}
	}
	return ""
}

// source is what stands for an address in the sets.
func source(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = sourceBits6
	}
	return netip.PrefixFrom(a, bits).Masked()
}

func element(who netip.Prefix) nftables.SetElement {
	return nftables.SetElement{Key: who.Addr().AsSlice()}
}

func table() *nftables.Table {
	return &nftables.Table{Name: filter.BanTable, Family: nftables.TableFamilyINet}
}

func set(v6 bool) *nftables.Set {
	s := &nftables.Set{Table: table(), Name: filter.Banned4, KeyType: nftables.TypeIPAddr, HasTimeout: true}
	if v6 {
		s.Name, s.KeyType = filter.Banned6, nftables.TypeIP6Addr
	}
	return s
}

// present tells whether there is a ban table.
func present(conn *nftables.Conn) (bool, error) {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == filter.BanTable }), nil
}

func dial(opts kernel.Options) (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(opts.NetNS))
	if err != nil {
		return nil, fmt.Errorf("open netlink to nf_tables: %w", err)
	}
	return conn, nil
}
