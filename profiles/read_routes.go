//go:build !guest

package profiles

import (
	"math"
	"net/netip"

	"gopkg.in/yaml.v3"
)

// routeDraft is a route as written.
type routeDraft struct {
	route      Route
	everything bool // to: default
}

// routeFields are the keys of a route by a link.
func routeFields() table[routeDraft] {
	return append(table[routeDraft]{
		{name: "via", doc: "Address of the next router. Without it: the prefix is directly on the link.",
			kind: textLike(addressPattern), decode: readRouteVia},
		{name: "onlink", doc: "true: the router answers on this link although its address is in none of the link's subnets.",
			kind: yesOrNo(), decode: func(r *reader, v value, d *routeDraft) { d.route.OnLink, _ = r.boolean(v) }},
		{name: "source", doc: "Address of the guest that its own packets by this route come from.",
			kind: textLike(addressPattern), decode: readRouteSource},
	}, anyRouteFields()...)
}

// deadRouteFields are the keys of a route that leads nowhere.
func deadRouteFields() table[routeDraft] {
	return append(table[routeDraft]{
		{name: "type", doc: "What becomes of the packets: blackhole (silence), unreachable or prohibit (an ICMP error).",
			kind: oneWordOf(string(Blackhole), string(Unreachable), string(Prohibit)), required: true, decode: readRouteType},
	}, anyRouteFields()...)
}

func anyRouteFields() table[routeDraft] {
	return table[routeDraft]{
		{name: "to", doc: "Where to: a prefix such as 10.5.0.0/16, an address, or default.",
			kind:     eitherOf(oneWordOf("default"), textLike(prefixPattern)),
			required: true, decode: readRouteTo},
		{name: "metric", doc: "Of several routes to one prefix the lowest metric wins. Default 100.",
			kind: numberIn(1, math.MaxUint32), decode: readMetric},
		{name: "table", doc: "Routing table, 1 to 252, that `rules` send packets to. Default: the main table.",
			kind: numberIn(1, maxTable), decode: func(r *reader, v value, d *routeDraft) { d.route.Table = readTable(r, v) }},
	}
}

// routingRuleFields are the keys of a routing rule.
func routingRuleFields() table[RoutingRule] {
	return table[RoutingRule]{
		{name: "from", doc: "Packets from this prefix or address.", kind: textLike(prefixPattern),
			decode: func(r *reader, v value, u *RoutingRule) {
				u.From = r.network(v)
			}},
		{name: "to", doc: "Packets to this prefix or address.", kind: textLike(prefixPattern),
			decode: func(r *reader, v value, u *RoutingRule) {
				u.To = r.network(v)
			}},
		{name: "link", doc: "Packets that came in by this link; self: the guest's own.", kind: textLike(linkPattern),
			decode: func(r *reader, v value, u *RoutingRule) { u.Link, _ = r.word(v, "the name of a link, or self") }},
		{name: "table", doc: "The routing table they are looked up in, 1 to 252. What it has no route for goes on to the " +
			"next" +
			" rule, and in the end to the main table.",
			kind: numberIn(1, maxTable), required: true,
			decode: func(r *reader, v value, u *RoutingRule) { u.Table = readTable(r, v) }},
		{name: "priority", doc: "Rules are asked by rising priority. Default: 1000, 1001, ... in the order of the file.",
			kind: numberIn(1, maxPriority), decode: func(r *reader, v value, u *RoutingRule) {
				n, _ := r.integer(v, 1, maxPriority, "")
				u.Priority = uint32(n)
			}},
	}
}

func readTable(r *reader, v value) uint32 {
	n, _ := r.integer(v, 1, maxTable, "")
	return uint32(n)
}

func readMetric(r *reader, v value, d *routeDraft) {
	n, _ := r.integer(v, 1, math.MaxUint32, "")
	d.route.Metric = uint32(n)
}

func readRouteTo(r *reader, v value, d *routeDraft) {
	if v.node.Kind == yaml.ScalarNode && v.node.Value == "default" {
		d.everything = true
		return
	}
	d.route.To = r.network(v)
}

// network reads a prefix or address.
func (r *reader) network(v value) netip.Prefix {
	text, ok := r.dotted(v, "an address or prefix such as 192.168.0.0/24")
	if !ok {
		return netip.Prefix{}
	}
	p, problem, hint := parsePrefix(text)
	if problem != "" {
		r.rejectAt(v.pos(), hint, "%s: %s", v.name, problem)
	}
	return p
}

func (r *reader) plainAddress(v value) netip.Addr {
	text, ok := r.dotted(v, "an IPv4 or IPv6 address")
	if !ok {
		return netip.Addr{}
	}
	a, problem, hint := parseAddress(text)
	if problem != "" {
		r.rejectAt(v.pos(), hint, "%s: %s", v.name, problem)
	}
	return a
}

func readRouteVia(r *reader, v value, d *routeDraft)    { d.route.Via = r.plainAddress(v) }
func readRouteSource(r *reader, v value, d *routeDraft) { d.route.Source = r.plainAddress(v) }

func readRouteType(r *reader, v value, d *routeDraft) {
	const what = "blackhole, unreachable or prohibit"
	text, ok := r.word(v, what)
	switch t := RouteType(text); {
	case !ok:
	case t == Blackhole || t == Unreachable || t == Prohibit:
		d.route.Type = t
	default:
		r.expected(v, what, nearest(text, []string{string(Blackhole), string(Unreachable), string(Prohibit)}))
	}
}

// routes reads a list of routes; what a route misses is told by the table.
func (r *reader) routes(v value, fields table[routeDraft]) []Route {
	var all []Route
	for _, item := range r.items(v, "a route such as {to: 10.5.0.0/16, via: 192.168.0.2}, or a list", maxRoutes) {
		d := routeDraft{route: Route{Metric: defaultMetric, At: item.pos()}}
		if len(fields.read(r, item, &d)) > 0 {
			continue
		}
		if d.everything {
			switch {
			case d.route.Via.IsValid():
				d.route.To = netip.PrefixFrom(unspecifiedLike(d.route.Via), 0)
			default:
				r.rejectAt(item.pos(), "write to: 0.0.0.0/0 or to: \"::/0\"", "%s: default is of no address family without via",
					item.name)
				continue
			}
		}
		all = append(all, d.route)
	}
	return all
}

func readLinkRoutes(r *reader, v value, l *Link) {
	l.Routes = append(l.Routes, r.routes(v, routeFields())...)
}
func readDeadRoutes(r *reader, v value, p *Profile) {
	p.Routes = append(p.Routes, r.routes(v, deadRouteFields())...)
}

func readRoutingRules(r *reader, v value, p *Profile) {
	for i, item := range r.items(v, "a rule such as {from: 10.1.0.0/16, table: 100}, or a list", maxRules) {
		u := RoutingRule{Priority: firstPriority + uint32(i), At: item.pos()}
		if len(routingRuleFields().read(r, item, &u)) == 0 {
			p.RoutingRules = append(p.RoutingRules, u)
		}
	}
}
