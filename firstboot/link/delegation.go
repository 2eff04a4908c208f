package link

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rempart/firstboot/contract"
	"rempart/firstboot/link/dhcp6"
	"rempart/profiles"
)

// delegations are the DHCPv6 clients, one for each link that has one and is there.
type delegations struct {
	*uplinks
	news    chan delegationChange
	running map[string]*listener // by link
	states  map[string]dhcp6.State
}

// delegationChange is news from a client.
type delegationChange struct {
	link  string
	state dhcp6.State
}

func newDelegations(u *uplinks) *delegations {
	d := &delegations{uplinks: u, news: make(chan delegationChange), running: map[string]*listener{},
		states: map[string]dhcp6.State{}}
	for _, l := range u.env.Profile.Links {
		if l.Delegation == nil && !l.DHCP6 {
			continue
		}
		// What the run before this one was given holds from the first look on, so that it finds nothing to change.
		var k keptDelegation
		err := loadKept(d.file(l.Name), &k)
		if err == nil && k.Link != l.Name {
			err = errors.New("it is for link " + k.Link)
		}
		if err == nil {
			err = k.State.Check(u.now())
		}
		if err == nil {
			d.states[l.Name] = k.State
		} else if !errors.Is(err, fs.ErrNotExist) {
			u.env.Log.Warn("ignored a kept DHCPv6 lease", "link", l.Name, "error", err)
		}
	}
	u.given6 = d.current
	u.writeResolv()
	return d
}

// keptDelegation is a state in a file, which /run forgets at the next boot, as CLOCK_BOOTTIME does its times. Servers
// know the link again by its hardware address, and give what they gave before.
type keptDelegation struct {
	Link  string      `json:"link"`
	State dhcp6.State `json:"state"`
}

func (d *delegations) file(link string) string {
	return d.path(filepath.Join(contract.LinkDir, link+".dhcp6"))
}

// current is a copy of the states by link.
func (d *delegations) current() map[string]dhcp6.State {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[string]dhcp6.State, len(d.states))
	for name, s := range d.states {
		out[name] = s
	}
	return out
}

// take notes news from a client. Nothing is taken from a stranger silently: what is new is said once.
func (d *delegations) take(c delegationChange) {
	d.mu.Lock()
	before := d.states[c.link]
	d.states[c.link] = c.state
	d.mu.Unlock()
	now := d.now()
	for _, p := range c.state.Prefixes {
		i := slices.IndexFunc(before.Prefixes, func(o dhcp6.Prefix) bool { return o.Prefix == p.Prefix })
		switch {
		case i < 0:
			d.env.Log.Info("delegated prefix", "link", c.link, "prefix", p.Prefix, "valid",
				(p.Valid - now).Round(time.Second))
		case p.Preferred <= now && before.Prefixes[i].Preferred > now:
			d.env.Log.Info("delegated prefix is replaced", "link", c.link, "prefix", p.Prefix)
		}
	}
	for _, p := range before.Prefixes {
		if !slices.ContainsFunc(c.state.Prefixes, func(o dhcp6.Prefix) bool { return o.Prefix == p.Prefix }) {
			d.env.Log.Info("delegated prefix has ended", "link", c.link, "prefix", p.Prefix)
		}
	}
	if err := keepFile(d.file(c.link), keptDelegation{c.link, c.state}); err != nil {
		d.env.Log.Warn("what was delegated will not be known to the next run", "link", c.link, "error", err)
	}
	d.writeResolv()
}

// others6 are the IPv6 subnets of all other links, and what the profile routes by them.
func (d *delegations) others6(name string, adverts *advertised) []netip.Prefix {
	out := adverts.insideOf(name, name)
	for link, s := range d.current() {
		for _, p := range s.Prefixes {
			if link != name {
				out = append(out, p.Prefix)
			}
		}
	}
	return out
}

// follow starts and stops clients so that just the links that are there have one, and tells them what they send from.
func (d *delegations) follow(ctx context.Context, plan Plan, assigned []Assignment, have []Interface,
	poke chan<- struct{}, adverts *advertised) {
	present := map[string]bool{}
	for _, as := range assigned {
		l := plan.Links[as.Link]
		at := slices.IndexFunc(have, func(h Interface) bool { return h.Index == as.NIC.Index })
		if l.Delegation == nil && !l.DHCP6 || at < 0 || have[at].Name != l.Name {
			continue
		}
		present[l.Name] = true
		c := d.running[l.Name]
		if c != nil && (c.nic.Index != as.NIC.Index || c.nic.MAC != as.NIC.MAC) {
			c.cancel()
			c = nil
		}
		if c == nil {
			c = d.start(ctx, l, as.NIC, poke, adverts)
			d.running[l.Name] = c
		}
		select { // only the newest value matters
		case <-c.ready:
		default:
		}
		c.ready <- speaker(have[at])
	}
	for name, c := range d.running {
		if !present[name] {
			c.cancel()
			delete(d.running, name)
		}
	}
}

