//go:build !guest

package profiles

import (
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// deviceFields are the keys of a link that make it something else than a NIC, or set how the NIC works.
func deviceFields() table[Link] {
	members := func(doc string) field[[]string] {
		return field[[]string]{name: "members", doc: doc, kind: oneOrMore(textLike(linkPattern)), required: true,
			decode: readMembers}
	}
	return table[Link]{
		{name: "vlan", doc: "This link is a VLAN on another: {parent: LINK, id: NUMBER}.", kind: vlanFields().schema(),
			decode: func(r *reader, v value, l *Link) {
				l.VLAN = &VLAN{Protocol: Tag8021Q}
				vlanFields().read(r, v, l.VLAN)
				r.places.put(v.keyPos(), "links.%s.device", l.Name)
			}},
		{name: "bond", doc: "This link is several NICs as one: {members: [LINK], mode: 802.3ad}.",
			kind: bondFields(members).schema(),
			decode: func(r *reader, v value, l *Link) {
				l.Bond = &Bond{Mode: BondLACP}
				bondFields(members).read(r, v, l.Bond)
				r.places.put(v.keyPos(), "links.%s.device", l.Name)
			}},
		{name: "bridge", doc: "This link joins others to one segment, without STP and without delay: {members: [LINK]}. " +
			"What passes between members that are in zones is judged by the policy; between members in none all passes.",
			kind: bridgeFields(members).schema(),
			decode: func(r *reader, v value, l *Link) {
				l.Bridge = &Bridge{}
				bridgeFields(members).read(r, v, l.Bridge)
				for i := range l.Bridge.Ports {
					r.places.put(l.Bridge.Ports[i].At, "links.%s.ports[%d]", l.Name, i)
				}
				r.places.put(v.keyPos(), "links.%s.device", l.Name)
			}},
		{name: "macvlan", doc: "This link is a further hardware address on another: {parent: LINK}.",
			kind: macvlanFields().schema(),
			decode: func(r *reader, v value, l *Link) {
				l.Macvlan = &Macvlan{}
				macvlanFields().read(r, v, l.Macvlan)
				r.places.put(v.keyPos(), "links.%s.device", l.Name)
			}},
		{name: "dummy", doc: "true: this link leads nowhere; its addresses are the guest's whatever NIC fails.",
			kind: yesOrNo(), decode: func(r *reader, v value, l *Link) {
				l.Dummy, _ = r.boolean(v)
				r.places.put(v.keyPos(), "links.%s.device", l.Name)
			}},
		{name: "virtual_mac", doc: "Hardware address the NIC is to use in place of its own, such as one a hoster assigned.",
			kind: textLike(macPattern), decode: func(r *reader, v value, l *Link) {
				l.VirtualMAC, _ = r.hardware(v)
				r.places.put(v.pos(), "links.%s.virtual_mac", l.Name)
			}},
		{name: "offloads", doc: "What the NIC does for the kernel: off or on for all, or {tx: off, sg: off, tso: off, " +
			"gso: off," +
			" gro: off, lro: off}. Default: as the NIC comes.",
			kind: eitherOf(switchWords(), offloadFields().schema()), decode: readOffloads},
		{name: "txqueuelen", doc: "How many packets wait to be sent at most, 1 to 100000. Default: the kernel's.",
			kind: numberIn(1, maxTxQueue), decode: func(r *reader, v value, l *Link) {
				l.TxQueue, _ = r.integer(v, 1, maxTxQueue, "packets")
			}},
		{name: "arp", doc: "off: neither ask nor answer ARP on this link.", kind: switchWords(),
			decode: func(r *reader, v value, l *Link) { l.NoARP = r.turn(v) == Off }},
		{name: "ipv6", doc: "off: no IPv6 on this link, which is so too where it has no IPv6 address.", kind: oneWordOf(Off),
			decode: func(r *reader, v value, l *Link) {
				if text := r.turn(v); text == On {
					r.rejectAt(v.pos(), "remove it, an IPv6 address is what switches IPv6 on", "%s: expected off", v.name)
				} else {
					l.NoIPv6 = text == Off
				}
				r.places.put(v.pos(), "links.%s.ipv6", l.Name)
			}},
	}
}

func vlanFields() table[VLAN] {
	return table[VLAN]{
		{name: "parent", doc: "The link whose VLAN it is.", kind: textLike(linkPattern), required: true,
			decode: func(r *reader, v value, d *VLAN) { d.Parent, _ = r.word(v, "the name of a link") }},
		{name: "id", doc: "Number of the VLAN, 1 to 4094.", kind: numberIn(1, maxVLAN), required: true,
			decode: func(r *reader, v value, d *VLAN) { d.ID, _ = r.integer(v, 1, maxVLAN, "") }},
		{name: "protocol", doc: "802.1q, the default, or 802.1ad for the outer tag of two.",
			kind:   oneWordOf(Tag8021Q, Tag8021AD),
			decode: func(r *reader, v value, d *VLAN) { d.Protocol = r.choice(v, Tag8021Q, Tag8021AD) }},
	}
}

func bondFields(members func(string) field[[]string]) table[Bond] {
	m := members("The NICs that are bonded: names of links without addresses.")
	return table[Bond]{
		{name: m.name, doc: m.doc, kind: m.kind, required: true,
			decode: func(r *reader, v value, b *Bond) { m.decode(r, v, &b.Members) }},
		{name: "mode", doc: "802.3ad (LACP, the default), active-backup, balance-xor or balance-rr.",
			kind: oneWordOf(bondModes()...), decode: func(r *reader, v value, b *Bond) { b.Mode = r.choice(v, bondModes()...) }},
		{name: "lacp_rate", doc: "How often LACP speaks: slow (every 30 s, the default) or fast (every second).",
			kind:   oneWordOf(lacpRates()...),
			decode: func(r *reader, v value, b *Bond) { b.LACPRate = r.choice(v, lacpRates()...) }},
		{name: "hash_policy", doc: "What of a packet chooses the member it goes by: layer2 (the default), layer2+3, " +
			"layer3+4," +
			" encap2+3 or encap3+4.", kind: oneWordOf(hashPolicies()...),
			decode: func(r *reader, v value, b *Bond) { b.HashPolicy = r.choice(v, hashPolicies()...) }},
		{name: "primary", doc: "With active-backup: the member that is used whenever it has carrier. Default: one is used" +
			" until it fails.", kind: textLike(linkPattern),
			decode: func(r *reader, v value, b *Bond) { b.Primary, _ = r.word(v, "the name of a member") }},
		{name: "miimon", doc: "How often the members' carriers are looked at, in milliseconds. Default 100.",
			kind:   numberIn(minMiimon, maxMiimon),
			decode: func(r *reader, v value, b *Bond) { b.Miimon, _ = r.integer(v, minMiimon, maxMiimon, "milliseconds") }},
	}
}

func bridgeFields(members func(string) field[[]string]) table[Bridge] {
	m := members("The links that are joined: names of links without addresses.")
	return table[Bridge]{
		{name: m.name, doc: m.doc, kind: m.kind, required: true,
			decode: func(r *reader, v value, b *Bridge) { m.decode(r, v, &b.Members) }},
		{name: "stp", doc: "Spanning tree protocol.", later: "remove it, bridges of this version do not speak STP"},
		{name: "vlan_filtering", doc: "The VLANs of each member: {MEMBER: {pvid: 10}, MEMBER: {tagged: [10, 20-29]}}, and" +
			" under the bridge's own name those of the guest itself. A VLAN link on the bridge needs nothing more." +
			" Frames of other VLANs are dropped.",
			kind: filled(named(linkPattern, portFields().schema())), decode: readPorts},
	}
}

func macvlanFields() table[Macvlan] {
	return table[Macvlan]{
		{name: "parent", doc: "The link it is on.", kind: textLike(linkPattern), required: true,
			decode: func(r *reader, v value, d *Macvlan) { d.Parent, _ = r.word(v, "the name of a link") }},
	}
}

func readMembers(r *reader, v value, into *[]string) {
	const what = "the name of a link, or a list of links"
	for _, item := range r.items(v, what, maxLinks) {
		if text, ok := r.word(item, what); ok {
			*into = append(*into, text)
		}
	}
}

func offloadFields() table[Offloads] {
	one := func(name, doc string, at func(*Offloads) *string) field[Offloads] {
		return field[Offloads]{name: name, doc: doc, kind: switchWords(),
			decode: func(r *reader, v value, o *Offloads) { *at(o) = r.turn(v) }}
	}
	return table[Offloads]{
		one("tx", "Checksums of what is sent.", func(o *Offloads) *string { return &o.TX }),
		one("sg", "Packets sent from several pieces of memory.", func(o *Offloads) *string { return &o.SG }),
		one("tso", "TCP cut into packets by the NIC.", func(o *Offloads) *string { return &o.TSO }),
		one("gso", "Packets cut as late as possible.", func(o *Offloads) *string { return &o.GSO }),
		one("gro", "Packets joined on arrival.", func(o *Offloads) *string { return &o.GRO }),
		one("lro", "Packets joined by the NIC; a router must not.", func(o *Offloads) *string { return &o.LRO }),
	}
}

func readOffloads(r *reader, v value, l *Link) {
	if v.node.Kind == yaml.MappingNode {
		offloadFields().read(r, v, &l.Offloads)
		return
	}
	all := r.turn(v)
	l.Offloads = Offloads{TX: all, SG: all, TSO: all, GSO: all, GRO: all, LRO: all}
	if all == On {
		l.Offloads.LRO = "" // it joins what a router must send on as it came
	}
}

func switchWords() schema { return schema{"enum": []any{On, Off, true, false}} }

// turn reads on or off. YAML's true and false say the same.
func (r *reader) turn(v value) string {
	switch {
	case v.node.Kind != yaml.ScalarNode:
	case v.node.Tag == "!!bool" && strings.EqualFold(v.node.Value, "true"), v.node.Value == On:
		return On
	case v.node.Tag == "!!bool", v.node.Value == Off:
		return Off
	}
	r.expected(v, "on or off", "")
	return ""
}

// choice reads one of a few words.
func (r *reader) choice(v value, words ...string) string {
	if v.node.Kind == yaml.ScalarNode && slices.Contains(words, v.node.Value) {
		return v.node.Value
	}
	hint := ""
	if v.node.Kind == yaml.ScalarNode {
		hint = nearest(v.node.Value, words)
	}
	r.expected(v, "one of "+strings.Join(words, ", "), hint)
	return ""
}
