package zonefile

import (
	"slices"

	"github.com/miekg/dns"
)

// maxName is RFC 1035 section 2.3.4, in bytes on the wire.
const maxName = 255

// CompareNames is the canonical order of names (RFC 4034 section 6.1). Both are absolute and in lower case.
func CompareNames(a, b string) int {
	as, bs := dns.Split(a), dns.Split(b)
	for i := 1; i <= len(as) && i <= len(bs); i++ {
		if c := slices.Compare(octets(a[as[len(as)-i]:]), octets(b[bs[len(bs)-i]:])); c != 0 {
			return c
		}
	}
	return len(as) - len(bs)
}

// octets is the first label of a name, its escapes undone.
func octets(name string) []byte {
	var buffer [4 * maxName]byte
	n, err := dns.PackDomainName(name, buffer[:], 0, nil, false)
	if err != nil || n == 0 {
		return []byte(name)
	}
	return slices.Clone(buffer[1 : 1+int(buffer[0])])
}
