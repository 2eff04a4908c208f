package dns_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"rempart/test/netns"
)

// records are what both upstreams know.
var records = []string{`local-data: "www.example. 300 A 203.0.113.80"`,
	`local-data: "www.example. 300 AAAA 2001:db8::80"`,
	`local-data: "alias.example. 300 CNAME www.example."`, `local-data: "rebind.example. 300 A 192.168.1.1"`,
	`local-data: "ok.rebind.example. 300 A 192.168.1.1"`, `local-data: "short.example. 1 A 203.0.113.81"`,
	`local-data: "example. 60 SOA ns.example. host.example. 1 2 3 4 60"`,
	`local-data: 'large.example. 300 TXT "` + strings.Repeat("x", 250) + `"'`,
	`local-data: 'large.example. 300 TXT "` + strings.Repeat("y", 250) + `"'`,
	`local-data: 'large.example. 300 TXT "` + strings.Repeat("z", 250) + `"'`}

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

// TestSizes: what does not fit into a packet is cut and said to be, and fetched whole by TCP; who says it takes more
// gets more, and nobody more than fits on any way.
func TestSizes(t *testing.T) {
	l := newLab(t)
	l.unbound(upstreamA, records...)
	l.start("dns: {upstream: 192.0.2.53, lan0: {}}\n")
	for _, c := range []struct {
		how  string
		cut  bool
		size int // of the answer at most
	}{
		{"+noedns +ignore", true, 512}, {"+bufsize=512 +ignore", true, 512}, {"+bufsize=1232 +ignore", false, 1232},
		{"+bufsize=4096 +ignore", false, 1232}, {"+noedns", false, 65535}, {"+tcp", false, 65535},
	} {
		out := l.dig(append(strings.Fields(c.how), "large.example", "TXT")...)
		_, flags, _ := strings.Cut(out, "flags:")
		flags, _, _ = strings.Cut(flags, ";")
		cut := strings.Contains(" "+flags+" ", " tc ")
		var size int
		_, rcvd, _ := strings.Cut(out, "MSG SIZE  rcvd: ")
		if _, err := fmt.Sscan(rcvd, &size); err != nil || cut != c.cut || size > c.size ||
			strings.Contains(out, "ANSWER: 3") == c.cut {
			t.Errorf("dig %s: %d bytes, cut %v; want %d at most, cut %v:\n%s", c.how, size, cut, c.size, c.cut, out)
		}
	}
}

// TestSignaturesPass: who sets DO gets the signatures that upstream has, and DO back; nobody else does.
func TestSignaturesPass(t *testing.T) {
	l := newLab(t)
	signature, err := dns.NewRR("signed.example. 300 RRSIG A 13 2 300 20400101000000 20200101000000 1 example. " +
		strings.Repeat("A", 86) + "==")
	netns.Must(t, err)
	l.answering(upstreamA, func(w dns.ResponseWriter, q *dns.Msg) {
		m := addressOf(q, "203.0.113.83")
		if opt := q.IsEdns0(); opt != nil && opt.Do() {
			m.Answer = append(m.Answer, signature)
		}
		_ = w.WriteMsg(m)
	})
	l.start("dns: {upstream: 192.0.2.53, lan0: {}}\n")
	for _, how := range []string{"first", "from the cache"} {
		out := l.dig("+dnssec", "signed.example")
		if !strings.Contains(out, "RRSIG\tA 13 2 300") || !strings.Contains(out, "flags: do;") {
			t.Errorf("with DO, %s:\n%s\nwant the signature, and DO", how, out)
		}
		if out := l.dig("+nodnssec", "signed.example"); strings.Contains(out, "RRSIG") ||
			!strings.Contains(out, "203.0.113.83") {
			t.Errorf("without DO, %s:\n%s\nwant the address alone", how, out)
		}
	}
}

// TestNothingIsKept: that something does not exist is asked for once.
func TestNothingIsKept(t *testing.T) {
	l := newLab(t)
	l.unbound(upstreamA, records...)
	l.start("dns: {upstream: 192.0.2.53, lan0: {}}\n")
	for _, ask := range []string{"gone.example", "www.example MX"} {
		before := l.told()
		for range 3 {
			l.dig(strings.Fields(ask)...)
		}
		if s := l.told(); s.Forwarded != before.Forwarded+1 || s.Cached != before.Cached+2 {
			t.Errorf("%s, three times: %d were forwarded and %d cached; want 1 and 2", ask, s.Forwarded-before.Forwarded,
				s.Cached-before.Cached)
		}
	}
}
