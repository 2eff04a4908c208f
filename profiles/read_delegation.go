//go:build !guest

package profiles

import (
	"net/netip"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

func readDelegation(r *reader, v value, l *Link) {
	r.places.put(v.keyPos(), "links.%s.delegation", l.Name)
	l.Delegation = &Delegation{}
	if v.node.Kind == yaml.ScalarNode && v.node.Value == "any" {
		return
	}
	if v.node.Kind != yaml.ScalarNode || v.node.Tag != "!!int" {
		r.expected(v, "any, or the length of the prefix that is wanted, 32 to 64", "")
		return
	}
	l.Delegation.Length, _ = r.integer(v, minDelegation, maxDelegation, "bits")
}

// delegatedWord is what addresses begin with that are in what is delegated.
const delegatedWord = "delegated"

// delegatedLink reads an address of a link in what is delegated; see delegated.
func (r *reader) delegatedLink(v value, rest string, l *Link) {
	if d, ok := r.delegated(v, rest); ok {
		r.places.put(v.pos(), "links.%s.delegated[%d]", l.Name, len(l.Delegated))
		l.Delegated = append(l.Delegated, d)
	}
}

// delegated reads what follows the word in an address: "/1::1", or "::1" for subnet 0.
func (r *reader) delegated(v value, rest string) (Delegated, bool) {
	const what = "delegated, the subnet in hexadecimal and the host, such as delegated/1::1"
	subnet, host, found := strings.Cut(rest, "::")
	digits, slash := strings.CutPrefix(subnet, "/")
	d := Delegated{}
	if n, err := strconv.ParseUint(digits, 16, 32); slash && err == nil {
		d.Subnet = uint32(n)
	} else if subnet != "" {
		found = false
	}
	a, err := netip.ParseAddr("::" + host)
	if !found || err != nil || host == "" {
		r.expected(v, what, "")
		return d, false
	}
	d.Host = a
	return d, true
}
