package profiles

import (
	"slices"
	"strconv"
)

// SynProxy has the kernel answer a client's SYN for the server, by a cookie, and open the connection to the server
// once the client has answered in turn: a flood of SYNs under forged addresses reaches neither the server nor
// connection tracking. What the proxy promises the client the server has to keep.
type SynProxy struct {
	// MSS is the largest segment the client is told, in bytes; 0: what fits 1,500 byte packets, 1,460 by IPv4 and 1,440
	// by IPv6.
	MSS uint16 `json:"mss,omitempty"`
	// WScale is the window scale of the server, 0 to 14 (RFC 7323, section 2.3).
	WScale uint8 `json:"wscale"`
}

// DefaultWScale is the window scale of Linux servers with the usual net.ipv4.tcp_rmem, whose largest is 6 MiB.
const DefaultWScale = 7

// Bounds of what a line does to packets.
const (
	maxDSCP   = 63 // RFC 2474, section 3: six bits
	maxTTL    = 255
	minMSS    = 536 // RFC 9293, section 3.7.1: what every host takes
	maxMSS    = 65_495
	maxWScale = 14 // RFC 7323, section 2.3
)

// classOfService is a name for a DSCP.
type classOfService struct {
	name string
	dscp uint8
}

// classes are the names of the IANA registry of Differentiated Services Field Codepoints: RFC 2474, section 4.2.2.1,
// RFC 2597, section 6, RFC 3246, RFC 5865, and RFC 8622 for lower effort.
func classes() []classOfService {
	return []classOfService{{"cs0", 0}, {"cs1", 8}, {"cs2", 16}, {"cs3", 24}, {"cs4", 32}, {"cs5", 40}, {"cs6", 48},
		{"cs7", 56}, {"af11", 10}, {"af12", 12}, {"af13", 14}, {"af21", 18}, {"af22", 20}, {"af23", 22}, {"af31", 26},
		{"af32", 28}, {"af33", 30}, {"af41", 34}, {"af42", 36}, {"af43", 38}, {"ef", 46}, {"va", 44}, {"le", 1}}
}

// DSCPName is the name of a class of service, or its number.
func DSCPName(n uint8) string {
	all := classes()
	if i := slices.IndexFunc(all, func(c classOfService) bool { return c.dscp == n }); i >= 0 {
		return all[i].name
	}
	return strconv.Itoa(int(n))
}

// SynProxies tells whether anything in the profile asks for a SYN proxy: connection tracking then takes no connection
// whose beginning it has not seen.
func (p *Profile) SynProxies() bool {
	return slices.ContainsFunc(p.Policy, func(r Rule) bool { return r.SynProxy != nil }) ||
		slices.ContainsFunc(p.Forwards, func(f Forward) bool { return f.SynProxy != nil })
}
