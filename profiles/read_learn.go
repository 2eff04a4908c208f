//go:build !guest

package profiles

import (
	"net/netip"
)

// believedFields are the keys of what is taken of what DHCP servers and routers say.
func believedFields() table[Believed] {
	addresses := oneOrMore(textLike(addressPattern))
	return table[Believed]{
		{name: "default", doc: "false: no default route by DHCP or router advertisements on this link.", kind: yesOrNo(),
			decode: func(r *reader, v value, b *Believed) {
				yes, ok := r.boolean(v)
				b.NoDefault = ok && !yes
			}},
		{name: "dns", doc: "false: no name servers and search domains from this link.", kind: yesOrNo(),
			decode: func(r *reader, v value, b *Believed) {
				yes, ok := r.boolean(v)
				b.NoDNS = ok && !yes
			}},
		{name: "metric", doc: "Metric of the routes learnt on this link; the lowest wins. Default: 512 and more for DHCP," +
			" 1024 and more for router advertisements.", kind: numberIn(1, maxMetric),
			decode: func(r *reader, v value, b *Believed) {
				n, _ := r.integer(v, 1, maxMetric, "")
				b.Metric = uint32(n)
			}},
		{name: "servers", doc: "DHCP servers whose offers are taken. Default: all.", kind: addresses,
			decode: func(r *reader, v value, b *Believed) { b.Servers = r.addresses(v) }},
		{name: "routers", doc: "Link-local addresses of the routers whose advertisements are taken. Default: all.",
			kind:   addresses,
			decode: func(r *reader, v value, b *Believed) { b.Routers = r.addresses(v) }},
		{name: "prefixes", doc: "What advertised prefixes must be in, such as 2001:db8::/32. Default: anything that is not" +
			" another link's.", kind: oneOrMore(textLike(prefixPattern)),
			decode: func(r *reader, v value, b *Believed) {
				const what = "a prefix such as 2001:db8::/32, or a list"
				for _, item := range r.items(v, what, maxBelieved) {
					text, ok := r.word(item, what)
					if !ok {
						continue
					}
					p, problem, hint := parsePrefix(text)
					if problem != "" {
						r.rejectAt(item.pos(), hint, "%s: %s", item.name, problem)
						continue
					}
					b.Prefixes = append(b.Prefixes, p)
				}
			}},
	}
}

// fullAddress reads an address that stands for itself: nothing completes it.
func (r *reader) fullAddress(v value, what string) (netip.Addr, bool) {
	text, ok := r.dotted(v, what)
	if !ok {
		return netip.Addr{}, false
	}
	a, problem, hint := parseAddress(text)
	if problem != "" {
		r.rejectAt(v.pos(), hint, "%s: %s", v.name, problem)
		return netip.Addr{}, false
	}
	return a, true
}

func (r *reader) addresses(v value) (all []netip.Addr) {
	const what = "an address, or a list of addresses"
	for _, item := range r.items(v, what, maxBelieved) {
		if a, ok := r.fullAddress(item, what); ok {
			all = append(all, a)
		}
	}
	return all
}

func readBelieved(r *reader, v value, l *Link) {
	r.places.put(v.keyPos(), "links.%s.accept", l.Name)
	r.filled(v, "a mapping such as {default: false, dns: false, metric: 600}")
	believedFields().read(r, v, &l.Accept)
}

func readClientID(r *reader, v value, l *Link) {
	r.places.put(v.pos(), "links.%s.client_id", l.Name)
	l.ClientID, _ = r.word(v, "a text of 1 to 64 letters, digits and any of . _ : -")
}
