//go:build !guest

package profiles

import (
	"cmp"
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// defaultDHCPLease is how long clients have an address where the profile does not say, in seconds: as long as a guest's
// upgrade takes many times over, and short enough for visitors.
const defaultDHCPLease = 12 * 60 * 60

// How dhcp is written, for editors.
const (
	poolPattern   = `^\.?[0-9]+(\.[0-9]+){0,3}(/[0-9]{1,2}|-\.?[0-9]+(\.[0-9]+){0,3})?$`
	leasePattern  = `^([0-9]{1,5}[smhd]|forever)$`
	optionPattern = `^([0-9]{1,3}|[a-z0-9][a-z0-9-]{0,63})$`
)

// settingsDraft is what clients are told, as written.
type settingsDraft struct {
	DHCPSettings
	said map[uint8]Pos
}

// scopeDraft is a part of dhcp as written: the link's, that of relayed clients, a host or a class.
type scopeDraft struct {
	settingsDraft
	server  netip.Addr // what self means; zero: nothing
	subnets []netip.Prefix
	pools   []AddrRange
	exclude []AddrRange
	lease   uint32
	from    []netip.Prefix
	routed  bool // router is said
}

// dhcpDraft is dhcp on one link as written.
type dhcpDraft struct {
	scopeDraft
	dhcp    DHCP
	relayed []DHCPSubnet
}

// settingFields are what is told to clients, in any scope.
func settingFields[T any](of func(*T) *scopeDraft) table[T] {
	option := func(code uint8) func(*reader, value, *T) {
		return func(r *reader, v value, into *T) { r.option(v, optionByCode(int(code)), of(into)) }
	}
	servers := oneOrMore(eitherOf(oneWordOf(Self, "none"), hostAddress(), textLike(hostPattern)))
	return table[T]{
		{name: "router", doc: "Default gateway clients are told: an address, self for the guest, none, or a list." +
			" Default: self.", kind: servers, decode: func(r *reader, v value, into *T) {
			of(into).routed = true
			option(3)(r, v, into)
		}},
		{name: "dns", doc: "Name servers clients are told: addresses, self for the guest, or none. Default: self where the" +
			" guest serves names.", kind: servers, decode: option(6)},
		{name: "ntp", doc: "Time servers clients are told: addresses, self, or none. Default: self where the guest serves" +
			" time.", kind: servers, decode: option(42)},
		{name: "domain", doc: "Domain clients are told they are in. Default: that of dns on the link.",
			kind: textLike(hostPattern), decode: option(15)},
		{name: "search", doc: "Domains that clients look for short names in: one, or a list.",
			kind: oneOrMore(textLike(hostPattern)), decode: option(119)},
		{name: "options", doc: "Any other option, by number or name: {19: 1, ntp-servers: [10.0.0.5]}; none takes one back." +
			" A value of a kind that is not known is 0x and hex digits, or a text.",
			kind:   named(optionPattern, schema{}),
			decode: func(r *reader, v value, into *T) { r.options(v, of(into)) }},
		{name: "next_server", doc: "Address of the server that clients start from (PXE).", kind: hostAddress(),
			decode: func(r *reader, v value, into *T) { of(into).NextServer = r.address4(v, of(into)) }},
		{name: "boot_file", doc: "File that clients start from (PXE).", kind: schema{"type": "string"},
			decode: func(r *reader, v value, into *T) { of(into).BootFile, _ = r.word(v, "a file name") }},
		{name: "server_name", doc: "Name of the server that clients start from.", kind: schema{"type": "string"},
			decode: func(r *reader, v value, into *T) { of(into).ServerName, _ = r.word(v, "a name") }},
	}
}

// subnetFields are what a subnet says, on the link or behind relay agents.
func subnetFields[T any](of func(*T) *scopeDraft) table[T] {
	return append(table[T]{
		{name: "pool", doc: "Addresses given out: .100-.200, an address, a prefix, or a list. Without it only hosts are" +
			" served.", kind: oneOrMore(textLike(poolPattern)),
			decode: func(r *reader, v value, into *T) { of(into).pools = r.pool(v, of(into).subnets) }},
		{name: "exclude", doc: "Addresses of the pool that are not given out.", kind: oneOrMore(textLike(poolPattern)),
			decode: func(r *reader, v value, into *T) { of(into).exclude = r.pool(v, of(into).subnets) }},
		{name: "lease", doc: "For how long an address is given, such as 12h, the default; or forever.",
			kind: textLike(leasePattern), decode: func(r *reader, v value, into *T) { of(into).lease = r.leaseTime(v) }},
	}, settingFields(of)...)
}

// dhcpFields are the keys of dhcp on one link.
func dhcpFields() table[dhcpDraft] {
	return append(subnetFields(func(d *dhcpDraft) *scopeDraft { return &d.scopeDraft }), table[dhcpDraft]{
		{name: "authoritative", doc: "false: there is another DHCP server on the link, whose clients are left alone." +
			" Default: true.", kind: yesOrNo(), decode: func(r *reader, v value, d *dhcpDraft) {
			yes, ok := r.boolean(v)
			d.dhcp.Quiet = ok && !yes
		}},
		{name: "probe", doc: "false: addresses are given out without asking the network whether somebody has them." +
			" Default: true.", kind: yesOrNo(), decode: func(r *reader, v value, d *dhcpDraft) {
			yes, ok := r.boolean(v)
			d.dhcp.NoProbe = ok && !yes
		}},
		{name: "hosts", doc: "Clients by name: NAME: MAC, or {mac: MAC, client_id: ID, address: .10, lease: 1d," +
			" ignore: true, options: {...}}. A host of hosts has its address from there.",
			kind:   named(hostPattern, eitherOf(oneOrMore(textLike(macPattern)), dhcpHostFields().schema())),
			decode: readDHCPHosts},
		{name: "classes", doc: "Clients that say the same of themselves: NAME: {vendor: PXEClient*, user: iPXE, mac:" +
			" \"52:54:00\", arch: 7, options: {...}}.", kind: named(zonePattern, dhcpClassFields().schema()),
			decode: readDHCPClasses},
		{name: "relayed", doc: "Subnets behind relay agents: PREFIX: {from: ADDRESS of the agent, router: ADDRESS, pool:" +
			" .100-.200, ...}.", kind: named(`^[0-9.]+/[0-9]{1,2}$`, relayedFields().schema()), decode: readRelayed},
	}...)
}

// relayedFields are the keys of a subnet behind relay agents.
func relayedFields() table[scopeDraft] {
	return append(table[scopeDraft]{
		{name: "from", doc: "Where the relay agents send from: an address, a prefix, or a list.",
			kind: oneOrMore(textLike(prefixPattern)), required: true,
			decode: func(r *reader, v value, d *scopeDraft) { d.from = r.agents(v) }},
	}, subnetFields(func(d *scopeDraft) *scopeDraft { return d })...)
}

// hostDraft and classDraft are a host and a class as written.
type hostDraft struct {
	scopeDraft
	host DHCPHost
}

type classDraft struct {
	scopeDraft
	class DHCPClass
}

func dhcpHostFields() table[hostDraft] {
	return append(table[hostDraft]{
		{name: "mac", doc: "Hardware address the client is known by, or a list.", kind: oneOrMore(textLike(macPattern)),
			decode: readDHCPMACs},
		{name: "client_id", doc: "What the client calls itself in option 61: a text, or 0x and all its bytes; or a list.",
			kind: oneOrMore(schema{"type": "string"}), decode: readClientIDs},
		{name: "address", doc: "Its address, in the pool or not.", kind: hostAddress(),
			decode: func(r *reader, v value, d *hostDraft) {
				d.host.Address = r.address4(v, &scopeDraft{subnets: d.subnets})
			}},
		{name: "ignore", doc: "true: it is never answered.", kind: yesOrNo(),
			decode: func(r *reader, v value, d *hostDraft) { d.host.Ignore, _ = r.boolean(v) }},
		{name: "lease", doc: "For how long it is given its address.", kind: textLike(leasePattern),
			decode: func(r *reader, v value, d *hostDraft) { d.host.Lease = r.leaseTime(v) }},
	}, settingFields(func(d *hostDraft) *scopeDraft { return &d.scopeDraft })...)
}

func dhcpClassFields() table[classDraft] {
	text := schema{"type": "string"}
	return append(table[classDraft]{
		{name: "vendor", doc: "Vendor class (option 60): a text, or how it begins and *.", kind: text,
			decode: func(r *reader, v value, d *classDraft) { d.class.Vendor, _ = r.word(v, "a vendor class") }},
		{name: "user", doc: "User class (option 77): a text, or how it begins and *.", kind: text,
			decode: func(r *reader, v value, d *classDraft) { d.class.User, _ = r.word(v, "a user class") }},
		{name: "hostname", doc: "What it calls itself (option 12): a name, or how it begins and *. Clients choose it freely.",
			kind: text, decode: func(r *reader, v value, d *classDraft) { d.class.Hostname, _ = r.word(v, "a host name") }},
		{name: "mac", doc: "How the hardware address begins, in whole bytes: \"52:54:00\".",
			kind: textLike(`^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){0,5}$`),
			decode: func(r *reader, v value, d *classDraft) {
				text, _ := r.word(v, "the beginning of a hardware address")
				d.class.MAC = strings.ToLower(text)
			}},
		{name: "arch", doc: "What PXE firmware says it is (option 93): 0 for BIOS, 7 for UEFI on x86-64.",
			kind: numberIn(0, 65535), decode: func(r *reader, v value, d *classDraft) {
				if n, ok := r.integer(v, 0, 65535, ""); ok {
					d.class.Arch = &n
				}
			}},
		{name: "ignore", doc: "true: they are never answered.", kind: yesOrNo(),
			decode: func(r *reader, v value, d *classDraft) { d.class.Ignore, _ = r.boolean(v) }},
	}, settingFields(func(d *classDraft) *scopeDraft { return &d.scopeDraft })...)
}

func readDHCP(r *reader, v value, p *Profile) {
	const what = "a mapping such as lan: {pool: .100-.200}"
	r.filled(v, what)
	for _, entry := range r.entries(v, what, maxLinks) {
		d := dhcpDraft{dhcp: DHCP{Link: entry.key.Value, At: entry.keyPos()}}
		d.lease = defaultDHCPLease
		l := p.byName(d.dhcp.Link)
		if l != nil {
			for _, a := range l.Addresses {
				if a.Addr().Is4() {
					d.subnets = append(d.subnets, a.Masked())
					if !d.server.IsValid() {
						d.server = a.Addr()
					}
				}
			}
		}
		if entry.node.Kind == yaml.MappingNode {
			for k := 0; k+1 < len(entry.node.Content); k += 2 {
				at := value{node: entry.node.Content[k+1]}.pos()
				r.places.put(at, "dhcp.%s.%s", d.dhcp.Link, entry.node.Content[k].Value)
			}
		}
		failed := dhcpFields().read(r, entry, &d)
		for field := range failed {
			r.places.spoil("dhcp.%s.%s", d.dhcp.Link, field)
		}
		if l != nil && !r.places.spoilt("links.%s.address", l.Name) {
			d.onLink(p, l)
		} else if l != nil {
			r.places.spoil("dhcp.%s", l.Name)
		}
		d.dhcp.Subnets = append(d.dhcp.Subnets, d.relayed...)
		p.DHCP = append(p.DHCP, d.dhcp)
	}
}

// onLink makes the subnets of the link itself, with what the other sections say of it.
func (d *dhcpDraft) onLink(p *Profile, l *Link) {
	for _, a := range l.Addresses {
		if !a.Addr().Is4() || slices.ContainsFunc(d.dhcp.Subnets, func(s DHCPSubnet) bool { return s.Prefix == a.Masked() }) {
			continue
		}
		s := d.subnet(a.Masked(), d.dhcp.At)
		s.Server = a.Addr()
		self := a.Addr().AsSlice()
		options := settingsDraft{s.DHCPSettings, d.said}
		options.unless(3, self)
		if p.DNS != nil {
			for _, served := range p.DNS.Links {
				if served.Link == l.Name {
					options.unless(6, self)
					if served.Domain != "" {
						options.unless(15, []byte(served.Domain))
					}
				}
			}
		}
		if p.NTP != nil && slices.Contains(p.NTP.Serve, l.Name) {
			options.unless(42, self)
		}
		s.DHCPSettings = options.sorted()
		d.dhcp.Subnets = append(d.dhcp.Subnets, s)
	}
}

// subnet is what a scope says of one subnet.
func (d *scopeDraft) subnet(prefix netip.Prefix, at Pos) DHCPSubnet {
	s := DHCPSubnet{Prefix: prefix, Lease: d.lease, Relays: d.from, DHCPSettings: d.sorted(), At: at}
	var pools []AddrRange
	for _, p := range d.pools {
		if prefix.Contains(p.First) {
			pools = append(pools, p)
		}
	}
	s.Pools = without(mergeRanges(pools), mergeRanges(slices.Clone(d.exclude)))
	return s
}

// without is what is in a and not in b.
func without(a, b Ranges) (out Ranges) {
	for _, s := range a {
		first := s.First
		for _, cut := range b {
			if !first.IsValid() || cut.Last.Compare(first) < 0 || cut.First.Compare(s.Last) > 0 {
				continue
			}
			if cut.First.Compare(first) > 0 {
				out = append(out, AddrRange{first, cut.First.Prev()})
			}
			first = cut.Last.Next()
		}
		if first.IsValid() && first.Compare(s.Last) <= 0 {
			out = append(out, AddrRange{first, s.Last})
		}
	}
	return out
}

// agents reads where relay agents send from.
func (r *reader) agents(v value) (from []netip.Prefix) {
	for _, item := range r.items(v, "an address or prefix, or a list", maxBelieved) {
		if p := r.network(item); p.IsValid() {
			from = append(from, p)
		}
	}
	return from
}

// subnet reads the key of an entry of v as a subnet of a family, "IPv4" or "IPv6".
func (r *reader) subnet(v, entry value, family string) (netip.Prefix, bool) {
	prefix, problem, hint := parsePrefix(entry.key.Value)
	if problem == "" && prefix.Addr().Is6() != (family == "IPv6") {
		problem = "the subnet " + quote(entry.key.Value) + " is not " + family
	}
	if problem != "" {
		r.rejectAt(entry.keyPos(), hint, "%s: %s", v.name, problem)
	}
	return prefix, problem == ""
}

func readRelayed(r *reader, v value, d *dhcpDraft) {
	const what = "a mapping such as 10.20.0.0/24: {from: 10.0.0.2, router: 10.20.0.1, pool: .100-.200}"
	for _, entry := range r.entries(v, what, maxPrefixes) {
		prefix, ok := r.subnet(v, entry, "IPv4")
		if !ok {
			continue
		}
		s := scopeDraft{subnets: []netip.Prefix{prefix}, lease: d.lease}
		if len(relayedFields().read(r, entry, &s)) > 0 {
			continue
		}
		if !s.routed {
			r.rejectAt(entry.keyPos(), "add router: ADDRESS, the relay agent's on that subnet as a rule, or router: none",
				"missing %s.router", entry.name)
			continue
		}
		d.relayed = append(d.relayed, s.subnet(prefix, entry.keyPos()))
	}
}

func readDHCPHosts(r *reader, v value, d *dhcpDraft) {
	for _, entry := range r.entries(v, "a mapping such as printer: 52:54:00:12:34:56", maxHosts) {
		h := hostDraft{host: DHCPHost{Name: entry.key.Value, At: entry.keyPos()}}
		h.server, h.subnets = d.server, d.subnets
		if entry.node.Kind != yaml.MappingNode {
			if readDHCPMACs(r, entry, &h); len(h.host.MACs) == 0 {
				continue
			}
		} else if failed := dhcpHostFields().read(r, entry, &h); failed["address"] || failed["mac"] || failed["client_id"] {
			continue
		}
		if known := r.hostNamed(h.host.Name); known != nil && !h.host.Address.IsValid() {
			for _, a := range known.Addresses {
				if a.Is4() && !h.host.Address.IsValid() {
					h.host.Address = a
				}
			}
		}
		h.host.DHCPSettings = h.sorted()
		d.dhcp.Hosts = append(d.dhcp.Hosts, h.host)
	}
}

func readDHCPClasses(r *reader, v value, d *dhcpDraft) {
	for _, entry := range r.entries(v, "a mapping such as pxe: {vendor: PXEClient*}", maxServices) {
		c := classDraft{class: DHCPClass{Name: entry.key.Value, At: entry.keyPos()}}
		c.server, c.subnets = d.server, d.subnets
		if len(dhcpClassFields().read(r, entry, &c)) > 0 {
			continue
		}
		c.class.DHCPSettings = c.sorted()
		d.dhcp.Classes = append(d.dhcp.Classes, c.class)
	}
}

func readDHCPMACs(r *reader, v value, h *hostDraft) {
	for _, item := range r.items(v, "a hardware address such as 52:54:00:12:34:56, or a list", maxAddresses) {
		if mac, ok := r.hardware(item); ok {
			h.host.MACs = append(h.host.MACs, mac)
		}
	}
}

func readClientIDs(r *reader, v value, h *hostDraft) {
	const what = "a client identifier: a text, or 0x and hex digits"
	for _, item := range r.items(v, what, maxAddresses) {
		text, ok := r.word(item, what)
		if !ok {
			continue
		}
		id := append([]byte{0}, text...) // type 0: no hardware address (RFC 2132 section 9.14)
		if digits, raw := strings.CutPrefix(text, "0x"); raw {
			var err error
			if id, err = hex.DecodeString(digits); err != nil {
				r.expected(item, what, "")
				continue
			}
		} else if mac, err := net.ParseMAC(text); err == nil && len(mac) == macBytes {
			r.expected(item, what, "write mac: "+text+" for a hardware address")
			continue
		}
		h.host.ClientIDs = append(h.host.ClientIDs, hex.EncodeToString(id))
	}
}

// leaseTime reads for how long: 12h, forever.
func (r *reader) leaseTime(v value) uint32 {
	const what = "a length of time such as 12h, or forever"
	text, ok := r.word(v, what)
	if !ok {
		return 0
	}
	if text == "forever" {
		return EndlessLease
	}
	n, good := parseSpan(text)
	if !good || n > maxDHCPLease {
		r.expected(v, what, "at most 10 years, or forever")
		return 0
	}
	return uint32(n)
}

// address4 reads an IPv4 address: a short one in the scope's subnets, that of a host, or self.
func (r *reader) address4(v value, d *scopeDraft) netip.Addr {
	if v.node.Kind == yaml.ScalarNode && v.node.Value == Self && d.server.IsValid() {
		return d.server
	}
	if v.node.Kind == yaml.ScalarNode && strings.HasPrefix(v.node.Value, ".") && len(d.subnets) > 0 {
		a, _ := r.poolEnd(v, v.node.Value, d.subnets)
		return a
	}
	a := r.oneHost(v)
	if a.IsValid() && !a.Is4() {
		r.expected(v, "an IPv4 address", "")
		return netip.Addr{}
	}
	return a
}

// pool reads ranges of addresses, short ones in one of the subnets given.
func (r *reader) pool(v value, subnets []netip.Prefix) (all []AddrRange) {
	const what = "addresses such as .100-.200, 10.0.0.100-10.0.0.200 or 10.0.0.128/25, or a list"
	for _, item := range r.items(v, what, maxPrefixes) {
		text, ok := r.dotted(item, what)
		if !ok {
			continue
		}
		if strings.Contains(text, "/") {
			p, problem, hint := parsePrefix(text)
			if problem != "" || !p.Addr().Is4() {
				r.rejectAt(item.pos(), hint, "%s: %s", item.name, cmp.Or(problem, "not IPv4: "+quote(text)))
				continue
			}
			all = append(all, rangeOf(p))
			continue
		}
		first, last, ranged := strings.Cut(text, "-")
		if !ranged {
			last = first
		}
		a, ok1 := r.poolEnd(item, first, subnets)
		if !ok1 {
			continue
		}
		if strings.Contains(strings.TrimPrefix(last, "."), ".") || strings.HasPrefix(last, ".") || !ranged {
			b, ok2 := r.poolEnd(item, last, subnets)
			if ok2 && a.Compare(b) > 0 {
				r.rejectAt(item.pos(), "write the lower address first", "%s: %s ends before it begins", item.name, clip(text))
			} else if ok2 {
				all = append(all, AddrRange{a, b})
			}
			continue
		}
		r.expected(item, what, "write "+clip(first)+"-."+clip(last))
	}
	return all
}

// poolEnd reads one end of a range.
func (r *reader) poolEnd(v value, text string, subnets []netip.Prefix) (netip.Addr, bool) {
	if !strings.HasPrefix(text, ".") {
		a, problem, hint := parseAddress(text)
		if problem == "" && !a.Is4() {
			problem = "not IPv4: " + quote(text)
		}
		if problem != "" {
			r.rejectAt(v.pos(), hint, "%s: %s", v.name, problem)
		}
		return a, problem == ""
	}
	tail := strings.Split(text[1:], ".")
	var fit []netip.Addr
	for _, s := range subnets {
		if len(tail) >= net4Bytes {
			break
		}
		head := strings.Split(s.Addr().String(), ".")[:net4Bytes-len(tail)]
		if a, err := netip.ParseAddr(strings.Join(append(head, tail...), ".")); err == nil && s.Contains(a) {
			fit = append(fit, a)
		}
	}
	switch {
	case len(fit) == 1:
		return fit[0], true
	case len(fit) > 1:
		r.rejectAt(v.pos(), "write the whole address, "+fit[0].String()+" or "+fit[1].String(),
			"%s: %s can mean %d addresses", v.name, clip(text), len(fit))
	case len(subnets) > 0:
		r.rejectAt(v.pos(), "", "%s: %s is not in %s", v.name, clip(text), subnets[0])
	}
	return netip.Addr{}, false
}
