package net

import (
	"context"
	"slices"
	"testing"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/firstboot/filter/kernel"
	"rempart/profiles"
)

// compile is filter.Compile of a profile that must compile.
func compile(t *testing.T, p *profiles.Profile) filter.Ruleset {
	t.Helper()
	rs, err := filter.Compile(p)
	if err != nil {
		t.Fatalf("Compile(%s) = %v; want no error", p.Name, err)
	}
	return filtertest.WithoutBridgeConntrack(rs)
}

// load puts rules in force on the lab's firewall.
func (l *lab) load(t *testing.T, rs filter.Ruleset) {
	t.Helper()
	if err := kernel.Apply(context.Background(), rs, kernel.Options{NetNS: l.fw.FD()}); err != nil {
		t.Fatalf("Apply = %v; want no error", err)
	}
}

// Every probe of every profile, with real packets: first without rules, where everything the policy forbids must get
// through, so that its silence later is the policy's doing and not a dead path; then closed, where nothing but the
// admin path may; then with the policy.
func TestProbes(t *testing.T) {
	for _, p := range append(everyProfile(t), filtertest.Stewarded(), filtertest.Homed()) {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, p)
			probes := routed(filter.Probes(p))
			l.listen(t, probes)

			var denied []filter.Probe
			for _, probe := range probes {
				// What must be translated to arrive anywhere has no control without rules.
				if !probe.Pass && probe.Dst == probe.SeenDst {
					probe.Pass, probe.Proves = true, "control: no rules are loaded"
					probe.SeenSrc = probe.Src // nobody masquerades
					denied = append(denied, probe)
				}
			}
			l.check(t, denied)

			closed, err := filter.Closed(p)
			if err != nil {
				t.Fatal(err)
			}
			l.load(t, closed)
			l.check(t, whenClosed(probes))

			l.load(t, compile(t, p))
			l.check(t, probes)
		})
	}
}

// routed leaves out the probes of what bridges pass: kernels of build machines rarely have nf_conntrack_bridge, so
// those are tried in booted guests, by test/run.
func routed(probes []filter.Probe) []filter.Probe {
	return slices.DeleteFunc(probes, func(p filter.Probe) bool { return p.Bridge != "" })
}

// whenClosed is what the probes must show while only the closed rules are in force: all are dropped but the knocks
// at the admin's port that the profile allows.
func whenClosed(probes []filter.Probe) []filter.Probe {
	var out []filter.Probe
	for _, p := range probes {
		if p.Dst != p.SeenDst && p.Dst.IsValid() && p.Port == filter.PortSSH {
			continue // an address that stands for a host is the firewall's own until the policy is there
		}
		p.Pass = p.Pass && p.To == profiles.Self && p.Protocol == profiles.TCP && p.Port == filter.PortSSH
		p.Proves = "closed"
		out = append(out, p)
	}
	return out
}

// everyProfile is the built-in profiles and the tests' own.
func everyProfile(t *testing.T) []*profiles.Profile {
	t.Helper()
	all := filtertest.Profiles()
	for _, name := range profiles.Builtin() {
		p, err := profiles.Load(name)
		if err != nil {
			t.Fatalf("built-in profile %s: %v", name, err)
		}
		all = append(all, p)
	}
	return all
}
