package dns_test

import (
	"strings"
	"testing"
)

// records are what both upstreams know.
var records = []string{`local-data: "www.example. 300 A 203.0.113.80"`,
	`local-data: "www.example. 300 AAAA 2001:db8::80"`,
	`local-data: "alias.example. 300 CNAME www.example."`, `local-data: "rebind.example. 300 A 192.168.1.1"`,
	`local-data: "ok.rebind.example. 300 A 192.168.1.1"`, `local-data: "short.example. 1 A 203.0.113.81"`,
	`local-data: "example. 60 SOA ns.example. host.example. 1 2 3 4 60"`}

func TestAnswers(t *testing.T) {
	l := newLab(t)
	l.unbound(upstreamA, records...)
	l.start(`dns:
  upstream: 192.0.2.53
  rebind_ok: ok.rebind.example
  names: {own.example: 10.10.10.9, "*.dev.example": 10.10.10.8, other.example: www.example}
  block: {names: [ads.example]}
  lan0: {}
`)
	for _, c := range []struct {
		ask, want string
	}{
		{"www.example", "203.0.113.80"},
		{"www.example AAAA", "2001:db8::80"},
		{"WwW.ExAmPlE", "203.0.113.80"},
		{"+tcp www.example", "203.0.113.80"},
		{"+noedns www.example", "203.0.113.80"},
		{"+dnssec www.example", "203.0.113.80"},
		{"own.example", "10.10.10.9"},
		{"x.y.dev.example", "10.10.10.8"},
		{"other.example", "www.example. 203.0.113.80"},
		{"ok.rebind.example", "192.168.1.1"},
		{"localhost", "127.0.0.1"},
		{"www.example ANY", "\"RFC8482\" \"\""},
		{"-b 10.10.10.6 www.example", "203.0.113.80"},
	} {
		if got := l.short(strings.Fields(c.ask)...); got != c.want {
			t.Errorf("dig %s = %q; want %q", c.ask, got, c.want)
		}
	}
	for _, c := range []struct {
		ask, want string
	}{
		{"nothere.example", "NXDOMAIN"},
		{"nothere.example", "NXDOMAIN"},
		{"www.example MX", "NOERROR"},
		{"rebind.example", "REFUSED"},
		{"ads.example", "NXDOMAIN"},
		{"x.ads.example", "NXDOMAIN"},
		{"printer", "NXDOMAIN"},
		{"-x 10.10.10.77", "NXDOMAIN"},
		{"-x fd00:1::77", "NXDOMAIN"},
		{"printer.local", "NXDOMAIN"},
		{"+norec unknown.example", "REFUSED"},
		{"www.example AXFR +tcp", ""},
		{"version.bind TXT CH", "REFUSED"},
		{"+edns=1 +noednsnegotiation www.example", "BADVERS"},
		{"+opcode=notify www.example", "NOTIMP"},
		{"-b 10.99.0.5 www.example", ""},
	} {
		if got := status(l.dig(strings.Fields(c.ask)...)); got != c.want {
			t.Errorf("dig %s: status %q; want %q", c.ask, got, c.want)
		}
	}
	if s := l.told(); s.Cached == 0 || s.Forwarded == 0 || s.Local == 0 || s.Blocked != 2 || s.Forward.Rebinding != 1 {
		t.Errorf("status %+v; want each of the kinds counted", s)
	}
}
