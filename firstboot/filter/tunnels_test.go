package filter_test

import (
	"net/netip"
	"strings"
	"testing"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

const tunnelled = `rempart: 1
name: gw
admin: none
links:
  wan: {address: [192.0.2.2/24, "2001:db8::2/64"], gateway: [192.0.2.1, "2001:db8::1"]}
  lan: {address: [10.0.0.1/24, "fd00::1/64"]}
  wg0:
    address: [10.9.0.1/24, "fd09::1/64"]
    wireguard:
      port: 51820
      from: internet
      peers:
        office: {key: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=, allowed: [10.9.0.2, "fd09::2", 10.20.0.0/16]}
zones: {internet: wan, home: lan, far: wg0}
policy:
  - any -> self: {any: {action: drop}}
  - far -> home: any
`

// TestTunnels: a tunnel's port is open to the zones it names, above the policy, and to nobody else; what a peer may
// send from belongs to the tunnel's link, and so to its zone.
func TestTunnels(t *testing.T) {
	p, err := profiles.Parse("gw.yaml", []byte(tunnelled))
	if err != nil {
		t.Fatal(err)
	}
	var opens int
	rs := compile(t, p)
	for line := range strings.Lines(rs.Text()) {
		if strings.Contains(line, "udp dport 51820") {
			opens++
			if !strings.Contains(line, `iifname "wan"`) || !strings.Contains(line, "accept") {
				t.Errorf("rule %q; want the port open on wan only", strings.TrimSpace(line))
			}
		}
	}
	if opens == 0 {
		t.Error("no rule opens udp 51820")
	}
	closed, err := filter.Closed(p)
	if err != nil || strings.Contains(closed.Text(), "51820") {
		t.Errorf("Closed opens the tunnel: %v", err)
	}
	for _, c := range []struct {
		q    filter.Question
		pass bool
		why  string
	}{
		{filter.Question{From: "internet", To: "self", Protocol: profiles.UDP, Port: 51820}, true, "the tunnel wg0"},
		{filter.Question{From: "internet", To: "self", Protocol: profiles.UDP, Port: 51821}, false, "any -> self"},
		{filter.Question{From: "internet", To: "self", Protocol: profiles.TCP, Port: 51820}, false, "any -> self"},
		{filter.Question{From: "home", To: "self", Protocol: profiles.UDP, Port: 51820}, false, "any -> self"},
		{filter.Question{From: "far", To: "home", Src: netip.MustParseAddr("10.20.3.4"), Protocol: profiles.TCP, Port: 80},
			true, "far -> home"},
	} {
		answers, err := filter.Explain(p, c.q)
		if err != nil || len(answers) == 0 {
			t.Errorf("Explain(%+v) = %v, %v; want an answer", c.q, answers, err)
		}
		for _, a := range answers {
			if a.Pass != c.pass || !strings.Contains(a.Proves, c.why) {
				t.Errorf("Explain(%+v): passes %t by %q; want %t by %q", c.q, a.Pass, a.Proves, c.pass, c.why)
			}
		}
	}
}
