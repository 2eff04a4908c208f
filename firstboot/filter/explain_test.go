package filter_test

import (
	"testing"

	"rempart/firstboot/filter"
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
