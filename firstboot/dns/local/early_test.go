package local

import (
	"testing"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/names"
)

// TestSilentUntilFed: until the names of clients have come nobody is told that one does not exist, which it would
// believe for a while; what the profile says is answered at once, and so is everything when they do not come.
func TestSilentUntilFed(t *testing.T) {
	c := &clock{now: time.Unix(1_800_000_000, 0)}
	n := scenario(c)
	config := n.config
	config.Fed = true
	n = New(config)
	a, ptr := dns.TypeA, dns.TypePTR
	known := []want{
		{"lan", "proxy.madyanne.lan.", a, "10.10.10.10"},
		{"lan", "proxy.", a, "10.10.10.10"},
		{"lan", "10.10.10.10.in-addr.arpa.", ptr, "proxy.madyanne.lan."},
		{"lan", "www.example.com.", a, "not mine"},
		{"lan", "8.8.8.8.in-addr.arpa.", ptr, "not mine"},
		{"lan", "www.dom.net.", a, "not mine"},
		{"lan", "x.inner.madyanne.lan.", a, "not mine"},
		{"lan", "a.laptop.madyanne.lan.", a, "NXDOMAIN SOA of madyanne.lan."}, // no client has such a name
		{"lan", "blocked.madyanne.lan.", a, "NXDOMAIN SOA of madyanne.lan."},
		{"lan", "com.", dns.TypeNS, "not mine"},
	}
	check(t, n, known...)
	check(t, n,
		want{"lan", "laptop.madyanne.lan.", a, "silence"},
		want{"lan", "laptop.", a, "silence"},
		want{"lan", "20.10.10.10.in-addr.arpa.", ptr, "silence"})
	put(n, leaseOf("10.10.10.21", "lan", "020000000002", "first")) // some are not all
	check(t, n, want{"lan", "first.", a, "10.10.10.21"}, want{"lan", "laptop.", a, "silence"})
	n.Apply(names.Change{Whole: true, Put: []names.Binding{leaseOf("10.10.10.20", "lan", "020000000001", "laptop")}})
	check(t, n, known...)
	check(t, n,
		want{"lan", "laptop.madyanne.lan.", a, "10.10.10.20"},
		want{"lan", "laptop.", a, "10.10.10.20"},
		want{"lan", "first.madyanne.lan.", a, "NXDOMAIN SOA of madyanne.lan."},
		want{"lan", "21.10.10.10.in-addr.arpa.", ptr, "NXDOMAIN SOA of 10.10.10.in-addr.arpa."})

	n = New(config) // nobody ever feeds it
	check(t, n, want{"lan", "laptop.", a, "silence"})
	c.now = c.now.Add(feedWait)
	check(t, n, want{"lan", "laptop.", a, "not mine"},
		want{"lan", "laptop.madyanne.lan.", a, "NXDOMAIN SOA of madyanne.lan."})
}
