//go:build !guest

package profiles

import (
	"net/netip"
	"strings"

	"gopkg.in/yaml.v3"
)

// Defaults of what is advertised. The times of prefixes are those RFC 9096, section 3.3, gives to customer edge
// routers, so that hosts leave a prefix that is gone soon, and the others RFC 4861's, section 6.2.1.
const (
	defaultAdvertInterval = 600
	defaultRouterLifetime = 3 * defaultAdvertInterval
	defaultPrefixPrefer   = 2700
	defaultPrefixValid    = 5400
)

// advertDraft is what is advertised on a link, as written.
type advertDraft struct {
	advert             Advert
	lifetime, interval bool // said
	preferred, valid   bool
}

// advertFields are the keys of what is advertised on a link.
func advertFields() table[advertDraft] {
	span := textLike(spanPattern)
	return table[advertDraft]{
		{name: "default", doc: "When hosts take the guest for their default router: uplink, the default, is while it has an" +
			" IPv6 default route itself; always; never.", kind: oneWordOf("uplink", "always", "never"),
			decode: readAdvertDefault},
		{name: "lifetime", doc: "How long hosts keep the guest as default router after they last heard it, such as 30m." +
			" Default: three intervals.", kind: span,
			decode: func(r *reader, v value, d *advertDraft) { d.advert.Lifetime, d.lifetime = r.span(v) }},
		{name: "preference", doc: "How the guest stands among other routers of the link: low, medium or high.",
			kind:   oneWordOf("low", "medium", "high"),
			decode: func(r *reader, v value, d *advertDraft) { d.advert.Preference = r.preference(v) }},
		{name: "interval", doc: "How often the guest advertises without being asked, 4s to 30m. Default 10m.", kind: span,
			decode: func(r *reader, v value, d *advertDraft) { d.advert.Interval, d.interval = r.span(v) }},
		{name: "preferred", doc: "How long hosts use addresses of the link's prefixes for new connections after they last" +
			" heard of them, at most. Default 45m.", kind: span,
			decode: func(r *reader, v value, d *advertDraft) { d.advert.Preferred, d.preferred = r.span(v) }},
		{name: "valid", doc: "How long hosts keep such addresses at all, at most. Default 90m.", kind: span,
			decode: func(r *reader, v value, d *advertDraft) { d.advert.Valid, d.valid = r.span(v) }},
		{name: "auto", doc: "false: hosts make no addresses by themselves, they take those of DHCPv6.", kind: yesOrNo(),
			decode: func(r *reader, v value, d *advertDraft) {
				yes, ok := r.boolean(v)
				d.advert.NoAuto = ok && !yes
			}},
		{name: "managed", doc: "true: hosts are told to ask for addresses by DHCPv6 too. The guest's own server, dhcp6, is" +
			" told of by itself.", kind: yesOrNo(),
			decode: func(r *reader, v value, d *advertDraft) { d.advert.Managed, _ = r.boolean(v) }},
		{name: "other", doc: "true: hosts are told to ask for name servers and the like by DHCPv6.", kind: yesOrNo(),
			decode: func(r *reader, v value, d *advertDraft) { d.advert.Other, _ = r.boolean(v) }},
		{name: "mtu", doc: "Largest packet of the link in bytes, that all its hosts are to keep to.",
			kind: numberIn(minMTUIPv6, maxMTU),
			decode: func(r *reader, v value, d *advertDraft) {
				d.advert.MTU, _ = r.integer(v, minMTUIPv6, maxMTU, "bytes")
			}},
		{name: "dns", doc: "Name servers: IPv6 addresses, or self for the guest, or a list.",
			kind: oneOrMore(eitherOf(oneWordOf(Self), textLike(addressPattern))), decode: readAdvertDNS},
		{name: "search", doc: "Domain that short names are looked for in, or a list.", kind: oneOrMore(textLike(hostPattern)),
			decode: func(r *reader, v value, d *advertDraft) { d.advert.Search = r.domains(v) }},
		{name: "routes", doc: "What else hosts reach by the guest: a prefix, {to: PREFIX, preference: high, lifetime: 30m}," +
			" or a list.", kind: oneOrMore(eitherOf(textLike(prefixPattern), advertRouteFields().schema())),
			decode: readAdvertRoutes},
	}
}

