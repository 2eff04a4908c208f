//go:build !guest

package profiles

import (
	"net/netip"
	"strings"
)

// ntpFields are the keys of ntp.
func ntpFields() table[NTP] {
	return table[NTP]{
		{name: "servers", doc: "Time servers: addresses, hosts of this profile, or DNS names. With three and more a wrong" +
			" one is noticed.", kind: oneOrMore(schema{"type": "string"}), decode: readTimeServers},
		{name: "serve", doc: "Links on which the guest tells the time to who asks.",
			kind: oneOrMore(textLike(linkPattern)), decode: readTimeLinks},
	}
}

func readNTP(r *reader, v value, p *Profile) {
	p.NTP = &NTP{At: v.keyPos()}
	r.filled(v, "servers or serve")
	ntpFields().read(r, v, p.NTP)
}

// maxTimeServers bounds the servers, by which a round is bounded.
const maxTimeServers = 16

func readTimeServers(r *reader, v value, n *NTP) {
	const what = "an address, a host of this profile, or a DNS name"
	for _, item := range r.items(v, what, maxTimeServers) {
		text, ok := r.word(item, what)
		if !ok {
			continue
		}
		r.places.put(item.pos(), "ntp.servers[%d]", len(n.Servers))
		if strings.Trim(text, "0123456789.") != "" && !strings.ContainsAny(text, ":/") && r.hostNamed(text) == nil {
			n.Servers = append(n.Servers, strings.TrimSuffix(text, "."))
		} else if a := r.oneHost(item); a != (netip.Addr{}) {
			n.Servers = append(n.Servers, a.String())
		}
	}
}

func readTimeLinks(r *reader, v value, n *NTP) {
	const what = "a link, or a list of links"
	for _, item := range r.items(v, what, maxLinks) {
		if name, ok := r.word(item, what); ok {
			r.places.put(item.pos(), "ntp.serve[%d]", len(n.Serve))
			n.Serve = append(n.Serve, name)
		}
	}
}
