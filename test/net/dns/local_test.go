package dns_test

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"rempart/profiles"
)

// inside is scenario C's network with a zone of its own beside it.
const inside = `hosts: {proxy: 10.10.10.10}
dns:
  lan0: {domain: madyanne.lan, recurse: none}
  zones:
    dom.net:
      reverse: 10.1.10.0/24
      transfer: 10.10.10.6
      records: |
        @ SOA ns hostmaster 7 1h 15m 2w 5m
        @ NS ns
        ns A 10.1.10.1
        fedora A 10.1.10.2
        nextcloud CNAME fedora
        *.wild A 10.1.10.9
    private.net:
      query: 10.10.10.6
      records: |
        @ NS ns
        ns A 10.1.10.1
`

// lease has busybox's client lease an address under a name, and returns it. The client does not configure it.
func (l *lab) lease(name, client string) (addr string) {
	l.t.Helper()
	program, err := exec.LookPath("udhcpc")
	if err != nil {
		l.t.Skip("SKIPPED, NOT PASSED: udhcpc is not installed; test/setup test installs it")
	}
	out, err := l.client.Command(program, "-i", "eth0", "-f", "-n", "-q", "-s", "/bin/true", "-x", "hostname:"+name,
		"-x", "0x3d:"+client).CombinedOutput()
	if err != nil {
		l.t.Fatalf("udhcpc: %v\n%s", err, out)
	}
	_, rest, _ := strings.Cut(string(out), "lease of ")
	addr, _, _ = strings.Cut(rest, " ")
	if addr == "" {
		l.t.Fatalf("udhcpc has no lease:\n%s", out)
	}
	return addr
}

// TestLeasesHaveNames: scenario C. Every lease's host name resolves at once, short and qualified, forward and reverse.
func TestLeasesHaveNames(t *testing.T) {
	l := newLab(t)
	first, last := netip.MustParseAddr("10.10.10.100"), netip.MustParseAddr("10.10.10.200")
	l.change = func(p *profiles.Profile) {
		p.DHCP = []profiles.DHCP{{Link: "lan0", NoProbe: true, Subnets: []profiles.DHCPSubnet{{
			Prefix: netip.MustParsePrefix("10.10.10.0/24"), Server: netip.MustParseAddr(gatewayAddr), Lease: 12 * 60 * 60,
			Pools: profiles.Ranges{{First: first, Last: last}}}}}}
	}
	l.start(inside)
	addr := l.lease("Laptop", "01020000000001")
	// The feed is told before the client is; the name server reads it within its next breath.
	for deadline := time.Now().Add(patience); l.short("laptop.madyanne.lan") != addr; {
		if time.Now().After(deadline) {
			t.Fatalf("laptop.madyanne.lan is %q; want %s", l.short("laptop.madyanne.lan"), addr)
		}
	}
	proxied := l.lease("proxy", "01020000000002") // wants the name of a host of the profile
	for _, c := range []struct{ ask, want string }{
		{"laptop", addr},
		{"LAPTOP.Madyanne.LAN", addr},
		{"-x " + addr, "laptop.madyanne.lan."},
		{"proxy", "10.10.10.10"},
		{"proxy.madyanne.lan", "10.10.10.10"},
		{"-x 10.10.10.10", "proxy.madyanne.lan."},
		{"gw.madyanne.lan", "10.10.10.1"},
		{"gw AAAA", "fd00:1::1"},
		{"-x 10.10.10.1", "gw.madyanne.lan."},
	} {
		if got := l.short(strings.Fields(c.ask)...); got != c.want {
			t.Errorf("dig %s = %q; want %q", c.ask, got, c.want)
		}
		for _, how := range []string{"+notcp", "+tcp"} {
			out := l.kdig(append([]string{how, "+short"}, strings.Fields(c.ask)...)...)
			if got := strings.TrimSpace(out); got != c.want {
				t.Errorf("kdig %s %s = %q; want %q", how, c.ask, got, c.want)
			}
		}
	}
	for deadline := time.Now().Add(patience); ; {
		got := l.short("-x", proxied)
		if strings.HasPrefix(got, "proxy-") && strings.HasSuffix(got, ".madyanne.lan.") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("dig -x %s = %q; want proxy-XXXX.madyanne.lan.", proxied, got)
		}
	}
	for _, ask := range []string{"nobody.madyanne.lan", "-x 10.10.10.250"} {
		if out := l.dig(strings.Fields(ask)...); status(out) != "NXDOMAIN" || !strings.Contains(out, "SOA") {
			t.Errorf("dig %s =\n%s\nwant NXDOMAIN with a SOA", ask, out)
		}
	}
}

// TestZones: scenario D, by foreign clients.
func TestZones(t *testing.T) {
	l := newLab(t)
	l.start(inside)
	for _, c := range []struct{ ask, want string }{
		{"nextcloud.dom.net", "fedora.dom.net. 10.1.10.2"},
		{"x.y.wild.dom.net", "10.1.10.9"},
		{"-x 10.1.10.2", "fedora.dom.net."},
		{"dom.net SOA", "ns.dom.net. hostmaster.dom.net. 7 3600 900 1209600 300"},
		{"-b 10.10.10.6 ns.private.net", "10.1.10.1"},
	} {
		if got := l.short(strings.Fields(c.ask)...); got != c.want {
			t.Errorf("dig %s = %q; want %q", c.ask, got, c.want)
		}
	}
	for ask, want := range map[string]string{"nothing.dom.net": "NXDOMAIN", "fedora.dom.net AAAA": "NOERROR",
		"ns.private.net": "REFUSED", "www.example": "REFUSED"} {
		if got := status(l.dig(strings.Fields(ask)...)); got != want {
			t.Errorf("dig %s: %s; want %s", ask, got, want)
		}
	}
	if out := l.dig("-b", "10.10.10.6", "dom.net", "AXFR"); strings.Count(out, "\tIN\t") != 7 {
		t.Errorf("a transfer to who may have it:\n%s\nwant 7 records", out)
	}
	if out := l.dig("dom.net", "AXFR"); strings.Contains(out, "fedora") {
		t.Errorf("a transfer to who may not have it:\n%s", out)
	}
}