// advertRouteFields are the keys of an advertised route that is more than a prefix.
func advertRouteFields() table[AdvertRoute] {
	return table[AdvertRoute]{
		{name: "to", doc: "The prefix, such as 2001:db8:5::/48.", kind: textLike(prefixPattern), required: true,
			decode: func(r *reader, v value, a *AdvertRoute) { a.To = r.network(v) }},
		{name: "preference", doc: "low, medium or high.", kind: oneWordOf("low", "medium", "high"),
			decode: func(r *reader, v value, a *AdvertRoute) { a.Preference = r.preference(v) }},
		{name: "lifetime", doc: "How long hosts keep the route after they last heard of it. Default: that of the default" +
			" router.", kind: textLike(spanPattern),
			decode: func(r *reader, v value, a *AdvertRoute) { a.Lifetime, _ = r.span(v) }},
	}
}

func readAdverts(r *reader, v value, p *Profile) {
	const what = "a mapping such as lan: {dns: self}"
	r.filled(v, what)
	for _, entry := range r.entries(v, what, maxLinks) {
		d := advertDraft{advert: Advert{Link: entry.key.Value, At: entry.keyPos()}}
		if entry.node.Kind == yaml.MappingNode {
			for i := 0; i+1 < len(entry.node.Content); i += 2 {
				at := value{node: entry.node.Content[i+1]}.pos()
				r.places.put(at, "ra.%s.%s", entry.key.Value, entry.node.Content[i].Value)
			}
		}
		failed := advertFields().read(r, entry, &d)
		for field := range failed {
			r.places.spoil("ra.%s.%s", entry.key.Value, field)
		}
		p.RA = append(p.RA, d.filled())
	}
}

// filled is what was written with what was not.
func (d *advertDraft) filled() Advert {
	a := d.advert
	if !d.interval {
		a.Interval = defaultAdvertInterval
	}
	switch {
	case d.lifetime || a.Lifetime == never:
	case d.interval:
		a.Lifetime = min(3*a.Interval, maxRouterLifetime)
	default:
		a.Lifetime = defaultRouterLifetime
	}
	if a.Lifetime == never {
		a.Lifetime = 0
	}
	if !d.valid {
		a.Valid = max(defaultPrefixValid, 2*a.Preferred)
	}
	if !d.preferred {
		a.Preferred = min(defaultPrefixPrefer, a.Valid)
	}
	for i := range a.Routes {
		if a.Routes[i].Lifetime == 0 {
			a.Routes[i].Lifetime = max(a.Lifetime, 3*a.Interval)
		}
	}
	return a
}

// never is the lifetime of a draft that says default: never.
const never = -1

func readAdvertDefault(r *reader, v value, d *advertDraft) {
	switch r.choice(v, "uplink", "always", "never") {
	case "always":
		d.advert.Always = true
	case "never":
		d.advert.Lifetime = never
	}
}

// span reads a length of time: 45m.
func (r *reader) span(v value) (seconds int64, ok bool) {
	const what = "a length of time such as 45m or 12h"
	text, ok := r.word(v, what)
	if !ok {
		return 0, false
	}
	if seconds, ok = parseSpan(text); !ok {
		r.expected(v, what, "")
	}
	return seconds, ok
}

func (r *reader) preference(v value) RoutePreference {
	switch text := r.choice(v, string(PreferLow), "medium", string(PreferHigh)); text {
	case "medium":
		return PreferMedium
	default:
		return RoutePreference(text)
	}
}

func readAdvertDNS(r *reader, v value, d *advertDraft) {
	d.advert.DNSSelf, d.advert.DNS = r.nameServers(v)
}

// nameServers reads addresses, and self for the guest.
func (r *reader) nameServers(v value) (self bool, all []netip.Addr) {
	const what = "an address, self, or a list of these"
	for _, item := range r.items(v, what, maxBelieved) {
		if item.node.Kind == yaml.ScalarNode && item.node.Value == Self {
			self = true
			continue
		}
		if a, ok := r.fullAddress(item, what); ok {
			all = append(all, a)
		}
	}
	return self, all
}

// domains reads names that others are looked for in, without a last dot.
func (r *reader) domains(v value) (all []string) {
	const what = "a domain such as home.arpa, or a list"
	for _, item := range r.items(v, what, maxBelieved) {
		if text, ok := r.word(item, what); ok {
			all = append(all, strings.TrimSuffix(text, "."))
		}
	}
	return all
}

func readAdvertRoutes(r *reader, v value, d *advertDraft) {
	for _, item := range r.items(v, "a prefix, {to: PREFIX}, or a list", maxRoutes) {
		var a AdvertRoute
		if item.node.Kind == yaml.MappingNode {
			if len(advertRouteFields().read(r, item, &a)) > 0 {
				continue
			}
		} else if a.To = r.network(item); !a.To.IsValid() {
			continue
		}
		d.advert.Routes = append(d.advert.Routes, a)
	}
}
