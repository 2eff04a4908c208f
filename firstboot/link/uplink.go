package link

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"rempart/firstboot/boottime"
	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/dhcp/downstream"
	"rempart/firstboot/link/dhcp4"
	"rempart/firstboot/link/dhcp6"
	"rempart/firstboot/link/slaac"
	"rempart/profiles"
)

// uplinks are those who learn of the networks that links are in: clients of DHCP, of router advertisements and of
// DHCPv6.
type uplinks struct {
	env  *child.Env
	plan Plan
	now  func() time.Duration
	news chan func() // what clients learnt; it counts once called
	done sync.WaitGroup

	leases  *learner[dhcp4.Lease, bool]       // told whether there is a carrier
	adverts *learner[slaac.State, netip.Addr] // told of the address to send from
	given6  *learner[dhcp6.State, netip.Addr] // likewise
	ways    []downstream.Way                  // to what is delegated behind
	stale   bool                              // there may be others
	said    string                            // what is wrong with them
	subnets map[string]netip.Prefix           // of links inside, by their last leases
}

func newUplinks(env *child.Env, plan Plan) *uplinks {
	u := &uplinks{env: env, plan: plan, now: boottime.Now, news: make(chan func()), subnets: map[string]netip.Prefix{}}
	u.leases = newLearner(u, u.dhcp4())
	u.adverts = newLearner(u, u.slaac())
	u.given6 = newLearner(u, u.dhcp6())
	u.writeResolv()
	return u
}

// lookDownstream reads where what is delegated behind leads, when that may be news. What cannot be read or believed is
// left out, and said once.
func (u *uplinks) lookDownstream() {
	if !u.stale {
		return
	}
	u.stale = false
	ways, err := downstream.Read(u.env.Root, u.env.Profile)
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != u.said && said != "" {
		u.env.Log.Warn("not everything that was delegated is routed", "error", err)
	}
	u.ways, u.said = ways, said
}

// wait ends when all clients have; their context must be done.
func (u *uplinks) wait() { u.done.Wait() }

// learnt is what all clients know now.
func (u *uplinks) learnt() Learnt {
	return Learnt{u.current4(), u.adverts.current(), u.given6.current(), u.ways}
}

// follow starts and stops clients so that just the links that are there have one.
func (u *uplinks) follow(ctx context.Context, assigned []Assignment, have []Interface, poke chan<- struct{}) {
	u.leases.follow(ctx, assigned, have, poke)
	u.adverts.follow(ctx, assigned, have, poke)
	u.given6.follow(ctx, assigned, have, poke)
}

func (u *uplinks) path(name string) string { return filepath.Join(u.env.Root, name) }

// dhcp4 is the protocol by which links get IPv4 addresses.
func (u *uplinks) dhcp4() protocol[dhcp4.Lease, bool] {
	return protocol[dhcp4.Lease, bool]{
		name: "DHCP", what: "lease", suffix: ".lease",
		asks:  func(l Link) bool { return l.DHCP },
		check: dhcp4.Lease.Check,
		tell:  func(h Interface) bool { return h.Up && h.Running },
		run: func(ctx context.Context, l Link, on wire[bool], restored *dhcp4.Lease, changed func(*dhcp4.Lease)) error {
			if restored != nil && restored.Expires <= u.now() {
				restored = nil
			}
			return dhcp4.Run(ctx, dhcp4.Config{
				Index:    on.index,
				Name:     l.Name,
				MAC:      on.mac,
				HostName: u.plan.HostName,
				ClientID: l.ClientID,
				Servers:  l.Accept.Servers,
				Carrier:  on.told,
				Restored: restored,
				Inside:   func() []netip.Prefix { return u.inside(l.Name) },
				Changed:  changed,
				Log:      u.env.Log,
			})
		},
		take: func(string, dhcp4.Lease, dhcp4.Lease) { u.writeResolv() },
	}
}

// current4 are the leases that hold, by link.
func (u *uplinks) current4() map[string]dhcp4.Lease {
	all := u.leases.current()
	maps.DeleteFunc(all, func(_ string, l dhcp4.Lease) bool { return l.Expires <= u.now() })
	return all
}

