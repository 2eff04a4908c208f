package link

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"rempart/firstboot/dhcp/downstream"
	"rempart/firstboot/link/dhcp6"
	"rempart/profiles"
)

// dhcp6 is the protocol by which links get IPv6 addresses and prefixes for the links inside. Servers know a link again
// by its hardware address, and give what they gave before.
func (u *uplinks) dhcp6() protocol[dhcp6.State, netip.Addr] {
	return protocol[dhcp6.State, netip.Addr]{
		name: "DHCPv6", what: "DHCPv6 lease", suffix: ".dhcp6",
		asks:  func(l Link) bool { return l.Delegation != nil || l.DHCP6 },
		check: dhcp6.State.Check,
		tell:  speaker,
		run: func(ctx context.Context, l Link, on wire[netip.Addr], restored *dhcp6.State,
			changed func(*dhcp6.State)) error {
			cfg := dhcp6.Config{
				Index:    on.index,
				Name:     l.Name,
				MAC:      on.mac,
				Prefix:   l.Delegation != nil,
				Address:  l.DHCP6,
				Ready:    on.told,
				Restored: restored,
				Inside:   func() []netip.Prefix { return u.others6(l.Name) },
				Changed:  func(s dhcp6.State) { changed(&s) },
				Log:      u.env.Log,
			}
			if l.Delegation != nil {
				cfg.Length = l.Delegation.Length
			}
			return dhcp6.Run(ctx, cfg)
		},
		take: u.delegated,
	}
}

// delegated says what is new: nothing is taken from a stranger silently.
func (u *uplinks) delegated(link string, before, after dhcp6.State) {
	now := u.now()
	for _, p := range after.Prefixes {
		i := slices.IndexFunc(before.Prefixes, func(o dhcp6.Prefix) bool { return o.Prefix == p.Prefix })
		switch {
		case i < 0:
			u.env.Log.Info("delegated prefix", "link", link, "prefix", p.Prefix, "valid", (p.Valid - now).Round(time.Second))
		case p.Preferred <= now && before.Prefixes[i].Preferred > now:
			u.env.Log.Info("delegated prefix is replaced", "link", link, "prefix", p.Prefix)
		}
	}
	for _, p := range before.Prefixes {
		if !slices.ContainsFunc(after.Prefixes, func(o dhcp6.Prefix) bool { return o.Prefix == p.Prefix }) {
			u.env.Log.Info("delegated prefix has ended", "link", link, "prefix", p.Prefix)
		}
	}
	u.writeResolv()
}

// others6 are the IPv6 subnets of all other links, and what the profile routes by them.
func (u *uplinks) others6(name string) []netip.Prefix {
	out := u.inside6(name, name)
	for link, s := range u.given6.current() {
		for _, p := range s.Prefixes {
			if link != name {
				out = append(out, p.Prefix)
			}
		}
	}
	return out
}

// metricDownstream is that of routes to what is delegated to routers behind. There are no others to the same.
const metricDownstream = 128

// downstream adds to a link inside the routes to what routers on it were delegated: in each prefix there is, for as
// long as it is. What they were delegated of the guest's own is the same in all of them.
func (w *Interface) downstream(ways []downstream.Way, s dhcp6.State, now time.Duration) {
	for _, way := range ways {
		if way.Link != w.Name || way.Until <= now {
			continue
		}
		lead := func(p netip.Prefix, ok bool) {
			if ok {
				w.Routes = append(w.Routes, Route{Dst: p, Gateway: way.Via, Metric: metricDownstream, Protocol: ProtocolDHCP})
			}
		}
		if !way.Block.Delegated {
			lead(way.Block.Prefix, true)
			continue
		}
		for _, p := range s.Prefixes {
			if p.Valid > now {
				lead(way.Block.In(p.Prefix))
			}
		}
	}
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

// unused are routes to nowhere for all that was delegated, to the guest and by it, behind those of the subnets in use:
// what else is sent there must not go back to where the prefix came from, and around for ever (RFC 7084, WPD-5).
func unused(plan Plan, assigned []Assignment, given map[string]dhcp6.State, now time.Duration) (out []Route) {
	for _, a := range assigned {
		l := plan.Links[a.Link]
		if l.Downstream.IsValid() {
			out = append(out, Route{Dst: l.Downstream, Dead: profiles.Unreachable, Metric: metricUnused,
				Protocol: ProtocolStatic})
		}
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
