package zonefile

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// Reverse makes the records of a reverse zone, named by an address prefix of whole labels, out of a checked zone's: its
// SOA and NS, and a PTR for each address in the prefix that a name owns which is no wildcard and not delegated.
func Reverse(origin string, records []Record, prefix netip.Prefix) (zone string, reverse []Record) {
	origin = dns.CanonicalName(origin)
	zone = ReverseZone(prefix)
	for _, r := range records {
		switch rr := r.RR.(type) {
		case *dns.SOA:
			soa := *rr
			soa.Hdr.Name = zone
			reverse = append(reverse, Record{&soa, r.File, r.Line})
		case *dns.NS:
			if rr.Hdr.Name == origin {
				ns := *rr
				ns.Hdr.Name = zone
				reverse = append(reverse, Record{&ns, r.File, r.Line})
			}
		case *dns.A:
			reverse = pointer(reverse, r, rr.A.To4(), prefix)
		case *dns.AAAA:
			reverse = pointer(reverse, r, rr.AAAA, prefix)
		}
	}
	return zone, reverse
}

func pointer(reverse []Record, r Record, ip []byte, prefix netip.Prefix) []Record {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok || !prefix.Contains(addr) || strings.HasPrefix(r.Header().Name, "*.") {
		return reverse
	}
	h := dns.RR_Header{Name: ReverseName(addr), Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: r.Header().Ttl}
	return append(reverse, Record{&dns.PTR{Hdr: h, Ptr: r.Header().Name}, r.File, r.Line})
}

// ReverseName is the name that maps an address back (RFC 1035 section 3.5, RFC 3596 section 2.5).
func ReverseName(addr netip.Addr) string {
	name, err := dns.ReverseAddr(addr.WithZone("").String())
	if err != nil {
		return "." // an invalid address, which has no name
	}
	return name
}

// ReverseZone is the smallest reverse zone that holds a whole prefix: labels are 8 bits of IPv4, 4 of IPv6.
func ReverseZone(prefix netip.Prefix) string {
	prefix = prefix.Masked()
	unit, labels := 4, 32
	if prefix.Addr().Is4() {
		unit, labels = 8, 4
	}
	name := ReverseName(prefix.Addr())
	for range labels - prefix.Bits()/unit {
		name, _ = parent(name)
	}
	return name
}

// ReversePrefix is the prefix that a name of a reverse zone stands for: all labels an address has name one address,
// fewer a prefix. False: it is no such name.
func ReversePrefix(name string) (netip.Prefix, bool) {
	name = strings.ToLower(name)
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := strings.Split(rest, ".")
		var b [4]byte
		if len(labels) > len(b) {
			return netip.Prefix{}, false
		}
		for i, label := range labels {
			n, err := strconv.ParseUint(label, 10, 8)
			if err != nil || strconv.FormatUint(n, 10) != label {
				return netip.Prefix{}, false
			}
			b[len(labels)-1-i] = byte(n)
		}
		return netip.PrefixFrom(netip.AddrFrom4(b), 8*len(labels)), true
	}
	if rest, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		labels := strings.Split(rest, ".")
		var b [16]byte
		if len(labels) > 2*len(b) {
			return netip.Prefix{}, false
		}
		for i, label := range labels {
			n, err := strconv.ParseUint(label, 16, 4)
			if err != nil || len(label) != 1 {
				return netip.Prefix{}, false
			}
			at := len(labels) - 1 - i
			b[at/2] |= byte(n) << (4 * (1 - at%2))
		}
		return netip.PrefixFrom(netip.AddrFrom16(b), 4*len(labels)), true
	}
	return netip.Prefix{}, false
}
