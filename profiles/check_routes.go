package profiles

import (
	"fmt"
	"net/netip"
)

// Bounds of routes.
const (
	maxRoutes     = 1024 // of one list
	maxTable      = 252  // 253 to 255 are the kernel's own, linux/rtnetlink.h: RT_TABLE_DEFAULT, _MAIN, _LOCAL
	maxPriority   = 32765
	firstPriority = 1000
	defaultMetric = 100 // the kernel turns an IPv6 metric of 0 into 1024: always explicit
)

// unspecifiedLike is the unspecified address of a's family.
func unspecifiedLike(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// routes checks each route, and that no two ask for the same place in a table.
func (v *validator) routes() {
	v.firstRoutes = map[routeSlot]Pos{}
	n := len(v.p.Routes)
	for i := range v.p.Links {
		l := &v.p.Links[i]
		n += len(l.Routes)
		for _, route := range l.Routes {
			name := "links." + clip(l.Name) + ".routes"
			if v.route(route, name) {
				v.linkRoute(l, route, name)
			}
		}
	}
	for _, route := range v.p.Routes {
		if !v.route(route, "routes") {
			continue
		}
		switch route.Type {
		case Blackhole, Unreachable, Prohibit:
		default:
			v.reject(route.At, "", "routes: expected blackhole, unreachable or prohibit, found %s", quote(string(route.Type)))
		}
		if route.Via.IsValid() || route.OnLink || route.Source.IsValid() {
			v.reject(route.At, "", "routes: a route that leads nowhere has no via, onlink or source")
		}
	}
	if n > maxRoutes {
		v.reject(Pos{}, "", "routes: %d of them, expected at most %d", n, maxRoutes)
	}
}

// routeSlot is what the kernel allows one route for.
type routeSlot struct {
	to            netip.Prefix
	table, metric uint32
}

// route checks what all routes have.
func (v *validator) route(route Route, name string) bool {
	to := route.To
	switch {
	case !to.IsValid() || to.Addr().Zone() != "" || to.Addr().Is4In6() || to.Masked() != to:
		v.reject(route.At, "", "%s: %s is no prefix", name, to)
		return false
	case to.Addr().IsMulticast() || to.Addr().IsLoopback() || to.Addr().Is6() && to.Addr().IsLinkLocalUnicast():
		v.reject(route.At, "", "%s: %s is not routed", name, to)
		return false
	case route.Table > maxTable:
		v.reject(route.At, "", "%s: table %d, expected 1 to %d", name, route.Table, maxTable)
		return false
	case route.Metric == 0:
		v.reject(route.At, "", "%s: metric 0, expected 1 or more", name)
		return false
	}
	slot := routeSlot{to, route.Table, route.Metric}
	if first, twice := v.firstRoutes[slot]; twice {
		v.reject(route.At, "give one of them another metric", "%s: a second route to %s with metric %d, first at %s",
			name, to, route.Metric, first)
		return false
	}
	v.firstRoutes[slot] = route.At
	return true
}

func (v *validator) linkRoute(l *Link, route Route, name string) {
	if route.Type != "" {
		v.reject(route.At, "write it under the profile's own routes", "%s: type %s", name, quote(string(route.Type)))
		return
	}
	if route.To.Bits() == 0 && route.Table == 0 {
		v.reject(route.At, "write gateway, or name a table", "%s: a default route of the main table is a gateway", name)
		return
	}
	for _, own := range l.Addresses {
		if own.Masked() == route.To && route.Table == 0 {
			v.reject(route.At, "remove it, an address brings the route to its subnet", "%s: %s is the link's own subnet",
				name, route.To)
			return
		}
	}
	switch {
	case route.Via.IsValid() && route.Via.Is4() != route.To.Addr().Is4():
		v.reject(route.At, "", "%s: to %s is %s, via %s is %s", name, route.To, family(route.To.Addr()), route.Via,
			family(route.Via))
		return
	case route.Via.IsValid():
		if !v.gateway(l, Gateway{Addr: route.Via, OnLink: route.OnLink}, route.At, name) {
			return
		}
	case route.OnLink:
		v.reject(route.At, "name the router with via", "%s: onlink without via", name)
		return
	case !l.has(route.To.Addr()) && !v.places.spoilt("links.%s.address", l.Name):
		v.reject(route.At, "add an address of that family to the link", "%s: to %s, but the link has no %s address", name,
			route.To, family(route.To.Addr()))
		return
	}
	if route.Source.IsValid() && !v.own(route.Source) {
		v.reject(route.At, "write an address of a link", "%s: source %s is none of the guest's addresses", name, route.Source)
	} else if route.Source.IsValid() && route.Source.Is4() != route.To.Addr().Is4() {
		v.reject(route.At, "", "%s: source %s is not of the family of %s", name, route.Source, route.To)
	}
}

// own tells whether an address is one of the guest's.
func (v *validator) own(a netip.Addr) bool {
	for _, l := range v.p.Links {
		for _, own := range l.Addresses {
			if own.Addr() == a {
				return true
			}
		}
		if v.places.spoilt("links.%s.address", l.Name) {
			return true // whether it fits is not known
		}
	}
	return false
}

// routingRules checks the rules, and that each leads to a table with something in it.
func (v *validator) routingRules() {
	if n := len(v.p.RoutingRules); n > maxRules {
		v.reject(v.p.RoutingRules[maxRules].At, "", "rules: %d, expected at most %d", n, maxRules)
		return
	}
	filled := map[uint32]bool{}
	for _, route := range v.p.Routes {
		filled[route.Table] = true
	}
	unread := v.places.spoilt("routes")
	for _, l := range v.p.Links {
		unread = unread || v.places.spoilt("links.%s.routes", l.Name)
		for _, route := range l.Routes {
			filled[route.Table] = true
		}
	}
	first := map[uint32]Pos{}
	for _, u := range v.p.RoutingRules {
		bad := func(hint, format string, args ...any) { v.reject(u.At, hint, "rules: "+format, args...) }
		good := true
		for _, p := range []netip.Prefix{u.From, u.To} {
			if p == (netip.Prefix{}) {
				continue
			}
			if problem, hint := checkNetwork(p); problem != "" {
				bad(hint, "%s", problem)
				good = false
			}
		}
		switch {
		case !good:
		case u.From == netip.Prefix{} && u.To == netip.Prefix{} && u.Link == "":
			bad("name from, to or link", "a rule for all packets makes the main table unused")
		case u.From.IsValid() && u.To.IsValid() && u.From.Addr().Is4() != u.To.Addr().Is4():
			bad("", "from %s and to %s share no address family", u.From, u.To)
		}
		if u.Link != "" && u.Link != Self && v.link(u.Link) == nil && !v.places.spoilt("links") {
			bad(suggest(u.Link, append(v.linkNames(), Self)), "unknown link %s", quote(u.Link))
		}
		switch {
		case u.Table == 0 || u.Table > maxTable:
			bad("", "table %d, expected 1 to %d", u.Table, maxTable)
		case !filled[u.Table] && !unread:
			bad(fmt.Sprintf("give a link a route with table: %d", u.Table), "no route is in table %d", u.Table)
		}
		if u.Priority == 0 || u.Priority > maxPriority {
			bad("", "priority %d, expected 1 to %d", u.Priority, maxPriority)
		} else if at, twice := first[u.Priority]; twice {
			bad("write another", "priority %d comes twice, first at %s", u.Priority, at)
		}
		first[u.Priority] = u.At
	}
}
