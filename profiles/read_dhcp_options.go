//go:build !guest

package profiles

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// say notes an option. Of one said twice the reader has told.
func (d *settingsDraft) say(code uint8, value []byte, drop bool, at Pos) {
	if d.said == nil {
		d.said = map[uint8]Pos{}
	}
	d.said[code] = at
	d.Options = append(d.Options, DHCPOption{Code: code, Value: value, Drop: drop})
}

// unless notes an option that was not said.
func (d *settingsDraft) unless(code uint8, value []byte) {
	if _, said := d.said[code]; !said {
		d.Options = append(slices.Clone(d.Options), DHCPOption{Code: code, Value: value})
	}
}

// sorted are the settings as a Profile has them.
func (d *settingsDraft) sorted() DHCPSettings {
	out := d.DHCPSettings
	out.Options = slices.Clone(out.Options)
	slices.SortStableFunc(out.Options, func(a, b DHCPOption) int { return int(a.Code) - int(b.Code) })
	return out
}

// options reads options by number or name.
func (r *reader) options(v value, d *scopeDraft) {
	for _, entry := range r.entries(v, "a mapping such as {19: 1, ntp-servers: 10.0.0.5}", maxDHCPOptions) {
		var o dhcpOption
		name := entry.key.Value
		if n, err := strconv.Atoi(name); err == nil {
			if n < 1 || n > maxOptionCode || strconv.Itoa(n) != name {
				r.rejectAt(entry.keyPos(), "", "%s: %s is no option, expected 1 to %d", v.name, clip(name), maxOptionCode)
				continue
			}
			o = optionByCode(n)
		} else {
			var known bool
			if o, known = optionByName(strings.ToLower(name)); !known {
				hint := nearest(strings.ToLower(name), optionNames())
				if hint == "" {
					hint = "write its number, or its name in IANA's registry of DHCP options in lower case with dashes"
				}
				r.rejectAt(entry.keyPos(), hint, "%s: unknown option %s", v.name, quote(name))
				continue
			}
		}
		r.option(entry, o, d)
	}
}

// option reads the value of one option.
func (r *reader) option(v value, o dhcpOption, d *scopeDraft) {
	switch first, twice := d.said[o.code]; {
	case o.kind == optReserved:
		r.rejectAt(v.keyPos(), "remove it; lease, pool and hosts say what it would", "%s: the server itself says option %d",
			v.name, o.code)
		return
	case twice:
		r.rejectAt(v.keyPos(), "remove one", "%s: option %d comes twice, first at %s", v.name, o.code, first)
		return
	}
	if v.node.Kind == yaml.ScalarNode && v.node.Value == "none" && o.kind != optText {
		d.say(o.code, nil, true, v.keyPos())
		return
	}
	if value, ok := r.optionValue(v, o, d); ok {
		if len(value) > maxOptionBytes || len(value) == 0 {
			r.rejectAt(v.pos(), "", "%s: %d bytes, expected 1 to %d", v.name, len(value), maxOptionBytes)
			return
		}
		d.say(o.code, value, false, v.keyPos())
	}
}

