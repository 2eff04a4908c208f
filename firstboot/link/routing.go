package link

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rempart/profiles"
)

// Routing is what of routing belongs to no interface.
type Routing struct {
	Rules []Rule
	Dead  []Route // they lead nowhere
}

// Rule sends packets to a routing table, ip-rule(8).
type Rule struct {
	Priority uint32
	V6       bool
	From, To netip.Prefix // zero: any
	Link     string       // they came in by it; "lo": this machine's own; empty: any
	Table    uint32
	// Strange: it has conditions this program never sets. Never wanted; only observed.
	Strange bool
}

// ownLink is what the kernel calls the way in of packets it made itself.
const ownLink = "lo"

func (r Rule) String() string {
	s := fmt.Sprintf("rule %d", r.Priority)
	if r.V6 {
		s += " IPv6"
	}
	if r.From.IsValid() {
		s += " from " + r.From.String()
	}
	if r.To.IsValid() {
		s += " to " + r.To.String()
	}
	if r.Link != "" {
		s += " by " + r.Link
	}
	return fmt.Sprintf("%s table %d", s, r.Table)
}

// kernelRules are there from the start (fib_default_rules_init and fib6_rules_net_init). Without them nothing is
// routed, so they are put back like any other.
func kernelRules() []Rule {
	const main, last = 32766, 32767
	return []Rule{
		{Priority: 0, Table: unix.RT_TABLE_LOCAL}, {Priority: 0, V6: true, Table: unix.RT_TABLE_LOCAL},
		{Priority: main, Table: unix.RT_TABLE_MAIN}, {Priority: main, V6: true, Table: unix.RT_TABLE_MAIN},
		{Priority: last, Table: unix.RT_TABLE_DEFAULT},
	}
}

// routing is the part of a profile that belongs to no interface. A rule that names no address is one for each family.
func routing(p *profiles.Profile) Routing {
	out := Routing{Rules: kernelRules()}
	for _, u := range p.RoutingRules {
		rule := Rule{Priority: u.Priority, From: u.From, To: u.To, Link: u.Link, Table: u.Table}
		if u.Link == profiles.Self {
			rule.Link = ownLink
		}
		for _, v6 := range []bool{false, true} {
			rule.V6 = v6
			if (!u.From.IsValid() || u.From.Addr().Is6() == v6) && (!u.To.IsValid() || u.To.Addr().Is6() == v6) {
				out.Rules = append(out.Rules, rule)
			}
		}
	}
	for _, r := range p.Routes {
		out.Dead = append(out.Dead, staticRoute(r))
	}
	return out
}

// metricLost is behind every other route there can be (rtm priorities are 32 bits).
const metricLost = math.MaxUint32

// withoutLink are routes to nowhere for what the profile says is reached by a link, behind those by the link itself:
// while it is not there, pulled or made anew, packets for it must not leave by the default route. The policy would stop
// new connections, as their destination belongs to the link that has gone; but not those that were let through to it,
// nor what the guest itself sends. With one link there is no other to leave by. Where the profile has a route of its
// own in the same place, dead ones among them, that stands.
func withoutLink(links []Link, dead []Route) (out []Route) {
	if len(links) < 2 {
		return nil
	}
	taken := map[slot]bool{}
	for _, r := range dead {
		taken[r.slot()] = true
	}
	for _, l := range links {
		for _, r := range l.Routes {
			taken[r.slot()] = true
		}
	}
	lost := func(p netip.Prefix) {
		r := Route{Dst: p.Masked(), Dead: profiles.Unreachable, Metric: metricLost, Protocol: ProtocolStatic}
		if !taken[r.slot()] {
			taken[r.slot()] = true
			out = append(out, r)
		}
	}
	for _, l := range links {
		for _, a := range l.Addresses {
			if !a.IsSingleIP() && !a.Addr().IsLinkLocalUnicast() {
				lost(a)
			}
		}
		for _, r := range l.Routes {
			if r.Table == 0 && r.Dst.Bits() > 0 {
				lost(r.Dst)
			}
		}
	}
	return out
}

// staticRoute is a route of the profile.
func staticRoute(r profiles.Route) Route {
	return Route{Dst: r.To, Table: r.Table, Dead: r.Type, Gateway: r.Via, OnLink: r.OnLink, Source: r.Source,
		Metric: r.Metric, Protocol: ProtocolStatic}
}

// policyRouted tells whether packets may take another way than the main table's, so that what is the right way in
// cannot be told from it (RFC 3704, 2.4: loose reverse path forwarding).
func policyRouted(p *profiles.Profile) bool {
	return len(p.RoutingRules) > 0 || slices.ContainsFunc(p.Links, func(l profiles.Link) bool {
		return slices.ContainsFunc(l.Routes, func(r profiles.Route) bool { return r.Table != 0 })
	})
}

