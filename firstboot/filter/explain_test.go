package filter_test

import (
	"strings"
	"testing"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/profiles"
)

// What Explain says of a flow is what its probe proves with packets.
func TestExplainAgreesWithProbes(t *testing.T) {
	for _, p := range everyProfile(t) {
		asked := 0
		for _, probe := range filter.Probes(p) {
			to := probe.To
			if toSelf := probe.Pass && (probe.SeenDst != probe.Dst || probe.SeenPort != probe.Port); toSelf {
				to = profiles.Self // a forward: it was sent to the guest
			}
			if !probe.Dst.IsValid() && to != profiles.Self {
				continue
			}
			q := filter.Question{From: probe.From, To: to, Src: probe.Src, Dst: probe.Dst,
				Protocol: probe.Protocol, Port: probe.Port}
			answers, err := filter.Explain(p, q)
			if err != nil || len(answers) != 1 {
				t.Errorf("%s: Explain(%+v) = %v, %v; want one answer", p.Name, q, answers, err)
				continue
			}
			asked++
			got := answers[0]
			if got.Pass != probe.Pass || got.Proves != probe.Proves || got.Pass && (got.SeenDst != probe.SeenDst ||
				got.SeenSrc != probe.SeenSrc || got.SeenPort != probe.SeenPort) {
				t.Errorf("%s: Explain(%+v) = %+v; want %+v", p.Name, q, got, probe)
			}
		}
		if asked == 0 {
			t.Errorf("%s: no probe was compared", p.Name)
		}
	}
}

// What lines do beside deciding is told, and flows that are noted in a dynamic set are told of but never tried.
func TestExplainTellsWhatLinesDo(t *testing.T) {
	for _, test := range []struct {
		p    *profiles.Profile
		q    filter.Question
		want string
	}{
		{filtertest.Knocking(), filter.Question{From: "home", To: profiles.Self, Protocol: profiles.UDP, Port: 7001},
			"any -> self: drop, add knockers (23:5)"},
		{filtertest.Packets(), filter.Question{From: "inside", To: "net", Protocol: profiles.UDP, Port: 5060},
			"inside -> net: accept, dscp ef, ttl 64 (11:5)"},
		{filtertest.Packets(), filter.Question{From: "net", To: "servers", Protocol: profiles.TCP, Port: 8443},
			"net -> servers: accept, synproxy (18:5)"},
		{filtertest.Packets(), filter.Question{From: "net", To: profiles.Self, Protocol: profiles.UDP, Port: 5353},
			"any -> self: accept, notrack (15:5)"},
	} {
		answers, err := filter.Explain(test.p, test.q)
		if err != nil || len(answers) == 0 || answers[0].Proves != test.want {
			t.Errorf("Explain(%+v) = %+v, %v; want %q", test.q, answers, err, test.want)
		}
	}
	for _, probe := range filter.Probes(filtertest.Knocking()) {
		if strings.Contains(probe.Proves, "add ") {
			t.Errorf("a probe would be noted in a set: %+v", probe)
		}
	}
}