// inside are the subnets that an answer on the link called name must not touch: those of all other links,
// and what the profile routes by them.
func (u *uplinks) inside(name string) []netip.Prefix {
	var out []netip.Prefix
	for _, l := range u.env.Profile.Links {
		if l.Name == name {
			continue
		}
		for _, p := range l.Addresses {
			if p.Addr().Is4() {
				out = append(out, p.Masked())
			}
		}
		for _, r := range l.Routes {
			if r.To.Bits() > 0 && r.To.Addr().Is4() {
				out = append(out, r.To)
			}
		}
	}
	for link, l := range u.current4() {
		if link != name {
			out = append(out, l.Address.Masked())
		}
	}
	return out
}

// lost are routes to nowhere for the subnets that links inside have by DHCP, as withoutLink makes for those the profile
// gives them; also when a lease has ended, until there is another. A link whose server may say where the default route
// leads is no link inside: what is next to it may be reached by another uplink too.
func (u *uplinks) lost(dead []Route) (out []Route) {
	leases := u.leases.current()
	for _, l := range u.env.Profile.Links {
		if !l.DHCP || !l.Accept.NoDefault || len(u.env.Profile.Links) < 2 {
			continue
		}
		if a := leases[l.Name].Address; a.IsValid() {
			u.subnets[l.Name] = a.Masked()
		}
		r := Route{Dst: u.subnets[l.Name], Dead: profiles.Unreachable, Metric: metricLost, Protocol: ProtocolStatic}
		same := func(d Route) bool { return d.slot() == r.slot() }
		if r.Dst.IsValid() && !r.Dst.IsSingleIP() && !slices.ContainsFunc(slices.Concat(dead, out), same) {
			out = append(out, r)
		}
	}
	return out
}

// writeResolv writes what the leases say about name servers, in the order of the links, and whom the guest itself asks:
// these, or its own name service.
func (u *uplinks) writeResolv() {
	learnt := resolv(u.env.Profile, u.learnt(), u.now())
	own := learnt
	if d := u.env.Profile.DNS; d != nil && d.Self {
		own = []byte("# Written by rempart: the guest's own name service.\nnameserver 127.0.0.1\n")
	}
	for _, f := range []struct {
		path string
		text []byte
	}{{contract.LearntPath, learnt}, {contract.ResolvPath, own}} {
		file := u.path(f.path)
		if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, f.text) {
			continue
		}
		if err := writeWhole(file, f.text); err != nil {
			u.env.Log.Warn("name servers learnt are not written", "error", err)
		}
	}
}

const maxNameservers = 3 // resolv.conf(5): MAXNS

// resolv is a resolv.conf(5) with the name servers of the leases and advertisements. It is pure.
func resolv(p *profiles.Profile, learnt Learnt, now time.Duration) []byte {
	text := []byte("# Written by rempart: name servers learnt by DHCP and router advertisements.\n")
	var servers []netip.Addr
	search := ""
	add := func(a netip.Addr) {
		if len(servers) < maxNameservers && !slices.Contains(servers, a) {
			servers = append(servers, a)
		}
	}
	for _, l := range p.Links {
		if l.Accept.NoDNS {
			continue
		}
		lease := learnt.Leases[l.Name]
		search = cmp.Or(search, lease.Domain)
		for _, a := range lease.DNS {
			add(a)
		}
		for _, d := range learnt.Adverts[l.Name].Search {
			if d.Until > now {
				search = cmp.Or(search, d.Name)
			}
		}
		for _, d := range learnt.Adverts[l.Name].DNS {
			if d.Addr.IsLinkLocalUnicast() {
				d.Addr = d.Addr.WithZone(l.Name)
			}
			if d.Until > now {
				add(d.Addr)
			}
		}
		given := learnt.Given6[l.Name].Current(now)
		if len(given.Prefixes)+len(given.Addresses) > 0 {
			search = cmp.Or(search, given.Search)
			for _, a := range given.DNS {
				add(a)
			}
		}
	}
	if search != "" {
		text = fmt.Appendf(text, "search %s\n", search)
	}
	for _, a := range servers {
		text = fmt.Appendf(text, "nameserver %s\n", a)
	}
	return text
}

// writeWhole puts a file in place at once: readers see the old one or the new one.
func writeWhole(name string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}