// RoutingChanges lists what makes have into want: what comes before changes of links, and what comes after. It is pure,
// and empty for a state and itself. Routes to nowhere come first and go last: a link has its subnet of a larger prefix
// before another has, and what is for the other must not leave by the default route meanwhile. So are rules there
// before any link is up, which the kernel takes before there are the links they name: what a rule sends to a tunnel,
// or to nowhere while there is no tunnel, must not leave by the main table's default route meanwhile. And they are
// added before others are removed, so that no packet falls between them to the main table.
func RoutingChanges(have, want Routing) (before, after []Change) {
	const nobody = "routing"
	for _, r := range want.Dead {
		if !slices.Contains(have.Dead, r) {
			before = append(before, Change{Kind: AddRoute, Link: nobody, Route: r})
		}
	}
	for _, r := range want.Rules {
		if !slices.Contains(have.Rules, r) {
			before = append(before, Change{Kind: AddRule, Link: nobody, Rule: r})
		}
	}
	for _, r := range have.Rules {
		if !slices.Contains(want.Rules, r) {
			after = append(after, Change{Kind: DeleteRule, Link: nobody, Rule: r})
		}
	}
	for _, r := range have.Dead {
		replaced := slices.ContainsFunc(before, func(c Change) bool {
			return c.Kind == AddRoute && c.Route.slot() == r.slot()
		})
		if !replaced && r.Protocol != ProtocolKernel && !slices.Contains(want.Dead, r) {
			after = append(after, Change{Kind: DeleteRoute, Link: nobody, Route: r})
		}
	}
	return before, after
}

// routeTypes are the kernel's numbers, rtnetlink(7).
var routeTypes = map[profiles.RouteType]int{
	"": unix.RTN_UNICAST, profiles.Blackhole: unix.RTN_BLACKHOLE, profiles.Unreachable: unix.RTN_UNREACHABLE,
	profiles.Prohibit: unix.RTN_PROHIBIT,
}

// lookRouting reads rules and the routes that lead nowhere.
func (k *kernel) lookRouting() (Routing, error) {
	var out Routing
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := dump(func() ([]netlink.Rule, error) { return k.handle.RuleList(family) })
		if err != nil {
			return out, fmt.Errorf("listing routing rules: %w", err)
		}
		for _, r := range rules {
			out.Rules = append(out.Rules, ruleOf(r, family == netlink.FAMILY_V6))
		}
		routes, err := dump(func() ([]netlink.Route, error) {
			return k.handle.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return out, fmt.Errorf("listing routes: %w", err)
		}
		for _, r := range routes {
			for dead, number := range routeTypes {
				if dead != "" && r.Type == number {
					route := routeOf(r, family)
					route.Dead = dead
					out.Dead = append(out.Dead, route)
				}
			}
		}
	}
	return out, nil
}

func ruleOf(r netlink.Rule, v6 bool) Rule {
	out := Rule{V6: v6, Link: r.IifName, Table: uint32(r.Table), Priority: uint32(max(r.Priority, 0))}
	out.From, _ = prefixOf(r.Src)
	out.To, _ = prefixOf(r.Dst)
	plain := netlink.NewRule()
	out.Strange = r.Mark != plain.Mark || r.Tos != plain.Tos || r.OifName != "" || r.Invert || r.IPProto != 0 ||
		r.Dport != nil || r.Sport != nil || r.UIDRange != nil || r.TunID != 0 ||
		r.SuppressPrefixlen != plain.SuppressPrefixlen ||
		r.SuppressIfgroup != plain.SuppressIfgroup || r.Goto != plain.Goto || r.Table == unix.RT_TABLE_UNSPEC
	return out
}

// netlinkRule is a rule as the kernel is told of it. One with conditions of somebody else's is named by its place
// alone: should that hit one of ours instead, ours comes back behind it and the next look finds the other.
func netlinkRule(r Rule) *netlink.Rule {
	out := netlink.NewRule()
	out.Priority, out.Family = int(min(r.Priority, math.MaxInt32)), netlink.FAMILY_V4
	if r.V6 {
		out.Family = netlink.FAMILY_V6
	}
	if r.Strange {
		return out
	}
	if r.From.IsValid() {
		out.Src = ipNet(r.From)
	}
	if r.To.IsValid() {
		out.Dst = ipNet(r.To)
	}
	out.IifName, out.Table = r.Link, int(r.Table)
	return out
}

// newRule says in addition who made it; the kernel compares that when a rule is removed, and it may be another's.
func newRule(r Rule) *netlink.Rule {
	out := netlinkRule(r)
	if out.Protocol = uint8(ProtocolStatic); slices.Contains(kernelRules(), r) {
		out.Protocol = uint8(ProtocolKernel)
	}
	return out
}
