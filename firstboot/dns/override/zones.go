package override

import "strconv"

// zones are those that are answered here, as empty: the reverse ones of addresses that no name server outside knows
// (RFC 6303 4, RFC 7793), and names with a meaning that is none of the public tree.
var zones = makeZones()

func makeZones() map[string]bool {
	all := map[string]bool{
		"10.in-addr.arpa.": true, "168.192.in-addr.arpa.": true, // RFC 1918, RFC 6303 4.2
		"0.in-addr.arpa.": true, "127.in-addr.arpa.": true, "254.169.in-addr.arpa.": true, // RFC 6303 4.2
		"2.0.192.in-addr.arpa.": true, "100.51.198.in-addr.arpa.": true, "113.0.203.in-addr.arpa.": true,
		"255.255.255.255.in-addr.arpa.":                                             true,
		"0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa.": true, // RFC 6303 4.3
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa.": true,
		"d.f.ip6.arpa.":   true,                                                   // RFC 4193, RFC 6303 4.4
		"8.e.f.ip6.arpa.": true, "9.e.f.ip6.arpa.": true, "a.e.f.ip6.arpa.": true, // RFC 4291 2.5.6, RFC 6303 4.5
		"b.e.f.ip6.arpa.": true, "8.b.d.0.1.0.0.2.ip6.arpa.": true, // RFC 3849, RFC 6303 4.6
		"test.": true, "invalid.": true, // RFC 6761 6.2, 6.4
		"onion.":         true,                    // RFC 7686 2
		"local.":         true,                    // RFC 6762 22.1: multicast DNS
		"home.arpa.":     true,                    // RFC 8375 4
		"internal.":      true,                    // ICANN resolution 2024.07.29.06: private use
		"resolver.arpa.": true,                    // RFC 9462 6.2: about this resolver, and there is nothing to say
		"alt.":           true,                    // RFC 9476 2: other name systems
		"service.arpa.":  true, "eap.arpa.": true, // RFC 9665 10, RFC 9965: of the network one is in
	}
	const first, last = 16, 31 // 172.16.0.0/12
	for n := first; n <= last; n++ {
		all[strconv.Itoa(n)+".172.in-addr.arpa."] = true
	}
	const shared, end = 64, 127 // 100.64.0.0/10, RFC 7793
	for n := shared; n <= end; n++ {
		all[strconv.Itoa(n)+".100.in-addr.arpa."] = true
	}
	return all
}
