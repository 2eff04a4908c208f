package local

import "strings"

// maxLabel is RFC 1035 section 2.3.4, in bytes.
const maxLabel = 63

// forbidden are labels no client may have: localhost is everybody's own (RFC 6761 section 6.3), wpad and isatap would
// make the client a proxy or router of its neighbours (CERT VU#598349, RFC 5214 section 9).
var forbidden = map[string]bool{"localhost": true, "wpad": true, "isatap": true, "broadcasthost": true}

// Label is what a client's name becomes as one label of a domain (RFC 1123 section 2.1): the part before the first dot,
// in lower case, with a hyphen for each run of anything but letters, digits and hyphens, cut to its length. Empty: it
// can be no name. A-labels of international names stay as they are. No name made of digits alone is one: programs take
// it for an address.
func Label(name string) string {
	name, _, _ = strings.Cut(name, ".")
	label := make([]byte, 0, maxLabel)
	for i := 0; i < len(name) && len(label) < maxLabel; i++ {
		c := name[i]
		switch {
		case c >= 'A' && c <= 'Z':
			label = append(label, c+'a'-'A')
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-':
			label = append(label, c)
		case c == 0: // RFC 2132 section 3.14: some clients end their names with it
		case len(label) == 0 || label[len(label)-1] != '-':
			label = append(label, '-')
		}
	}
	s := strings.Trim(string(label), "-")
	if forbidden[s] || numeric(s) {
		return ""
	}
	return s
}

// numeric tells whether a program may take a label for an address as inet_aton(3) does: digits, or 0x and hex digits.
func numeric(s string) bool {
	digits := "0123456789"
	if rest, ok := strings.CutPrefix(s, "0x"); ok {
		s, digits = rest, "0123456789abcdef"
	}
	return strings.Trim(s, digits) == ""
}

// suffixed is a label with something that tells clients of one name apart.
func suffixed(label, suffix string) string {
	room := maxLabel - 1 - len(suffix)
	if len(label) > room {
		label = strings.TrimRight(label[:room], "-")
	}
	return label + "-" + suffix
}
