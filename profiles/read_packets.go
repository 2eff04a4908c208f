//go:build !guest

package profiles

import (
	"fmt"
	"strconv"

	"gopkg.in/yaml.v3"
)

const synproxyDoc = "true: the guest answers SYNs for the server until the client has shown that it is there, against" +
	" floods; or {mss: 1460, wscale: 7} where the server's are others."

// dscpWords are the names of classes of service.
func dscpWords() (all []string) {
	for _, c := range classes() {
		all = append(all, c.name)
	}
	return all
}

// synproxyFields are the keys of a SYN proxy that is more than true.
func synproxyFields() table[SynProxy] {
	return table[SynProxy]{
		{name: "mss", doc: "Largest segment in bytes that clients are told. Default: 1460 by IPv4, 1440 by IPv6.",
			kind: numberIn(minMSS, maxMSS), decode: func(r *reader, v value, s *SynProxy) {
				n, _ := r.integer(v, minMSS, maxMSS, "bytes")
				s.MSS = uint16(n)
			}},
		{name: "wscale", doc: "Window scale of the server, which clients are told. Default: 7, that of Linux.",
			kind: numberIn(0, maxWScale), decode: func(r *reader, v value, s *SynProxy) {
				n, _ := r.integer(v, 0, maxWScale, "")
				s.WScale = uint8(n)
			}},
	}
}

func synproxySchema() schema { return eitherOf(yesOrNo(), synproxyFields().schema()) }

// synproxy reads true, false or a mapping.
func (r *reader) synproxy(v value) *SynProxy {
	s := &SynProxy{WScale: DefaultWScale}
	if v.node.Kind == yaml.MappingNode {
		synproxyFields().read(r, v, s)
		return s
	}
	if v.node.Kind != yaml.ScalarNode || v.node.Tag != "!!bool" {
		r.expected(v, "true, or a mapping such as {mss: 1460, wscale: 7}", "")
		return nil
	}
	if yes, _ := r.boolean(v); yes {
		return s
	}
	return nil
}

func readDSCP(r *reader, v value, d *matchDraft) {
	what := fmt.Sprintf("a class of service such as ef, cs6 or af41, or a number from 0 to %d", maxDSCP)
	if v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!int" {
		n, err := strconv.ParseUint(v.node.Value, 10, 8)
		if err != nil || n > maxDSCP || strconv.FormatUint(n, 10) != v.node.Value {
			r.expected(v, what, "")
			return
		}
		dscp := uint8(n)
		d.dscp = &dscp
		return
	}
	text, ok := r.word(v, what)
	if !ok {
		return
	}
	for _, c := range classes() {
		if c.name == text {
			d.dscp = &c.dscp
			return
		}
	}
	r.expected(v, what, suggest(text, dscpWords()))
}

func readTTL(r *reader, v value, d *matchDraft) {
	n, _ := r.integer(v, 1, maxTTL, "hops")
	d.ttl = uint8(n)
}
