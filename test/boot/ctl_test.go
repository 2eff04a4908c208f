package boot

import (
	"encoding/json"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
	"rempart/test/rig"
)

// TestCtl speaks to a guest by its hypervisor's channel: commands, their output and exit status; after nonsense, after
// clients that went away in the middle, and after the children in between were killed.
func TestCtl(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	g := m.Boot(t, rig.Options{})
	g.AwaitReady()
	works := func(after string) {
		t.Helper()
		status, out, errs := g.Ctl(nil, "status", "--json")
		var r contract.Report
		if err := json.Unmarshal([]byte(out), &r); status != ctl.Done || err != nil || !r.Ready || r.Name != m.Profile.Name {
			t.Errorf("after %s: status --json = %d, %.300s, %s; want the report of a guest that is READY", after, status, out,
				errs)
		}
	}
	works("READY")
	if status, _, errs := g.Ctl(nil, "nonsense"); status != ctl.Usage || !strings.Contains(errs, "no command") {
		t.Errorf("nonsense = %d, %q; want %d and a hint", status, errs, ctl.Usage)
	}
	for _, junk := range []string{"junk", "\x00RMPCTL\x01abc", strings.Repeat("\x00RMPCTL\x01", 1000),
		strings.Repeat("R", 100_000), "RMc\x00\xff\xff\x00\x00\x00\x01"} {
		conn := g.CommandConn()
		if _, err := conn.Write([]byte(junk)); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		works("junk")
	}
	// Nonsense after a greeting ends the stream, and nothing else.
	conn := g.CommandConn()
	if err := ctl.Greet(conn); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("this is no frame")); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	works("nonsense in a stream")
	for _, child := range []string{"admin", "control"} {
		pid := pidOf(t, g, child)
		g.Order("kill " + child + " SIGKILL")
		g.Await(child+" to be back", func(r contract.Report) bool {
			for _, c := range r.Children {
				if c.Name == child {
					return c.State == "ready" && c.PID != pid
				}
			}
			return false
		})
		works("the death of " + child)
	}
	g.PowerOff()
}

func pidOf(t *testing.T, g *rig.Guest, name string) int {
	t.Helper()
	r, _ := g.Report()
	for _, c := range r.Children {
		if c.Name == name {
			return c.PID
		}
	}
	t.Fatalf("there is no child %s in %+v", name, r.Children)
	return 0
}

// TestCtlWithoutNetwork: a guest whose policy never loads has no link up; its commands work all the same.
func TestCtlWithoutNetwork(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	g := m.Boot(t, rig.Options{Append: contract.KeyInject + "=fail:policy"})
	g.Await("the verdict", func(r contract.Report) bool { return r.Settled })
	status, out, errs := g.Ctl(nil, "status")
	if status != ctl.Done || !strings.Contains(out, contract.FailedPrefix) {
		t.Errorf("status = %d, %q, %q; want what failed", status, out, errs)
	}
	// One caller after the other, as fast as they come: none is taken for the one before it, who has just left.
	for n := range 200 {
		if status, out, errs := g.Ctl(nil, "status"); status != ctl.Done {
			t.Fatalf("caller %d: status = %d, %q, %q", n, status, out, errs)
		}
	}
	g.PowerOff()
}
