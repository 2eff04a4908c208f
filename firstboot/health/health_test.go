package health

import (
	"net/netip"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/profiles"
)

func profile() *profiles.Profile {
	return &profiles.Profile{Name: "gw", State: profiles.State{Size: 1 << 28}, Links: []profiles.Link{
		{Name: "wan", DHCP: true},
		{Name: "lan", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64")}},
	}}
}

func good() contract.Report {
	return contract.Report{Name: "gw", Version: "1", Policy: "loaded",
		Root:  contract.RootReport{ReadOnlyDisk: true, Verified: true, Hash: strings.Repeat("ab", 32)},
		State: contract.StateReport{Device: "vdb", Action: "mounted", Bytes: 1 << 28, Free: 1 << 27},
		Links: []contract.LinkReport{{Name: "wan", Up: true, Addresses: []string{"192.0.2.7/24"}},
			{Name: "lan", Up: true, Addresses: []string{"10.0.0.1/24", "fd00::1/64"}}},
		Children: []contract.ChildState{{Name: "policy", State: "ready"}, {Name: "state", State: "done"}, {Name: "scrub",
			State: "waiting"}}}
}

var told = Told{AfterReady: map[string]bool{"scrub": true}, After: map[string][]string{"link": {"policy"}}}

// TestJudge spoils one thing at a time: each alone must cost READY and be named.
func TestJudge(t *testing.T) {
	r := good()
	Judge(&r, profile(), told)
	if !r.Ready || !r.Settled || len(r.Failures) > 0 || len(r.Warnings) > 0 {
		t.Fatalf("Judge of a good guest = %+v", r)
	}
	for name, c := range map[string]struct {
		spoil func(r *contract.Report, told *Told)
		want  string
	}{
		"not verified": {func(r *contract.Report, _ *Told) { r.Root.Verified = false }, "root: not verified"},
		"no policy":    {func(r *contract.Report, _ *Told) { r.Policy = "closed" }, "policy: closed"},
		"link missing": {func(r *contract.Report, _ *Told) { r.Links = r.Links[:1] }, "link lan: no such interface"},
		"link down":    {func(r *contract.Report, _ *Told) { r.Links[1].Up = false }, "link lan: down"},
		"link error":   {func(r *contract.Report, _ *Told) { r.Links[1].Error = "no NIC" }, "link lan: no NIC"},
		"address missing": {func(r *contract.Report, _ *Told) { r.Links[1].Addresses = []string{"10.0.0.1/24"} },
			"link lan: address fd00::1/64 is missing"},
		"other prefix": {func(r *contract.Report, _ *Told) { r.Links[1].Addresses[0] = "10.0.0.1/16" },
			"link lan: address 10.0.0.1/24"},
		"no lease": {func(r *contract.Report, _ *Told) { r.Links[0].Addresses = []string{"fd00::2/64"} },
			"link wan: no address by DHCP"},
		"state foreign": {func(r *contract.Report, told *Told) { r.State.Action, told.StateError = "foreign", "LVM" },
			"state: /var is in memory and will be lost: LVM"},
		"state absent":  {func(r *contract.Report, _ *Told) { r.State.Action = "absent" }, "state: /var is in memory"},
		"state not yet": {func(r *contract.Report, _ *Told) { r.State.Action = "" }, "state: not there yet"},
		"child dead": {func(r *contract.Report, _ *Told) {
			r.Children[0] = contract.ChildState{Name: "policy", State: "restarting", Last: "why"}
		}, "child policy: restarting: why"},
		"child starting": {func(r *contract.Report, _ *Told) { r.Children[0].State = "starting" },
			"child policy: starting"},
		"scrub failed":     {func(r *contract.Report, _ *Told) { r.Children[2].State = "failed" }, "child scrub: failed"},
		"no children":      {func(r *contract.Report, _ *Told) { r.Children = nil }, "no child runs"},
		"somebody said so": {func(_ *contract.Report, told *Told) { told.Failures = []string{"dns: dead"} }, "dns: dead"},
	} {
		r, with := good(), told
		c.spoil(&r, &with)
		Judge(&r, profile(), with)
		if r.Ready || len(r.Failures) != 1 || !strings.HasPrefix(r.Failures[0], c.want) {
			t.Errorf("%s: ready %v, failures %q; want only %q", name, r.Ready, r.Failures, c.want)
		}
	}
}

func TestJudgeWithoutStateDeclared(t *testing.T) {
	p := profile()
	p.State.Size = 0
	for _, action := range []string{"absent", "", "mounted"} {
		r := good()
		r.State.Action = action
		if Judge(&r, p, told); !r.Ready {
			t.Errorf("state %q where none is declared: %q; want READY", action, r.Failures)
		}
	}
	r := good()
	r.State.Action = "foreign"
	if Judge(&r, p, told); r.Ready {
		t.Error("a foreign disk named state is READY although its owner meant it to be used")
	}
}

func TestWritableDiskIsAWarning(t *testing.T) {
	r := good()
	r.Root.ReadOnlyDisk = false
	if Judge(&r, profile(), told); !r.Ready || len(r.Warnings) != 1 {
		t.Errorf("ready %v, warnings %q; want READY with a warning", r.Ready, r.Warnings)
	}
}

func TestSettled(t *testing.T) {
	for _, c := range []struct {
		policy, link string
		overdue      bool
		want         bool
	}{
		{"starting", "waiting", false, false},
		{"ready", "waiting", false, false}, // about to start
		{"ready", "starting", false, false},
		{"failed", "waiting", false, true}, // what it waits for does not come
		{"restarting", "waiting", false, false},
		{"ready", "starting", true, true},
		{"ready", "failed", false, true},
	} {
		r := good()
		r.Policy = "none"
		r.Children = []contract.ChildState{{Name: "policy", State: c.policy}, {Name: "link", State: c.link},
			{Name: "scrub", State: "waiting"}}
		with := told
		with.Overdue = c.overdue
		if Judge(&r, profile(), with); r.Settled != c.want {
			t.Errorf("policy %s, link %s, overdue %v: settled %v; want %v", c.policy, c.link, c.overdue, r.Settled, c.want)
		}
	}
}

func TestWords(t *testing.T) {
	starting := good()
	if got := Words(contract.Report{}, starting); got != "" {
		t.Errorf("Words while starting = %q; want nothing", got)
	}
	ready := good()
	ready.Settled, ready.Ready, ready.Times.Ready = true, true, 4.25
	want := `rempart: gw, rempart 1
rempart: root: read-only, verified abababababababab
rempart: state: vdb, mounted, 256 MiB, 128 MiB free
rempart: policy: loaded
rempart: link: wan  up 192.0.2.7/24
rempart: link: lan  up 10.0.0.1/24 fd00::1/64
READY gw in 4.2 s
`
	if got := Words(contract.Report{}, ready); got != want {
		t.Errorf("Words = %q; want %q", got, want)
	}
	if got := Words(ready, ready); got != "" {
		t.Errorf("Words of the same = %q; want nothing", got)
	}
	scrubbed := ready
	scrubbed.Root.Scrubbed = true
	if got := Words(ready, scrubbed); got != "rempart: root: every block read, all as its hash says\n" {
		t.Errorf("Words after the scrub = %q", got)
	}
	failed := ready
	failed.Ready, failed.Failures = false, []string{"policy: closed", "link lan: down"}
	if got := Words(ready, failed); got != "FAILED gw: policy: closed; link lan: down\n" {
		t.Errorf("Words of a failure = %q", got)
	}
	if got := Words(failed, ready); got != "READY gw in 4.2 s\n" {
		t.Errorf("Words when well again = %q", got)
	}
}