func (d *delegations) start(ctx context.Context, l Link, nic NIC, poke chan<- struct{}, adverts *advertised) *listener {
	ctx, cancel := context.WithCancel(ctx)
	c := &listener{nic: nic, cancel: cancel, ready: make(chan netip.Addr, 1)}
	mac, _ := net.ParseMAC(nic.MAC) // it came from the kernel; the client checks its length
	cfg := dhcp6.Config{
		Index:   nic.Index,
		Name:    l.Name,
		MAC:     mac,
		Prefix:  l.Delegation != nil,
		Address: l.DHCP6,
		Ready:   c.ready,
		Inside:  func() []netip.Prefix { return d.others6(l.Name, adverts) },
		Changed: func(s dhcp6.State) {
			select {
			case d.news <- delegationChange{l.Name, s}:
			case <-ctx.Done():
			}
		},
		Log: d.env.Log,
	}
	if l.Delegation != nil {
		cfg.Length = l.Delegation.Length
	}
	d.done.Go(func() {
		for ctx.Err() == nil {
			cfg.Restored = nil
			if s, ok := d.current()[l.Name]; ok {
				cfg.Restored = &s
			}
			if err := dhcp6.Run(ctx, cfg); err != nil {
				d.env.Log.Warn("the DHCPv6 client ended and is started again", "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(restartPause):
			}
			select { // so that the next one is told of its address
			case poke <- struct{}{}:
			default:
			}
		}
	})
	return c
}

// metricUnused is behind whatever leads somewhere.
const metricUnused = 1 << 24

// delegated adds to links inside their addresses in what was delegated. They carry its lifetimes, so that they go even
// when this program is dead; those of a prefix that was replaced are deprecated.
func (w *Interface) delegated(wanted []profiles.Delegated, s dhcp6.State, now time.Duration) {
	for _, p := range s.Prefixes {
		for _, d := range wanted {
			if a, ok := d.Of(p.Prefix); ok && p.Valid > now {
				w.Addresses = append(w.Addresses, Address{Prefix: a, Valid: p.Valid - now,
					Preferred: max(p.Preferred-now, 0)})
			}
		}
	}
}

// given6 adds the addresses that DHCPv6 gave a link itself. Which subnet they are in routers say.
func (w *Interface) given6(s dhcp6.State, now time.Duration) {
	for _, a := range s.Addresses {
		p := netip.PrefixFrom(a.Addr, a.Addr.BitLen())
		same := func(o Address) bool { return o.Prefix.Addr() == a.Addr }
		if a.Valid > now && !slices.ContainsFunc(w.Addresses, same) {
			w.Addresses = append(w.Addresses, Address{Prefix: p, Valid: a.Valid - now, Preferred: max(a.Preferred-now, 0)})
		}
	}
}

// unused are routes to nowhere for all that was delegated, behind those of the subnets in use: what else is sent there
// must not go back to where the prefix came from, and around for ever (RFC 7084, WPD-5).
func unused(plan Plan, assigned []Assignment, given map[string]dhcp6.State, now time.Duration) (out []Route) {
	for _, a := range assigned {
		l := plan.Links[a.Link]
		s, ok := given[l.Name]
		if l.Delegation == nil || !ok || s.MAC != a.NIC.MAC {
			continue
		}
		for _, p := range s.Prefixes {
			if p.Valid > now {
				out = append(out, Route{Dst: p.Prefix, Dead: profiles.Unreachable, Metric: metricUnused,
					Protocol: ProtocolDHCP})
			}
		}
	}
	return out
}

// delegationFault says what links lack that were to have addresses in a delegated prefix; empty: nothing. It is no
// fault of the guest, which serves IPv4 and what it has of its own meanwhile.
func delegationFault(plan Plan, given map[string]dhcp6.State, now time.Duration) string {
	from := slices.IndexFunc(plan.Links, func(l Link) bool { return l.Delegation != nil })
	if from < 0 {
		return ""
	}
	prefixes := slices.DeleteFunc(slices.Clone(given[plan.Links[from].Name].Prefixes), func(p dhcp6.Prefix) bool {
		return p.Preferred <= now
	})
	if len(prefixes) == 0 {
		return "no prefix is delegated by link " + plan.Links[from].Name
	}
	var lacking []string
	for _, l := range plan.Links {
		for _, d := range l.Delegated {
			if !slices.ContainsFunc(prefixes, func(p dhcp6.Prefix) bool { _, ok := d.Of(p.Prefix); return ok }) {
				lacking = append(lacking, l.Name)
			}
		}
	}
	if len(lacking) == 0 {
		return ""
	}
	return "the delegated prefix " + prefixes[0].Prefix.String() + " has no such subnet as link " +
		strings.Join(slices.Compact(lacking), " and ") + " is to have"
}
