package boot

import (
	"fmt"
	"strings"
	"testing"

	"rempart/firstboot/admin"
	"rempart/firstboot/child"
	"rempart/firstboot/clock"
	"rempart/firstboot/console"
	"rempart/firstboot/contract"
	"rempart/firstboot/control"
	"rempart/firstboot/dhcp"
	"rempart/firstboot/disks"
	"rempart/firstboot/dns"
	"rempart/firstboot/filter/policy"
	"rempart/firstboot/health"
	"rempart/firstboot/identity"
	"rempart/firstboot/link"
	"rempart/firstboot/lists"
	"rempart/firstboot/logging"
	"rempart/firstboot/ra"
	"rempart/firstboot/scrub"
	"rempart/firstboot/session"
	"rempart/firstboot/ssh"
	"rempart/firstboot/state"
	"rempart/firstboot/syslog"
	"rempart/test/rig"
)

// TestConfinement asks the kernel of a running guest what it holds every child to, all of its threads, and compares
// that with the child's specification; and that the kernel itself is locked down.
func TestConfinement(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	// The tasks are made to wait before they work, so that they can be looked at. All of the kernel's log is shown.
	g := m.Boot(t, rig.Options{Append: "ignore_loglevel " + contract.KeyInject + "=slow:state:15s,slow:scrub:1m"})
	specs := []child.Spec{logging.Spec(), health.Spec(), control.Spec(), admin.Spec(), policy.Spec(), link.Spec(),
		state.Spec(), ssh.Spec(), scrub.Spec()}
	ask := func(task child.Spec) {
		g.AwaitConsole("rempart: " + task.Name + ": warning: made slow by the kernel command line")
		g.Order("confinement")
		g.AwaitConsole(confinement(task))
	}
	ask(state.Spec())
	r := g.AwaitReady()
	// This profile needs none of them.
	idle := []child.Spec{dhcp.Spec(), dns.Spec(), ra.Spec(), clock.Spec(), identity.Spec(), session.Spec(), console.Spec(),
		syslog.Spec(), lists.Spec(), disks.Spec()}
	if len(r.Children) != len(specs)+len(idle) {
		t.Errorf("%d children in the guest, %d known to this test", len(r.Children), len(specs)+len(idle))
	}
	for _, spec := range idle {
		g.Await("child "+spec.Name+", which nothing needs, to be done", func(r contract.Report) bool {
			c := childOf(r, spec.Name)
			return c.State == "done" && c.PID == 0
		})
	}
	ask(scrub.Spec())
	console := g.ConsoleText()
	for _, spec := range specs {
		if spec.UID == 0 {
			t.Errorf("child %s runs as root", spec.Name)
		}
		if want := confinement(spec); !strings.Contains(console, want) {
			t.Errorf("child %s is not confined as specified; want\n%s\nconsole:\n%s", spec.Name, want,
				strings.Join(grep(console, "confinement "), "\n"))
		}
	}
	for _, want := range []string{"landlock: Up and running", "Kernel is locked down from command line"} {
		if !strings.Contains(console, want) {
			t.Errorf("the kernel does not say %q:\n%s", want, strings.Join(grep(console, "LSM", "andlock"), "\n"))
		}
	}
	if strings.Contains(console, "Mandatory Access Control") {
		t.Error("the kernel looks for a policy nobody loads")
	}
	g.PowerOff()
	rig.Honest(t, g.State)
}

// confinement is the whole line that PID 1 prints for a child confined as its specification says. Landlock's second
// version is that of Debian 12's kernel.
func confinement(spec child.Spec) string {
	var caps uint64
	for _, c := range spec.Caps {
		caps |= 1 << c
	}
	return fmt.Sprintf("confinement %s Uid=%d,%[2]d,%[2]d,%[2]d Gid=%[2]d,%[2]d,%[2]d,%[2]d Groups= CapInh=%016[3]x "+
		"CapPrm=%016[3]x CapEff=%016[3]x CapBnd=%016[3]x CapAmb=%016[3]x NoNewPrivs=1 Seccomp=0 Landlock=2",
		spec.Name, spec.UID, caps)
}

// grep returns the lines of a text that hold one of the words.
func grep(text string, words ...string) []string {
	var found []string
	for line := range strings.Lines(text) {
		for _, word := range words {
			if strings.Contains(line, word) {
				found = append(found, strings.TrimSpace(line))
				break
			}
		}
	}
	return found
}
