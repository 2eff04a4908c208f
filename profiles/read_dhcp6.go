//go:build !guest

package profiles

import (
	"encoding/hex"
	"net/netip"
	"strings"

	"gopkg.in/yaml.v3"
)

// Defaults of how long addresses are given for. Where prefixes may be replaced, clients must come back soon to hear of
// it: that is RFC 9096's ND_VALID_LIMIT.
const (
	defaultLease6          = 12 * 60 * 60
	defaultLease6Delegated = 5400
)

// dhcp6Fields are the keys of a DHCPv6 server.
func dhcp6Fields() table[DHCP6] {
	return append(scope6Fields(func(d *DHCP6) *DHCP6Scope { return &d.DHCP6Scope }), table[DHCP6]{
		{name: "rapid", doc: "true: clients that ask so are given their address by two messages instead of four. For links" +
			" with one server.", kind: yesOrNo(), decode: func(r *reader, v value, d *DHCP6) { d.Rapid, _ = r.boolean(v) }},
		{name: "delegate", doc: "Delegates prefixes to routers on the link: {from: PREFIX, length: 60}. The way to each is" +
			" its router's for as long as it has it.", kind: prefixPoolFields().schema(),
			decode: func(r *reader, v value, d *DHCP6) {
				pool := PrefixPool{}
				if len(prefixPoolFields().read(r, v, &pool)) == 0 {
					d.Delegate = pool.lengths()
				}
			}},
		{name: "relayed", doc: "Subnets behind relay agents: PREFIX: {from: ADDRESS of the agent, pool: ::1000-::1fff, ...}.",
			kind: named(subnetPattern, relayed6Fields().schema()), decode: readRelayed6},
	}...)
}

// relayed6Fields are the keys of a subnet behind relay agents.
func relayed6Fields() table[DHCP6Relayed] {
	return append(table[DHCP6Relayed]{
		{name: "from", doc: "Where the relay agents send from: an address, a prefix, or a list. Link-local ones too.",
			kind: oneOrMore(textLike(prefixPattern)), required: true,
			decode: func(r *reader, v value, d *DHCP6Relayed) { d.From = r.agents(v) }},
		{name: "delegate", doc: "true: routers there are delegated prefixes of what the link delegates, too, and what is" +
			" behind them is in its zone. The way to each is the route to the subnet; the agents must lead on.", kind: yesOrNo(),
			decode: func(r *reader, v value, d *DHCP6Relayed) { d.Delegate, _ = r.boolean(v) }},
	}, scope6Fields(func(d *DHCP6Relayed) *DHCP6Scope { return &d.DHCP6Scope })...)
}

// scope6Fields are what a subnet says, on the link or behind relay agents.
func scope6Fields[T any](of func(*T) *DHCP6Scope) table[T] {
	return table[T]{
		{name: "pool", doc: "Ends of the addresses given to whoever asks: ::1000-::1fff, or a list. Clients have them in" +
			" each of the link's prefixes.", kind: oneOrMore(textLike(suffixesPattern)),
			decode: func(r *reader, v value, d *T) { readPool6(r, v, of(d)) }},
		{name: "hosts", doc: "Clients with an end of their own: NAME: {mac: ADDRESS, host: ::10}, or duid in place of mac.",
			kind:   filled(named(hostPattern, dhcp6HostFields().schema())),
			decode: func(r *reader, v value, d *T) { readHosts6(r, v, of(d)) }},
		{name: "lease", doc: "How long an address is valid after a client last asked, such as 12h. Default: 12h, 90m where" +
			" prefixes are delegated.", kind: textLike(spanPattern),
			decode: func(r *reader, v value, d *T) { of(d).Lease, _ = r.span(v) }},
		{name: "dns", doc: "Name servers: IPv6 addresses, or self for the guest, or a list.",
			kind:   oneOrMore(eitherOf(oneWordOf(Self), textLike(addressPattern))),
			decode: func(r *reader, v value, d *T) { of(d).DNSSelf, of(d).DNS = r.nameServers(v) }},
		{name: "search", doc: "Domain that short names are looked for in, or a list.", kind: oneOrMore(textLike(hostPattern)),
			decode: func(r *reader, v value, d *T) { of(d).Search = r.domains(v) }},
	}
}