// optionValue reads a value of the option's kind as it is sent. ok is false when that was told.
func (r *reader) optionValue(v value, o dhcpOption, d *scopeDraft) (b []byte, ok bool) {
	before := len(r.findings)
	switch o.kind {
	case optText:
		text, _ := r.dotted(v, "a text")
		b = []byte(text)
	case optFlag:
		b = r.flag(v)
	case optByte:
		n, _ := r.integer(v, 0, math.MaxUint8, "")
		b = []byte{byte(n)}
	case optShort:
		n, _ := r.integer(v, 0, math.MaxUint16, "")
		b = binary.BigEndian.AppendUint16(nil, uint16(n))
	case optLong:
		n, _ := r.integer(v, 0, math.MaxUint32, "")
		b = binary.BigEndian.AppendUint32(nil, uint32(n))
	case optSigned:
		n, _ := r.integer(v, math.MinInt32, math.MaxInt32, "")
		b = binary.BigEndian.AppendUint32(nil, uint32(int32(n)))
	case optShorts:
		for _, item := range r.items(v, "a number, or a list of numbers", maxDHCPOptions) {
			n, _ := r.integer(item, 0, math.MaxUint16, "")
			b = binary.BigEndian.AppendUint16(b, uint16(n))
		}
	case optAddress:
		b = r.address4(v, d).AsSlice()
	case optAddresses:
		for _, item := range r.items(v, "an address, or a list of addresses", maxAddresses) {
			b = append(b, r.address4(item, d).AsSlice()...)
		}
	case optPairs:
		for _, pair := range r.elements(v, "a list of pairs of addresses such as [[10.0.0.0, 10.0.0.1]]", maxAddresses) {
			two := r.elements(pair, "a pair of addresses such as [10.0.0.0, 10.0.0.1]", 2)
			if len(two) != 2 {
				r.expected(pair, "a pair of addresses such as [10.0.0.0, 10.0.0.1]", "")
				continue
			}
			b = append(append(b, r.address4(two[0], d).AsSlice()...), r.address4(two[1], d).AsSlice()...)
		}
	case optDomain:
		if name, ok := r.domain(v); ok {
			b = wireName(nil, name)
		}
	case optDomains:
		for _, item := range r.items(v, "a domain, or a list of domains", maxAddresses) {
			if name, ok := r.domain(item); ok {
				b = wireName(b, name)
			}
		}
	case optRoutes:
		b = r.wireRoutes(v, d)
	case optBytes:
		b = r.rawBytes(v, o)
	}
	return b, len(r.findings) == before
}

// flag reads true, false, 1 or 0.
func (r *reader) flag(v value) []byte {
	if v.node.Kind == yaml.ScalarNode {
		switch v.node.Value {
		case "1", "true":
			return []byte{1}
		case "0", "false":
			return []byte{0}
		}
	}
	r.expected(v, "true or false, 1 or 0", "")
	return nil
}

// rawBytes reads 0x and hex digits, or a text.
func (r *reader) rawBytes(v value, o dhcpOption) []byte {
	if v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!int" && strings.HasPrefix(v.node.Value, "0x") ||
		v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!str" {
		digits, raw := strings.CutPrefix(v.node.Value, "0x")
		if !raw {
			return []byte(v.node.Value)
		}
		if b, err := hex.DecodeString(strings.ReplaceAll(digits, ":", "")); err == nil {
			return b
		}
	}
	r.expected(v, "0x and an even number of hex digits, or a text: what option "+strconv.Itoa(int(o.code))+
		" holds is not known", "write 0x01 for one byte of 1")
	return nil
}

// wireName adds a name in the format of RFC 1035, without compression.
func wireName(b []byte, name string) []byte {
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}

// routeOption is a route that clients are told, as written.
type routeOption struct {
	to  netip.Prefix
	via netip.Addr
}

// wireRoutes reads routes for option 121 (RFC 3442).
func (r *reader) wireRoutes(v value, d *scopeDraft) (b []byte) {
	fields := table[routeOption]{
		{name: "to", required: true, doc: "Prefix.",
			decode: func(r *reader, v value, o *routeOption) { o.to = r.network(v) }},
		{name: "via", required: true, doc: "Address of the router, or self.",
			decode: func(r *reader, v value, o *routeOption) { o.via = r.address4(v, d) }},
	}
	for _, item := range r.items(v, "{to: PREFIX, via: ADDRESS}, or a list", maxAddresses) {
		var o routeOption
		if len(fields.read(r, item, &o)) > 0 {
			continue
		}
		if !o.to.IsValid() || !o.to.Addr().Is4() || !o.via.IsValid() {
			r.expected(item, "{to: PREFIX, via: ADDRESS} of IPv4", "")
			continue
		}
		to := o.to.Addr().AsSlice()
		b = append(append(b, byte(o.to.Bits())), to[:(o.to.Bits()+7)/8]...)
		b = append(b, o.via.AsSlice()...)
	}
	return b
}
