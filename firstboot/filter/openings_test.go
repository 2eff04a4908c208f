package filter_test

import (
	"net/netip"
	"strings"
	"testing"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/profiles"
)

// TestOpenings: what a service of the guest needs is open above the policy, which here drops everything: on its links,
// from its sources, and nowhere else. Closed opens none of it.
func TestOpenings(t *testing.T) {
	p := filtertest.Serving()
	addr := netip.MustParseAddr
	for _, c := range []struct {
		from, src string
		protocol  profiles.Protocol
		port      uint16
		why       string // empty: it must not pass
	}{
		{"home", "192.168.0.7", profiles.UDP, 67, "DHCP on lan0 (20:5)"},
		{"home", "192.168.0.7", profiles.UDP, 68, ""},
		{"home", "192.168.0.7", profiles.TCP, 67, ""},
		{"home", "fd00:192:168::7", profiles.UDP, 67, ""},
		{"internet", "198.51.100.7", profiles.UDP, 67, ""},
		{"dmz", "10.9.0.9", profiles.UDP, 67, "DHCP on dmz0 (21:5)"},
		{"dmz", "10.9.0.2", profiles.UDP, 67, "DHCP on dmz0 (21:5)"},
	} {
		answers, err := filter.Explain(p, filter.Question{From: c.from, To: profiles.Self, Src: addr(c.src),
			Protocol: c.protocol, Port: c.port})
		if err != nil || len(answers) != 1 {
			t.Errorf("Explain(%s %s %s/%d) = %v, %v; want one answer", c.from, c.src, c.protocol, c.port, answers, err)
			continue
		}
		if got := answers[0]; got.Pass != (c.why != "") || c.why != "" && got.Proves != c.why {
			t.Errorf("Explain(%s %s %s/%d): passes %t by %q; want %q", c.from, c.src, c.protocol, c.port, got.Pass, got.Proves,
				c.why)
		}
	}
	closed, err := filter.Closed(p)
	if err != nil || strings.Contains(closed.Text(), "DHCP on") {
		t.Errorf("Closed opens a service: %v", err)
	}
	proven := 0
	for _, probe := range filter.Probes(p) {
		if probe.Pass && strings.HasPrefix(probe.Proves, "DHCP on ") {
			proven++
		}
	}
	if proven < 3 {
		t.Errorf("%d probes prove openings; want one for each link and one for the relay agent", proven)
	}
}

// TestOpeningsChecked: an opening that cannot become a rule is told, whatever made the profile.
func TestOpeningsChecked(t *testing.T) {
	p := filtertest.Serving()
	p.DHCP[0].Link = "lan9"
	_, err := filter.Compile(p)
	if err == nil || !strings.Contains(err.Error(), `DHCP: there is no link "lan9" (20:5)`) {
		t.Errorf("Compile with DHCP on a link that is not there = %v; want that told with its place", err)
	}
}