func readRelayed6(r *reader, v value, d *DHCP6) {
	const what = "a mapping such as 2001:db8:20::/64: {from: fe80::2, pool: ::1000-::1fff}"
	for _, entry := range r.entries(v, what, maxPrefixes) {
		prefix, ok := r.subnet(v, entry, "IPv6")
		if !ok {
			continue
		}
		s := DHCP6Relayed{Prefix: prefix, At: entry.keyPos()}
		if len(relayed6Fields().read(r, entry, &s)) > 0 {
			continue
		}
		if s.Lease == 0 {
			s.Lease = defaultLease6
		}
		d.Relayed = append(d.Relayed, s)
	}
}

// dhcp6HostFields are the keys of a client with an end of its own.
func dhcp6HostFields() table[DHCP6Host] {
	return table[DHCP6Host]{
		{name: "mac", doc: "Its hardware address.", kind: textLike(macPattern),
			decode: func(r *reader, v value, h *DHCP6Host) { h.MAC, _ = r.hardware(v) }},
		{name: "duid", doc: "Its DUID in hexadecimal, such as 00:03:00:01:52:54:00:12:34:56.", kind: textLike(duidPattern),
			decode: readDUID},
		{name: "host", doc: "The end of its addresses, such as ::10.", kind: textLike(suffixPattern),
			decode: func(r *reader, v value, h *DHCP6Host) { h.Host = r.suffix(v) }},
		{name: "delegate", doc: "The prefix it is delegated, in what the link delegates: 2001:db8:f:10::/60, or" +
			" delegated/10::/60.", kind: textLike(blockPattern),
			decode: func(r *reader, v value, h *DHCP6Host) {
				if b, ok := r.block(v); ok {
					h.Delegate = &b
				}
			}},
	}
}

func readDHCP6(r *reader, v value, p *Profile) {
	const what = "a mapping such as lan: {pool: ::1000-::1fff}"
	r.filled(v, what)
	for _, entry := range r.entries(v, what, maxLinks) {
		d := DHCP6{Link: entry.key.Value, At: entry.keyPos()}
		if entry.node.Kind == yaml.MappingNode {
			for i := 0; i+1 < len(entry.node.Content); i += 2 {
				at := value{node: entry.node.Content[i+1]}.pos()
				r.places.put(at, "dhcp6.%s.%s", entry.key.Value, entry.node.Content[i].Value)
			}
		}
		for field := range dhcp6Fields().read(r, entry, &d) {
			r.places.spoil("dhcp6.%s.%s", entry.key.Value, field)
		}
		if d.Lease == 0 {
			d.Lease = defaultLease6
			for _, l := range p.Links {
				if l.Name == d.Link && len(l.Delegated) > 0 {
					d.Lease = defaultLease6Delegated
				}
			}
		}
		p.DHCP6 = append(p.DHCP6, d)
	}
}

// suffix reads the end of an address.
func (r *reader) suffix(v value) netip.Addr {
	const what = "the end of an IPv6 address such as ::10"
	text, ok := r.dotted(v, what)
	if !ok {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is6() {
		r.expected(v, what, "")
		return netip.Addr{}
	}
	return a
}

func readPool6(r *reader, v value, d *DHCP6Scope) {
	const what = "ends of addresses from one to another such as ::1000-::1fff, or a list"
	for _, item := range r.items(v, what, maxPools6) {
		text, ok := r.dotted(item, what)
		if !ok {
			continue
		}
		first, last, several := strings.Cut(text, "-")
		a, err1 := netip.ParseAddr(strings.TrimSpace(first))
		b, err2 := netip.ParseAddr(strings.TrimSpace(last))
		if !several || err1 != nil || err2 != nil || !a.Is6() || !b.Is6() {
			r.expected(item, what, "")
			continue
		}
		d.Pools = append(d.Pools, SuffixRange{a, b})
	}
}

func readHosts6(r *reader, v value, d *DHCP6Scope) {
	const what = "a mapping such as nas: {mac: 52:54:00:12:34:56, host: ::10}"
	r.filled(v, what)
	for _, entry := range r.entries(v, what, maxHosts) {
		h := DHCP6Host{Name: entry.key.Value, At: entry.keyPos()}
		if len(dhcp6HostFields().read(r, entry, &h)) == 0 {
			d.Hosts = append(d.Hosts, h)
		}
	}
}

func readDUID(r *reader, v value, h *DHCP6Host) {
	const what = "a DUID in hexadecimal such as 00:03:00:01:52:54:00:12:34:56"
	text, ok := r.word(v, what)
	if !ok {
		return
	}
	b, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil || len(b) < minDUID || len(b) > maxDUID {
		r.expected(v, what, "the client's log, or the server's, shows it")
		return
	}
	h.DUID = hex.EncodeToString(b)
}
