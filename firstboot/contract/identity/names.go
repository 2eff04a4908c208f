package identity

import (
	"net"
	"strings"
)

// Bounds of names in bytes. What they hold is checked by hand: regular expressions would make the guest's program 5 %
// larger.
const (
	maxHostname = 63 // RFC 1123, section 2.1, with RFC 1035, section 2.3.4
	maxLinkName = 15 // IFNAMSIZ-1 of <linux/if.h>
	maxConsumer = 31
	maxName     = 80
	maxWords    = 3
)

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
)

// of tells whether a text has 1 to most bytes, all of which are among these, and begins with one of first.
func of(s string, most int, bytes, first string) bool {
	return s != "" && len(s) <= most && strings.Trim(s, bytes) == "" && strings.IndexByte(first, s[0]) >= 0
}

// IsHostname tells whether a text is a host name that an identity may hold: an RFC 1123 label in lower case.
func IsHostname(s string) bool {
	return of(s, maxHostname, lower+digits+"-", lower+digits) && s[len(s)-1] != '-'
}

func isLink(s string) bool { return of(s, maxLinkName, lower+upper+digits+"_.-", lower+upper) }

func isConsumer(s string) bool { return of(s, maxConsumer, lower+digits+"-", lower) }

// isName: its words become file names, so none may begin with a dot.
func isName(s string) bool {
	words := strings.Split(s, "/")
	for _, w := range words {
		if !of(w, maxName, lower+upper+digits+"_.-", lower+upper+digits+"_-") {
			return false
		}
	}
	return len(words) <= maxWords && len(s) <= maxName
}

// isMAC tells whether a text is the address of one station (IEEE 802: bit 0 of the first byte is for groups), in lower
// case with colons.
func isMAC(s string) bool {
	mac, err := net.ParseMAC(s)
	return err == nil && len(mac) == 6 && mac.String() == s && mac[0]&1 == 0 && s != "00:00:00:00:00:00"
}
