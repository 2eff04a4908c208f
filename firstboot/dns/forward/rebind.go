package forward

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// rebinds returns a private address in an answer to a name that must not have one, or the zero address.
func (f *Forwarder) rebinds(name string, m *dns.Msg) netip.Addr {
	if f.expected(name) {
		return netip.Addr{}
	}
	for _, rr := range m.Answer {
		for _, a := range addresses(rr) {
			if private(a) { // under an expected name, too: who asked believes it to be the name's it asked for
				return a
			}
		}
	}
	return netip.Addr{}
}

// expected tells whether a name may have private addresses.
func (f *Forwarder) expected(name string) bool {
	name = strings.ToLower(name)
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if f.rebindOK[name[off:]] {
			return true
		}
	}
	return false
}

// addresses are those a record would have a client connect to; hints of SVCB and HTTPS (RFC 9460 7.3) among them.
func addresses(rr dns.RR) (all []netip.Addr) {
	add := func(raw []byte) {
		if a, ok := netip.AddrFromSlice(raw); ok {
			all = append(all, a.Unmap())
		}
	}
	values := []dns.SVCBKeyValue(nil)
	switch rr := rr.(type) {
	case *dns.A:
		add(rr.A)
	case *dns.AAAA:
		add(rr.AAAA)
	case *dns.SVCB:
		values = rr.Value
	case *dns.HTTPS:
		values = rr.Value
	}
	for _, v := range values {
		switch v := v.(type) {
		case *dns.SVCBIPv4Hint:
			for _, ip := range v.Hint {
				add(ip.To4())
			}
		case *dns.SVCBIPv6Hint:
			for _, ip := range v.Hint {
				add(ip)
			}
		}
	}
	return all
}

// inside are addresses that no name of the Internet has a reason for, beside those netip tells (RFC 6890): this
// network, and what a provider shares among customers.
var inside = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10")}

// nat64 is where IPv4 addresses are within IPv6 (RFC 6052 2.1).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// private tells whether an address is one of a network inside. IPv4 within IPv6, by NAT64 or the old compatible form
// (RFC 4291 2.5.5.1), counts as what it holds.
func private(a netip.Addr) bool {
	if raw := a.As16(); a.Is6() && !a.IsLoopback() && (nat64.Contains(a) || [12]byte(raw[:12]) == [12]byte{}) {
		a = netip.AddrFrom4([4]byte(raw[12:]))
	}
	if a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() {
		return true
	}
	for _, p := range inside {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
