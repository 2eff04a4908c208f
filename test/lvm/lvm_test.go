// Package lvm runs what keeps guests in volumes of LVM on real ones: lvm2 and a kernel with device-mapper, which this
// machine's may lack, in a machine of QEMU's made of Debian packages. The test binary is its init: outside it builds
// and boots, and cuts the power in mid-operation; inside, as PID 1, it has volumes made, copied, moved, grown and
// removed, and has the test of package reprovision kill its processes there.
package lvm

import (
	"flag"
	"os"
	"strings"
	"testing"

	"rempart/test/rig"
)

var update = flag.Bool("update", false, "renew machine.lock")

func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		rig.Inside(m, prepare)
	}
	code := m.Run()
	rig.Clean()
	os.Exit(code)
}

// TestLock: the lock names the packages of every root.
func TestLock(t *testing.T) {
	if os.Getpid() != 1 {
		rig.CheckLock(t, lockFile(), roots(), *update)
	}
}

// Words of the machine's command line.
const (
	firstWord = "rempart.first"  // make the volume group, and go through what is done with volumes
	everyWord = "rempart.every=" // the same on thin ones, and kill processes at one of so many points
	listWord  = "rempart.list"   // say at which points the power can be cut
	cutWord   = "rempart.cut="   // look at what the last power cut left; cut it at: STORAGE:PLAN:POINT:BACK, or nowhere
)

// What the test of package reprovision says on the console.
const (
	cutHere   = "CUT HERE"
	cutPoints = "CUT POINTS "
	cutGood   = "CUT GOOD "
)

// cut is a power cut: the guest's storage, "thick" or "thin", and what it is cut in.
type cut struct{ storage, plan, point, back string }

func (c cut) word() string {
	return cutWord + strings.ReplaceAll(strings.Join([]string{c.storage, c.plan, c.point, c.back}, ":"), " ", "_")
}

// TestLVM boots the machine again and again: the first time it goes through everything, and each time but the last its
// power is cut while a guest is being put on another master. With LVM=all it is cut after every record of the journal,
// and processes are killed besides.
func TestLVM(t *testing.T) {
	if os.Getpid() == 1 {
		inside(t)
		return
	}
	all := os.Getenv("LVM") == "all"
	dir := t.TempDir()
	m := rig.Build(t, "home-firewall")
	made, d := build(t.Context(), t, dir), newDisks(t, dir)
	words, queue := firstWord, []cut{{"thin", "upgrade", "done old disks set aside", "back"}}
	if all {
		words += " " + everyWord + "5"
		for _, plan := range []string{"reprovision", "reprovision with what is kept", "sick", "wrong packets", "upgrade",
			"rollback"} {
			queue = append(queue, cut{"thick", plan, "recorded master checked", "on"})
		}
	}
	seen, n := map[string]bool{}, 0
	for ; len(queue) > 0; words = "" {
		c := queue[0]
		queue = queue[1:]
		if all && !seen[c.plan] {
			words += " " + listWord
		}
		g := boot(t, m, made, d, all, words+" "+c.word())
		g.AwaitConsole(cutHere)
		g.Cut()
		text := g.ConsoleText()
		tell(t, text)
		if n++; n > 1 && !strings.Contains(text, cutGood) {
			t.Errorf("after the power cut before %+v nothing is said of what it left:\n%s", c, text)
		}
		if all && !seen[c.plan] {
			seen[c.plan] = true
			more := recorded(text, c)
			if len(more) == 0 {
				t.Errorf("the machine tells no point of %q where the power is to be cut:\n%s", c.plan, text)
			}
			queue = append(queue, more...)
		}
	}
	g := boot(t, m, made, d, all, cutWord)
	text, good := g.InsideEnd()
	tell(t, text)
	if !good || !strings.Contains(text, cutGood) {
		t.Errorf("inside:\n%s", text)
	}
	t.Logf("%d power cuts", n)
}

// recorded are cuts after each record of a transaction, as it lists its points, on thick volumes and thin ones,
// finished and taken back by turns.
func recorded(text string, c cut) (more []cut) {
	_, line, _ := strings.Cut(text, cutPoints+c.plan+": ")
	line, _, _ = strings.Cut(line, "\n")
	for i, point := range strings.Split(strings.TrimSpace(line), ", ") {
		if strings.HasPrefix(point, "recorded ") {
			more = append(more, cut{[]string{"thick", "thin"}[i/3%2], c.plan, point, []string{"on", "back"}[i/6%2]})
		}
	}
	return more
}

// tell logs what tests and power cuts said.
func tell(t *testing.T, console string) {
	t.Helper()
	for line := range strings.Lines(console) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, cutGood) || strings.HasPrefix(line, "--- ") || strings.Contains(line, "_test.go:") {
			t.Log(line)
		}
	}
}
