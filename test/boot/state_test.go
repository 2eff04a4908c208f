package boot

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/profiles"
	"rempart/test/rig"
)

func digest(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// keepsLeases is the profile with a smaller state disk, and with leases on it.
func keepsLeases(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(rig.Top(), "profiles", profile+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "\nstate: 256M", "\nstate: 64M", 1)
	if changed == string(text) {
		t.Fatal("the profile declares its state in another way than this test knows")
	}
	file := filepath.Join(t.TempDir(), "leases.yaml")
	if err := os.WriteFile(file, []byte(changed+"\ndhcp: {dmz0: {pool: .100-.200}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestStateLife follows one state disk: formatted when blank, mounted again, replayed after a power cut in the middle
// of writing, grown when the disk grew. From its first start on one child has written there whatever it could: what
// others keep does not suffer.
func TestStateLife(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, keepsLeases(t))
	disk := filepath.Join(t.TempDir(), "state.raw")
	if err := rig.Blank(disk, m.Profile.State.Size); err != nil {
		t.Fatal(err)
	}
	action := func(g *rig.Guest, want string) contract.Report {
		t.Helper()
		r := g.AwaitReady()
		if r.State.Action != want {
			t.Errorf("state = %+v; want it %s", r.State, want)
		}
		return r
	}
	g := m.Boot(t, rig.Options{State: disk, Append: contract.KeyInject + "=fill:log"})
	first := action(g, "formatted")
	judgeFilled(t, m, g, first.State)
	g.PowerOff()
	e2fsck(t, disk)
	if out := debugfs(t, disk, "stats -h", false); !strings.Contains(out, contract.StateLabel) {
		t.Errorf("the state disk is not labelled %s:\n%s", contract.StateLabel, out)
	}
	// What a guest keeps: root's home is on state, reached through the relative link /root -> var/root.
	note := filepath.Join(t.TempDir(), "note")
	if err := os.WriteFile(note, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	debugfs(t, disk, fmt.Sprintf("write %s root/note", note), true)
	// The leases are begun anew on a disk where the log has nothing left to take.
	leases := strings.TrimPrefix(contract.DHCPDir, contract.StateDir+"/") + "/leases4"
	debugfs(t, disk, "rm "+leases, true)

	g = m.Boot(t, rig.Options{State: disk})
	if r := action(g, "mounted"); len(r.Failures) > 0 {
		t.Errorf("failures %q beside a log that has filled its share; want none", r.Failures)
	}
	g.Cut() // the filesystem is mounted and its journal has work to do
	for _, s := range rig.Inspected(t, disk).Suspects {
		if s.Path != "root/note" && !strings.HasPrefix(s.Path, "log/rempart/fill-") {
			t.Errorf("after a power cut verify suspects %+v on the disk of an honest guest", s)
		}
	}

	info, err := os.Stat(disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, info.Size()+(64<<20)); err != nil {
		t.Fatal(err)
	}
	g = m.Boot(t, rig.Options{State: disk})
	grown := action(g, "grown")
	if grown.State.Bytes <= first.State.Bytes {
		t.Errorf("the grown state has %d bytes; want more than the %d before", grown.State.Bytes, first.State.Bytes)
	}
	g.PowerOff()
	e2fsck(t, disk)
	if got := debugfs(t, disk, "cat root/note", false); !strings.Contains(got, "kept") {
		t.Errorf("the note on state reads %q after a power cut and growth; want kept", got)
	}
	if got := debugfs(t, disk, "cat "+leases, false); !strings.Contains(got, "rempart leases") {
		t.Errorf("leases on state read %q beside a log that has filled its share; want the file begun", got)
	}
}

// judgeFilled judges what a child got that wrote to the state disk until it could no more: its share, and no more.
func judgeFilled(t *testing.T, m *rig.Master, g *rig.Guest, s contract.StateReport) {
	t.Helper()
	g.AwaitConsole(`quota exceeded"`) // to the end of the line's last word: a console comes in pieces
	said := g.ConsoleText()
	line := regexp.MustCompile(`in=/var/log/rempart files=([0-9]+) bytes=([0-9]+) until="(.*)"`).FindStringSubmatch(said)
	if line == nil {
		t.Fatalf("the child that fills the disk said nothing of it:\n%s", said)
	}
	files, err1 := strconv.ParseInt(line[1], 10, 64)
	bytes, err2 := strconv.ParseInt(line[2], 10, 64)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	for _, share := range m.Profile.Shares(s.Bytes) {
		if share.Of != profiles.WriterLog {
			continue
		}
		// Those that are there already, and directories, are of the share too.
		if files < share.Files-4 || files > share.Files || bytes < share.Need || bytes > share.Most ||
			!strings.Contains(line[3], "quota exceeded") {
			t.Errorf("the log child got %d files and %d bytes until %q; want its share, %+v", files, bytes, line[3], share)
		}
		if s.Free < s.Bytes/2 {
			t.Errorf("%d of %d bytes are free beside the log's share of %d", s.Free, s.Bytes, share.Most)
		}
		t.Logf("the log child got %d files and %d bytes until %q; %d of %d bytes are free", files, bytes, line[3], s.Free,
			s.Bytes)
	}
}

// TestInterruptedFormat cuts the power while the first start formats the state disk, and starts again.
func TestInterruptedFormat(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := filepath.Join(t.TempDir(), "state.raw")
	if err := rig.Blank(disk, m.Profile.State.Size); err != nil {
		t.Fatal(err)
	}
	// The guest says on its console that it formats before it writes the first byte.
	g := m.Boot(t, rig.Options{State: disk})
	g.AwaitConsole("formatting the state disk")
	g.Cut()
	head := make([]byte, 1<<20)
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(f, head); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if bytes.Equal(head, make([]byte, len(head))) {
		t.Log("the cut came before the first byte was written: the disk is still blank")
	}
	g = m.Boot(t, rig.Options{State: disk})
	r := g.AwaitReady()
	switch r.State.Action {
	case "formatted", "reformatted", "mounted": // mounted: the cut came after the format was whole
	default:
		t.Errorf("state = %+v after an interrupted format; want it usable", r.State)
	}
	g.PowerOff()
	e2fsck(t, disk)
}

// TestForeignState shows that a disk with somebody else's data is never touched.
func TestForeignState(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := filepath.Join(t.TempDir(), "state.raw")
	if err := rig.Blank(disk, m.Profile.State.Size); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("LUKS\xba\xbe\x00\x02 a family's photographs"), 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	before := digest(t, disk)
	g := m.Boot(t, rig.Options{State: disk})
	r := g.Await("a report about the foreign disk", func(r contract.Report) bool {
		return r.Settled && r.State.Action == "foreign" && len(r.Failures) > 0
	})
	if r.Ready || r.Policy != "loaded" {
		t.Errorf("report = %+v; want it not READY, and the policy in place", r)
	}
	g.AwaitConsole(contract.FailedPrefix)
	g.PowerOff()
	if digest(t, disk) != before {
		t.Error("the foreign disk was written to")
	}
}
