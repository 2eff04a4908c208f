package boot

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"rempart/builder/hypervisor/qemu"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
	"rempart/firstboot/filter"
	"rempart/profiles"
	"rempart/test/rig"
)

// answer has the guest carry out a command with --json and reads what it says.
func answer[T any](t *testing.T, g *rig.Guest, command string) (v T) {
	t.Helper()
	status, out, errs := g.Ctl(nil, command, "--json")
	if status != ctl.Done || errs != "" {
		t.Errorf("%s --json = %d, %q", command, status, errs)
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Errorf("%s --json says %.200q: %v", command, out, err)
	}
	if status, text, errs := g.Ctl(nil, command); status != ctl.Done || text == "" || errs != "" {
		t.Errorf("%s = %d, %.200q, %q; want words for a person", command, status, text, errs)
	}
	return v
}

// TestCommands holds what the commands say of a guest against what its profile says of it.
func TestCommands(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	g := m.Boot(t, rig.Options{})
	r := g.AwaitReady()

	type link struct {
		Name, State, MAC string
		Addresses        []string
	}
	links := answer[[]link](t, g, "links")
	for _, want := range m.Profile.Links {
		i := slices.IndexFunc(links, func(l link) bool { return l.Name == want.Name })
		if i < 0 || links[i].State != "up" {
			t.Errorf("links has %+v; want %s, up", links, want.Name)
			continue
		}
		for _, a := range want.Addresses {
			if !slices.Contains(links[i].Addresses, a.String()) {
				t.Errorf("link %s has %q; want %s too", want.Name, links[i].Addresses, a)
			}
		}
		for _, rep := range r.Links {
			if rep.Name == want.Name && rep.MAC != links[i].MAC {
				t.Errorf("link %s has the MAC %s; the report says %s", want.Name, links[i].MAC, rep.MAC)
			}
		}
	}

	type route struct{ To, Via, Link string }
	routes := answer[[]route](t, g, "routes")
	for _, l := range m.Profile.Links {
		for _, gw := range l.Gateways {
			if want := (route{"default", gw.Addr.String(), l.Name}); !slices.Contains(routes, want) {
				t.Errorf("routes has %+v; want %+v too", routes, want)
			}
		}
		for _, a := range l.Addresses {
			if want := (route{a.Masked().String(), "", l.Name}); !slices.Contains(routes, want) {
				t.Errorf("routes has %+v; want %+v too", routes, want)
			}
		}
	}

	rules, err := filter.Compile(m.Profile)
	if err != nil {
		t.Fatal(err)
	}
	policy := answer[struct {
		Loaded            bool
		Fingerprint, Text string
	}](t, g, "policy")
	if !policy.Loaded || policy.Text != rules.Text() || policy.Fingerprint != rules.Fingerprint() {
		t.Errorf("policy = %v, %s; want what the profile compiles to here, %s", policy.Loaded, policy.Fingerprint,
			rules.Fingerprint())
	}
	type counter struct{ Table, Counter string }
	counters := answer[[]counter](t, g, "counters")
	for _, table := range rules.Tables {
		for _, name := range table.Counters {
			if !slices.Contains(counters, counter{table.Name, name}) {
				t.Errorf("counters has %+v; want %s of table %s too", counters, name, table.Name)
			}
		}
	}
	type flow struct{ Protocol, From, To string }
	answer[[]flow](t, g, "conntrack")
	answer[[]struct{ Address, Link string }](t, g, "neigh")
	if leases := answer[[]struct{ Link string }](t, g, "leases"); len(leases) != 0 {
		t.Errorf("leases = %+v; want none, no link asks for one", leases)
	}
	if lines := answer[[]string](t, g, "dmesg"); !strings.Contains(strings.Join(lines, "\n"), m.Manifest.Master.Kernel) {
		t.Errorf("dmesg has %d lines and none names the kernel %s", len(lines), m.Manifest.Master.Kernel)
	}
	type topChild struct {
		Name         string
		Seconds      float64
		RSS, Charged int64
	}
	top := answer[struct {
		Memory    contract.Memory
		Conntrack struct{ Count, Max int64 }
		Children  []topChild
	}](t, g, "top")
	if top.Memory.Total == 0 || top.Memory.Available == 0 || top.Conntrack.Max == 0 ||
		!slices.ContainsFunc(top.Children, func(c topChild) bool {
			return c.Name == "admin" && c.Seconds > 0 && c.RSS > 0 && c.Charged >= c.RSS/2
		}) {
		t.Errorf("top = %+v; want memory, connections, and what the admin child takes", top)
	}
	type disk struct {
		Mount, Type string
		Bytes, Used int64
	}
	disks := answer[[]disk](t, g, "df")
	for _, want := range []disk{{Mount: "/", Type: "erofs"}, {Mount: contract.StateDir, Type: "ext4"},
		{Mount: "/run", Type: "tmpfs"}} {
		if !slices.ContainsFunc(disks, func(d disk) bool {
			return d.Mount == want.Mount && d.Type == want.Type && d.Bytes > 0 && d.Used > 0
		}) {
			t.Errorf("df has %+v; want %s on %s", disks, want.Type, want.Mount)
		}
	}
	status, out, _ := g.Ctl(nil, "profile")
	if p, err := profiles.Decode([]byte(strings.TrimSpace(out))); status != ctl.Done || err != nil ||
		p.Name != m.Profile.Name {
		t.Errorf("profile = %d, %.100q, %v; want the guest's", status, out, err)
	}

	if status, _, _ := g.Ctl(nil, "poweroff", "now"); status != ctl.Usage {
		t.Errorf("poweroff now = %d; want %d: it takes no words", status, ctl.Usage)
	}
	status, out, _, err = g.TryCtl(nil, "poweroff")
	if err == nil && status != ctl.Done {
		t.Errorf("poweroff = %d, %q", status, out)
	}
	if end := g.AwaitEnd(); end.Cause != qemu.PoweredOff {
		t.Errorf("after poweroff the guest ended by %+v; want %q", end, qemu.PoweredOff)
	}
}

// TestRebootCommand: reboot starts the guest anew, in order.
func TestRebootCommand(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	g := m.Boot(t, rig.Options{})
	g.AwaitReady()
	if status, out, _, err := g.TryCtl(nil, "reboot"); err == nil && status != ctl.Done {
		t.Errorf("reboot = %d, %q", status, out)
	}
	if end := g.AwaitEnd(); end.Cause != qemu.Reset {
		t.Errorf("after reboot the guest ended by %+v; want %q", end, qemu.Reset)
	}
}
