//go:build !guest

package profiles

import (
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// vlansPattern is one VLAN or a range of them.
const vlansPattern = `^[1-9][0-9]{0,3}-[1-9][0-9]{0,3}$`

// portFields are the keys of one port of a bridge that looks at tags.
func portFields() table[BridgePort] {
	vlans := oneOrMore(eitherOf(numberIn(1, maxVLAN), textLike(vlansPattern)))
	return table[BridgePort]{
		{name: "pvid", doc: "VLAN of frames that arrive without a tag, 1 to 4094. It leaves without one too unless tagged" +
			" says otherwise. Default: such frames are dropped.", kind: numberIn(1, maxVLAN),
			decode: func(r *reader, v value, p *BridgePort) { p.PVID, _ = r.integer(v, 1, maxVLAN, "") }},
		{name: "tagged", doc: "VLANs that pass with their tag: 10, 10-19, or a list.", kind: vlans,
			decode: func(r *reader, v value, p *BridgePort) { p.Tagged = r.vlans(v) }},
		{name: "untagged", doc: "Further VLANs that leave without a tag: 10, 10-19, or a list.", kind: vlans,
			decode: func(r *reader, v value, p *BridgePort) { p.Untagged = r.vlans(v) }},
	}
}

func readPorts(r *reader, v value, b *Bridge) {
	const what = "a mapping such as {p1: {pvid: 10}, p2: {tagged: [10, 20]}}"
	r.filled(v, what)
	for _, entry := range r.entries(v, what, maxLinks) {
		p := BridgePort{Link: entry.key.Value, At: entry.keyPos()}
		portFields().read(r, entry, &p)
		if in(p.PVID, p.Tagged) == nil && in(p.PVID, p.Untagged) == nil && p.PVID != 0 {
			p.Untagged = append(p.Untagged, VLANRange{p.PVID, p.PVID})
		}
		b.Ports = append(b.Ports, p)
	}
}

// vlans reads numbers of VLANs and ranges of them.
func (r *reader) vlans(v value) (all []VLANRange) {
	const what = "a VLAN from 1 to 4094, a range such as 10-19, or a list"
	for _, item := range r.items(v, what, maxVLANRanges) {
		n := item.node
		first, last, ranged := strings.Cut(n.Value, "-")
		if !ranged {
			last = first
		}
		low, ok1 := vlanNumber(first)
		high, ok2 := vlanNumber(last)
		switch {
		case n.Kind != yaml.ScalarNode || n.Tag != "!!int" && (n.Tag != "!!str" || !ranged) || !ok1 || !ok2:
			r.expected(item, what, "")
		case low > high:
			r.rejectAt(item.pos(), "", "%s: the range %d-%d is upside down", item.name, low, high)
		default:
			all = append(all, VLANRange{low, high})
		}
	}
	return all
}

func vlanNumber(text string) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 1 && n <= maxVLAN && strconv.Itoa(n) == text
}
