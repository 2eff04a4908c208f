package xen

import (
	"os"
	"strings"
	"testing"

	"rempart/builder/hypervisor/xen"
	"rempart/firstboot/contract"
)

// TestApply has rempart itself, in dom0, start a guest of Xen, list it, change its profile while it runs, keep that,
// compare it with its master, and end it: by the hypervisor alone, without the guest's network.
func TestApply(t *testing.T) {
	demand(t, more)
	theHost(t)
	run(t, "tar", "-x", "-f", itself, "-C", files)
	undo(t, "rm -f "+files+"/rempart "+files+"/system.raw")
	run(t, "ln", "-s", disk, files+"/system.raw")
	g := newGuest(t, "fw-apply", xen.PV, xen.Direct, xen.Whole)
	config, err := xen.Config(g)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(profile)
	if err != nil {
		t.Fatal(err)
	}
	const old, changed = "home -> self: ping", "home -> self: [ping, tcp/8443]"
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q", profile, old)
	}
	for name, b := range map[string][]byte{"fw-apply.cfg": config,
		"changed.yaml": []byte(strings.Replace(string(text), old, changed, 1))} {
		if err := world.host.Put(t.Context(), files+"/"+name, 0o600, b); err != nil {
			t.Fatal(err)
		}
	}
	rempart := func(args ...string) string {
		t.Helper()
		return run(t, append([]string{files + "/rempart"}, args...)...)
	}

	t.Cleanup(func() { clean(t, g.Name) })
	told(t, rempart("xen", "create", files+"/fw-apply.cfg", "--patience", patience.String()), contract.ReadyPrefix)
	told(t, rempart("xen", "list"), g.Name, contract.ReadyPrefix)
	told(t, rempart("xen", "report", g.Name), `"ready": true`)
	told(t, rempart("diff", g.Name), "runs what its master")
	told(t, rempart("apply", files+"/changed.yaml", g.Name, "--dry-run"), "8443", "nothing was changed")
	told(t, rempart("apply", files+"/changed.yaml", g.Name, "--undo-after", "1h"), "8443", "undone in")
	told(t, rempart("ctl", g.Name, "policy"), "8443")
	rempart("confirm", g.Name)
	// Its exit status says that they differ.
	told(t, run(t, "sh", "-c", `"$@"; echo status $?`, "sh", files+"/rempart", "diff", g.Name), "8443", "status 3")
	rempart("xen", "stop", g.Name, "--patience", ends.String())
	judgeEnd(t, g)
}
