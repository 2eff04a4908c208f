package profiles

import (
	"fmt"
	"net/netip"
	"slices"
)

// Bounds of what routers advertise: RFC 4861, section 6.2.1, and for prefixes the default of that section.
const (
	minAdvertInterval = 4
	maxAdvertInterval = 1800
	maxRouterLifetime = 9000
	maxPrefixValid    = 30 * 24 * 60 * 60 // seconds
	maxAdvertRoutes   = 16
	// MaxAdvertPrefixes is how many prefixes of a link are advertised.
	MaxAdvertPrefixes = 8
	// maxAdvertBytes is what options other than prefixes may take: an advertisement is one packet (RFC 6980), and on any
	// link 1280 bytes are. Of these 40 are IPv6's, 16 the advertisement's, 32 each prefix's, and 16 the link's address
	// and MTU.
	maxAdvertBytes = minMTUIPv6 - 40 - 16 - MaxAdvertPrefixes*32 - 16
)

// adverts checks what is advertised on each link.
func (v *validator) adverts() {
	if len(v.p.RA) > maxLinks {
		v.reject(v.p.RA[maxLinks].At, "", "ra: more than %d links", maxLinks)
		return
	}
	seen := map[string]bool{}
	for i := range v.p.RA {
		a := &v.p.RA[i]
		if !v.insideLink("ra", a.Link, a.At, seen) {
			continue
		}
		bad := v.fieldOf("ra", a.Link, a.At)
		v.advertTimes(a, bad)
		v.advertSays(a, bad)
	}
}

// fieldOf rejects fields of a link in a section of links, unless they could not be read at all.
func (v *validator) fieldOf(section, link string, at Pos) func(field, hint, format string, args ...any) {
	return func(field, hint, format string, args ...any) {
		if !v.places.spoilt("%s.%s.%s", section, link, field) {
			v.reject(v.places.find(at, "%s.%s.%s", section, link, field), hint, "%s.%s.%s: %s", section, clip(link), field,
				fmt.Sprintf(format, args...))
		}
	}
}

// insideLink checks that a link can have services of IPv6 for the hosts on it, once.
func (v *validator) insideLink(section, name string, at Pos, seen map[string]bool) bool {
	l := v.link(name)
	switch {
	case l == nil:
		v.reject(at, suggest(name, v.linkNames()), "%s: unknown link %s", section, quote(name))
	case seen[name]:
		v.reject(at, "remove one", "%s: link %s comes twice", section, clip(name))
	case l.Auto || l.DHCP6:
		v.reject(at, "name a link that others learn from", "%s.%s: the link itself learns its IPv6 addresses from others",
			section, clip(name))
	case l.NoIPv6 || l.MTU != 0 && l.MTU < minMTUIPv6:
		v.reject(at, "", "%s.%s: the link has no IPv6", section, clip(name))
	case l.WireGuard != nil:
		v.reject(at, "write the addresses into the configuration of its peers", "%s.%s: a tunnel has no neighbours to"+
			" tell anything", section, clip(name))
	case v.p.MasterOf(name) != nil:
		v.reject(at, "name "+clip(v.p.MasterOf(name).Name), "%s.%s: the link is a member of another", section, clip(name))
	case !v.inside6(l) && !v.places.spoilt("links.%s.address", name):
		v.reject(at, "give it an address such as fd00::1/64, or delegated/0::1", "%s.%s: the link has no IPv6 address",
			section, clip(name))
	default:
		seen[name] = true
		return true
	}
	return false
}

