package xen

import (
	"encoding/json"
	"strings"
	"testing"

	"rempart/builder/hypervisor/xen"
)

// emulated makes a guest of QEMU, describes it to xl, and has xl start it without rempart: then nothing of it is
// touched either.
func emulated(t *testing.T, master string) {
	t.Helper()
	const name, config = "emulated", files + "/emulated.cfg"
	said(t, 0, "rempart start "+name, "create", name, "--master", master, "--accel", "tcg")
	said(t, 0, "", "export", name, "--to", "xl", "--bridge", "lan0=brlan", "--bridge", "dmz0=brdmz", "--output", config)
	run(t, "xl", "create", config)
	t.Cleanup(func() { clean(t, name) })
	untouched(t, name)
	clean(t, name)
	said(t, 0, "are gone", "rm", name, "--data")
}

// untouched wants rempart to leave a guest alone that another program runs.
func untouched(t *testing.T, name string) {
	t.Helper()
	for _, args := range [][]string{{"start", name}, {"reprovision", name}, {"rm", name, "--data"}, {"verify", name}} {
		said(t, 1, "another program runs the guest", args...)
	}
}

// onThin reprovisions a guest whose volumes are of a thin pool.
func onThin(t *testing.T, first, second string) {
	demand(t, everything)
	const pool = "thin"
	run(t, "lvm", "lvcreate", "--yes", "--type", "thin-pool", "--size", "400m", "--poolmetadatasize", "4m", "--name", pool,
		group)
	undo(t, "lvm lvremove --yes "+group+"/"+pool)
	made(t, "slim", xen.PVH, "--master", first, "--volumes", group+"/"+pool, "--root-volume", "--keep",
		"/var/log/rempart")
	said(t, 0, "in quarantine as 0001", "reprovision", "slim", "--to", second, "--prove", "never", "--timeout",
		long.String(), "--stop-timeout", long.String())
	said(t, 0, morePort, "ctl", "slim", "policy")
	said(t, 0, "stopped", "stop", "slim", "--timeout", long.String())
	told(t, run(t, "lvm", "lvs", "--noheadings", "--options", "lv_name,pool_lv", group), "slim_root", "slim_var.0001",
		pool)
	said(t, 0, "are gone", "rm", "slim", "--data")
}

// asHVM has rempart start, describe and stop a guest with an emulated machine.
func asHVM(t *testing.T, master string) {
	demand(t, everything)
	made(t, "full", xen.HVM, "--master", master, "--volumes", group)
	said(t, 0, "stopped", "stop", "full", "--timeout", long.String())
	said(t, 0, "are gone", "rm", "full", "--data")
}

// made creates a guest of Xen, starts it, and compares what xl and rempart say of it with what was asked for.
func made(t *testing.T, name string, mode xen.Mode, args ...string) {
	t.Helper()
	t.Cleanup(func() { clean(t, name) })
	said(t, 0, "rempart start "+name, append([]string{"create", name, "--xen", string(mode), "--net", "lan0=bridge:brlan",
		"--net", "dmz0=bridge:brdmz"}, args...)...)
	said(t, 0, "is READY", "start", name, "--timeout", (4 * patience).String())
	domains, err := toolstack().List(t.Context())
	if err != nil || len(domains) != 1 || domains[0].Name != name || domains[0].Mode != mode {
		t.Fatalf("xl lists %+v, %v; want %s alone, as %s", domains, err, name, mode)
	}
	var s struct {
		Phase  string `json:"phase"`
		Domain int    `json:"domain"`
	}
	out := said(t, 0, "", "status", name, "--json")
	if err := json.Unmarshal([]byte(strings.TrimSpace(out)), &s); err != nil || s.Phase != "ready" ||
		s.Domain != domains[0].ID {
		t.Errorf("status says, %v,\n%s\nwant it ready as number %d", err, out, domains[0].ID)
	}
}
