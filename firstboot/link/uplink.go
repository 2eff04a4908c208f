package link

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/link/dhcp4"
	"rempart/firstboot/link/dhcp6"
	"rempart/firstboot/link/slaac"
	"rempart/profiles"
)

// uplinks are the DHCP clients, one for each link that has one and is there.
type uplinks struct {
	env     *child.Env
	now     func() time.Duration
	changed chan leaseChange
	running map[string]*uplink // by link
	done    sync.WaitGroup

	mu     sync.Mutex // clients ask for the subnets of the others
	static map[string][]netip.Prefix
	leases map[string]dhcp4.Lease
	// adverts are what routers said, by link; see advertised.
	adverts func() map[string]slaac.State
	given6  func() map[string]dhcp6.State // by DHCPv6, by link; see delegations
}

type uplink struct {
	nic     NIC
	cancel  context.CancelFunc
	carrier chan bool // holds the last value not yet read
}

// leaseChange is news from a client; a nil lease is the end of one.
type leaseChange struct {
	link  string
	lease *dhcp4.Lease
}

func newUplinks(env *child.Env) *uplinks {
	u := &uplinks{
		env:     env,
		now:     dhcp4.Now,
		changed: make(chan leaseChange),
		running: map[string]*uplink{},
		static:  map[string][]netip.Prefix{},
		leases:  map[string]dhcp4.Lease{},
		adverts: func() map[string]slaac.State { return nil },
		given6:  func() map[string]dhcp6.State { return nil },
	}
	for _, l := range env.Profile.Links {
		u.static[l.Name] = l.Addresses
		if !l.DHCP {
			continue
		}
		// A lease of the run before this one holds from the first look on, so that it finds nothing to change.
		if k, err := u.load(l.Name); err == nil {
			u.leases[l.Name] = k.Lease
		} else if !errors.Is(err, fs.ErrNotExist) {
			env.Log.Warn("ignored a kept lease", "link", l.Name, "error", err)
		}
	}
	return u
}

// wait ends when all clients have; their context must be done.
func (u *uplinks) wait() { u.done.Wait() }

// current is a copy of the leases by link.
func (u *uplinks) current() map[string]dhcp4.Lease {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := map[string]dhcp4.Lease{}
	for name, l := range u.leases {
		if l.Expires > u.now() {
			out[name] = l
		}
	}
	return out
}

// take notes news from a client.
func (u *uplinks) take(c leaseChange) {
	u.mu.Lock()
	if c.lease == nil {
		delete(u.leases, c.link)
	} else {
		u.leases[c.link] = *c.lease
	}
	u.mu.Unlock()
	if err := u.keep(c); err != nil {
		u.env.Log.Warn("the lease will not be known to the next run", "link", c.link, "error", err)
	}
	u.writeResolv()
}

// inside are the subnets that an answer on the link called name must not touch: those of all other links.
func (u *uplinks) inside(name string) []netip.Prefix {
	var out []netip.Prefix
	for link, list := range u.static {
		if link == name {
			continue
		}
		for _, p := range list {
			if p.Addr().Is4() {
				out = append(out, p.Masked())
			}
		}
	}
	for link, l := range u.current() {
		if link != name {
			out = append(out, l.Address.Masked())
		}
	}
	return out
}

// follow starts and stops clients so that just the links that are there have one, and tells them of their carrier.
func (u *uplinks) follow(ctx context.Context, plan Plan, assigned []Assignment, have []Interface,
	poke chan<- struct{}) {
	present := map[string]bool{}
	for _, a := range assigned {
		l := plan.Links[a.Link]
		at := slices.IndexFunc(have, func(h Interface) bool { return h.Index == a.NIC.Index })
		if !l.DHCP || at < 0 || have[at].Name != l.Name {
			continue
		}
		present[l.Name] = true
		c := u.running[l.Name]
		if c != nil && (c.nic.Index != a.NIC.Index || c.nic.MAC != a.NIC.MAC) {
			c.cancel()
			c = nil
		}
		if c == nil {
			c = u.start(ctx, l, plan.HostName, a.NIC, poke)
			u.running[l.Name] = c
		}
		select { // only the newest value matters
		case <-c.carrier:
		default:
		}
		c.carrier <- have[at].Up && have[at].Running
	}
	for name, c := range u.running {
		if !present[name] {
			c.cancel()
			delete(u.running, name)
		}
	}
}

// restartPause is the wait before a client whose socket failed is started again.
const restartPause = 2 * time.Second

func (u *uplinks) start(ctx context.Context, l Link, host string, nic NIC, poke chan<- struct{}) *uplink {
	ctx, cancel := context.WithCancel(ctx)
	c := &uplink{nic: nic, cancel: cancel, carrier: make(chan bool, 1)}
	name := l.Name
	mac, _ := net.ParseMAC(nic.MAC) // it came from the kernel; the client checks its length
	cfg := dhcp4.Config{
		Index:    nic.Index,
		Name:     name,
		MAC:      mac,
		HostName: host,
		ClientID: l.ClientID,
		Servers:  l.Accept.Servers,
		Carrier:  c.carrier,
		Inside:   func() []netip.Prefix { return u.inside(name) },
		Changed: func(l *dhcp4.Lease) {
			select {
			case u.changed <- leaseChange{name, l}:
			case <-ctx.Done():
			}
		},
		Log: u.env.Log,
	}
	u.done.Go(func() {
		for ctx.Err() == nil {
			if l, ok := u.current()[name]; ok {
				cfg.Restored = &l
			} else {
				cfg.Restored = nil
			}
			if err := dhcp4.Run(ctx, cfg); err != nil {
				u.env.Log.Warn("the DHCP client ended and is started again", "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(restartPause):
			}
			select { // so that the next one is told of its carrier
			case poke <- struct{}{}:
			default:
			}
		}
	})
	return c
}

// kept is a lease in a file. /run forgets it at the next boot, as CLOCK_BOOTTIME does its times.
type kept struct {
	Link  string      `json:"link"`
	Lease dhcp4.Lease `json:"lease"`
}

const maxKept = 64 << 10 // bytes of a lease file

func (u *uplinks) path(name string) string { return filepath.Join(u.env.Root, name) }

func (u *uplinks) leaseFile(link string) string {
	return u.path(filepath.Join(contract.LinkDir, link+".lease"))
}

func (u *uplinks) load(link string) (kept, error) {
	var k kept
	if err := loadKept(u.leaseFile(link), &k); err != nil {
		return k, err
	}
	if k.Link != link {
		return k, fmt.Errorf("%s: it is for link %q", u.leaseFile(link), k.Link)
	}
	return k, k.Lease.Check(u.now())
}

func (u *uplinks) keep(c leaseChange) error {
	if c.lease == nil {
		if err := os.Remove(u.leaseFile(c.link)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return keepFile(u.leaseFile(c.link), kept{c.link, *c.lease})
}

// keepFile and loadKept are for files of this program's own, as JSON.
func keepFile(name string, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return writeWhole(name, b)
}

func loadKept(name string, into any) error {
	b, err := os.ReadFile(name)
	switch {
	case err != nil:
		return err
	case len(b) > maxKept:
		return fmt.Errorf("%s: %d bytes, more than %d", name, len(b), maxKept)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// writeResolv writes what the leases say about name servers, in the order of the links, and whom the guest itself asks:
// these, or its own name service.
func (u *uplinks) writeResolv() {
	learnt := resolv(u.env.Profile, Learnt{u.current(), u.adverts(), u.given6()}, u.now())
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
