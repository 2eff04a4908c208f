package boot

import (
	"strings"
	"testing"

	"rempart/firstboot/contract/ctl"
	"rempart/test/rig"
)

// TestBansAndMergedLines: the kernel of a guest takes the ban table, and hashes and ranges of addresses with ports;
// administrators ban and unban. That who is banned gets nowhere is shown in test/net.
func TestBansAndMergedLines(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, "testdata/bans.yaml")
	g := m.Boot(t, rig.Options{})
	if r := g.AwaitReady(); r.Policy != "loaded" {
		t.Errorf("the policy is %s; want loaded", r.Policy)
	}
	for _, step := range []struct {
		command string
		status  int
		want    string // a part of what it says
	}{
		{"bans --json", ctl.Done, "[]"},
		{"ban 198.51.100.66 --for 2h", ctl.Done, "198.51.100.66/32 is banned for 2h"},
		{"ban --for 90s 2001:db8:66::1", ctl.Done, "2001:db8:66::/64 is banned for 1m30s"},
		{"bans", ctl.Done, "198.51.100.66/32"},
		{"bans --json", ctl.Done, `"source": "2001:db8:66::/64"`},
		{"ban 203.0.113.2", ctl.Failed, "the guest's own"},
		{"ban 203.0.113.1", ctl.Failed, "a gateway of the guest"},
		{"ban 2001:db8::50", ctl.Failed, "2001:db8::2 is the guest's own"},
		{"ban 198.51.100.66 --for 1000h", ctl.Failed, "too long"},
		{"ban", ctl.Usage, "want one address"},
		{"ban everybody", ctl.Usage, "is no address"},
		{"unban 2001:db8:66::2", ctl.Done, "is banned no more"},
		{"unban 2001:db8:66::2", ctl.Failed, "is not banned"},
		{"unban 198.51.100.66", ctl.Done, "198.51.100.66/32 is banned no more"},
		{"bans --json", ctl.Done, "[]"},
	} {
		status, out, errs := g.Ctl(nil, strings.Fields(step.command)...)
		if status != step.status || !strings.Contains(out+errs, step.want) {
			t.Errorf("%s = %d, %q, %q; want %d and %q", step.command, status, out, errs, step.status, step.want)
		}
	}
	g.PowerOff()
	rig.Honest(t, g.State)
}