// inside6 tells whether a link has an IPv6 address of its own, by the profile or delegated.
func (v *validator) inside6(l *Link) bool {
	return len(l.Delegated) > 0 || slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

func (v *validator) advertTimes(a *Advert, bad func(field, hint, format string, args ...any)) {
	if a.Interval < minAdvertInterval || a.Interval > maxAdvertInterval {
		bad("interval", "", "%d s, expected %d to %d", a.Interval, minAdvertInterval, maxAdvertInterval)
		return
	}
	switch {
	case a.Lifetime != 0 && (a.Lifetime < a.Interval || a.Lifetime > maxRouterLifetime):
		bad("lifetime", "write default: never if hosts shall not take the guest for a router",
			"%d s, expected the %d s between advertisements to %d", a.Lifetime, a.Interval, maxRouterLifetime)
	case a.Lifetime == 0 && a.Always:
		bad("default", "", "always, with a lifetime of nothing")
	}
	switch {
	case a.Valid < a.Interval || a.Valid > maxPrefixValid:
		bad("valid", "", "%d s, expected the %d s between advertisements to %d", a.Valid, a.Interval, maxPrefixValid)
	case a.Preferred < a.Interval || a.Preferred > a.Valid:
		bad("preferred", "", "%d s, expected the %d s between advertisements to the %d s they are valid", a.Preferred,
			a.Interval, a.Valid)
	}
}

func (v *validator) advertSays(a *Advert, bad func(field, hint, format string, args ...any)) {
	if !slices.Contains([]RoutePreference{PreferLow, PreferMedium, PreferHigh}, a.Preference) {
		bad("preference", "", "%s, expected low, medium or high", quote(string(a.Preference)))
	}
	if a.MTU != 0 && (a.MTU < minMTUIPv6 || a.MTU > maxMTU) {
		bad("mtu", "", "%d, expected %d to %d", a.MTU, minMTUIPv6, maxMTU)
	} else if l := v.link(a.Link); l != nil && a.MTU > v.p.EffectiveMTU(l) {
		bad("mtu", "", "%d, more than the %d of the link", a.MTU, v.p.EffectiveMTU(l))
	}
	bytes := v.nameService(a.DNS, a.Search, bad)
	if len(a.Routes) > maxAdvertRoutes {
		bad("routes", "", "%d of them, expected at most %d", len(a.Routes), maxAdvertRoutes)
		return
	}
	for i, route := range a.Routes {
		bytes += 24
		problem, hint := checkNetwork(route.To)
		switch {
		case problem != "":
			bad("routes", hint, "%s", problem)
		case !route.To.Addr().Is6() || linkLocal(route.To) || route.To.Addr().IsMulticast():
			bad("routes", "", "%s is nothing an IPv6 router leads to", route.To)
		case route.To.Bits() == 0:
			bad("routes", "write default: always", "%s is what the default route is for", route.To)
		case slices.ContainsFunc(a.Routes[:i], func(o AdvertRoute) bool { return o.To == route.To }):
			bad("routes", "remove one", "%s comes twice", route.To)
		case route.Lifetime < 1 || route.Lifetime > maxPrefixValid:
			bad("routes", "", "%s for %d s, expected 1 to %d", route.To, route.Lifetime, maxPrefixValid)
		}
		if !slices.Contains([]RoutePreference{PreferLow, PreferMedium, PreferHigh}, route.Preference) {
			bad("routes", "", "preference %s, expected low, medium or high", quote(string(route.Preference)))
		}
	}
	if bytes > maxAdvertBytes {
		bad("search", "say less, or more of it by dhcp6", "names, name servers and routes take %d bytes, an advertisement"+
			" has room for %d", bytes, maxAdvertBytes)
	}
}

// nameService checks name servers and domains for the hosts of a link, and says how many bytes they take.
func (v *validator) nameService(servers []netip.Addr, search []string,
	bad func(field, hint, format string, args ...any)) (bytes int) {
	if len(servers) > maxBelieved || len(search) > maxBelieved {
		bad("dns", "", "more than %d name servers or domains", maxBelieved)
		return 0
	}
	bytes = 8 + 8 + 16*(1+len(servers)) // with the guest's own address
	for i, a := range servers {
		switch problem := checkUnicast(a); {
		case problem != "":
			bad("dns", "", "%s", problem)
		case !a.Is6():
			bad("dns", "write an IPv6 address; hosts learn IPv4 ones by DHCP", "%s is none that IPv6 hosts are told", a)
		case slices.Contains(servers[:i], a):
			bad("dns", "remove one", "%s comes twice", a)
		}
	}
	for i, name := range search {
		bytes += len(name) + 2
		if problem, hint := checkHostName(name); problem != "" {
			bad("search", hint, "%s", problem)
		} else if slices.Contains(search[:i], name) {
			bad("search", "remove one", "%s comes twice", name)
		}
	}
	return bytes
}
