package profiles

import (
	"fmt"
	"net/netip"
)

// Bounds of what is said about learning.
const (
	maxBelieved = 16    // of one list
	maxClientID = 64    // bytes; the option takes 254 (RFC 2132, 9.14)
	maxMetric   = 65535 // leaves room above it for several routers of one link
)

func isClientByte(c byte) bool {
	return isLinkByte(c) || isDigit(c) || c == ':'
}

// learning checks what is taken of DHCP servers and routers.
func (v *validator) learning() {
	for i := range v.p.Links {
		l := &v.p.Links[i]
		b := l.Accept
		at := v.places.find(l.At, "links.%s.accept", l.Name)
		bad := func(hint, format string, args ...any) {
			v.reject(at, hint, "links.%s.accept%s", clip(l.Name), fmt.Sprintf(format, args...))
		}
		if l.ClientID != "" {
			at := v.places.find(l.At, "links.%s.client_id", l.Name)
			if len(l.ClientID) > maxClientID || !allOf(l.ClientID, isClientByte) {
				v.reject(at, "", "links.%s.client_id: expected 1 to %d letters, digits and any of . _ : -, found %s",
					clip(l.Name), maxClientID, quote(l.ClientID))
			}
			if !l.DHCP && !v.places.spoilt("links.%s.address", l.Name) {
				v.reject(at, "write address: dhcp, or remove it", "links.%s.client_id: the link does not ask by DHCP",
					clip(l.Name))
			}
		}
		if v.places.spoilt("links.%s.address", l.Name) || v.places.spoilt("links.%s.accept", l.Name) {
			continue
		}
		if !l.DHCP && !l.Auto && !l.DHCP6 {
			if b.NoDefault || b.NoDNS || b.Metric != 0 || len(b.Servers)+len(b.Routers)+len(b.Prefixes) > 0 {
				bad("write address: dhcp or auto, or remove it", ": nobody tells this link anything")
			}
			continue
		}
		if b.Metric > maxMetric {
			bad("", ".metric: %d, expected 1 to %d", b.Metric, maxMetric)
		}
		if len(b.Servers) > 0 && !l.DHCP {
			bad("remove it", ".servers: the link does not ask by DHCP")
		}
		if len(b.Routers)+len(b.Prefixes) > 0 && !l.Auto {
			bad("add auto to the link's address", ".routers and .prefixes: the link does not listen to routers")
		}
		if max(len(b.Servers), len(b.Routers), len(b.Prefixes)) > maxBelieved {
			bad("", ": more than %d of a kind", maxBelieved)
		}
		for _, a := range b.Servers {
			if !a.Is4() || checkUnicast(a) != "" {
				bad("", ".servers: %s is no address of a DHCP server", a)
			}
		}
		for _, a := range b.Routers {
			if !a.Is6() || !a.IsLinkLocalUnicast() || a.Zone() != "" {
				bad("`ip -6 route` of a host on that network shows it", ".routers: %s is not link-local", a)
			}
		}
		for _, p := range b.Prefixes {
			if problem, hint := checkNetwork(p); problem != "" || !p.Addr().Is6() || linkLocal(p) {
				if problem == "" {
					problem = p.String() + " is no prefix that routers advertise"
				}
				bad(hint, ".prefixes: %s", problem)
			}
		}
		if l.NoIPv6 && l.Auto {
			v.reject(v.places.find(l.At, "links.%s.ipv6", l.Name), "remove one", "links.%s.ipv6: off, and address: auto",
				clip(l.Name))
		}
		if l.Auto && l.MTU != 0 && l.MTU < minMTUIPv6 {
			v.reject(v.places.find(l.At, "links.%s.mtu", l.Name), "write 1280 or more, or remove auto",
				"links.%s.mtu: %d, IPv6 needs %d", clip(l.Name), l.MTU, minMTUIPv6)
		}
	}
}

func linkLocal(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() }

// defaultRoute is something that makes a default route.
type defaultRoute struct {
	what   string
	metric uint32 // 0: not said
}

// secondDefault tells, and says so, whether a default route stands beside an earlier one without the metrics that make
// plain which of them is taken.
func (v *validator) secondDefault(earlier []defaultRoute, d defaultRoute, at Pos, where string) {
	for _, e := range earlier {
		switch {
		case d.metric == 0 || e.metric == 0:
			v.reject(at, "give both a metric, the lowest wins; or take no default route from one: accept: {default: false}",
				"%s: %s is a second default route beside %s", where, d.what, e.what)
		case d.metric == e.metric:
			v.reject(at, "the lowest wins: give them different ones", "%s: %s has metric %d as %s", where, d.what, d.metric,
				e.what)
		default:
			continue
		}
		return
	}
}
