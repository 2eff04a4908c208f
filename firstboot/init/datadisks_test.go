package pid1

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/state"
	"rempart/profiles"
)

// diskResults are what the disks child of the test guest tells: of a disk that is not in the profile, and nothing of
// one that is.
func diskResults() []child.DiskResult {
	mounted := func(name, device string) child.DiskResult {
		return child.DiskResult{Name: name, StateResult: child.StateResult{Device: device, Action: state.Mounted}}
	}
	return []child.DiskResult{mounted("other", "vdz"), mounted("tools", "vdd"), mounted("logs", "vdc"),
		mounted("dirty", "vde"),
		{Name: "gone", StateResult: child.StateResult{Action: state.Absent, Error: "no such\x1b disk"}}}
}

// mountDisk is System.Mount for data disks.
func (g *testGuest) mountDisk(source, target string, flags uintptr) error {
	words := []string{strings.TrimPrefix(source, g.root), strings.TrimPrefix(target, g.root)}
	for flag, word := range map[uintptr]string{unix.MS_RDONLY: "ro", unix.MS_NOEXEC: "noexec", unix.MS_NOSUID: "nosuid",
		unix.MS_NODEV: "nodev"} {
		if flags&flag != 0 {
			words = append(words, word)
		}
	}
	slices.Sort(words[2:])
	g.mounted = append(g.mounted, strings.Join(words, " "))
	if strings.HasSuffix(source, "vde") {
		return unix.EROFS
	}
	return nil
}

// withDisks is a profile with data disks, all optional or none.
func withDisks(optional bool) *profiles.Profile {
	p := oneLink()
	p.Logging.Disk, p.Admin.Shell = "logs", true
	for _, d := range []profiles.Disk{{Name: "logs"}, {Name: "tools", Exec: true}, {Name: "dirty", ReadOnly: true},
		{Name: "gone"}, {Name: "silent"}} {
		d.Mount, d.Optional = profiles.DisksDir+"/"+d.Name, optional
		p.Disks = append(p.Disks, d)
	}
	return p
}

// prepareDisks makes a guest with such a profile and its mount points.
func prepareDisks(t *testing.T, p *profiles.Profile) *testGuest {
	t.Helper()
	g := prepareGuest(t, "", p)
	for _, d := range p.Disks {
		if err := os.MkdirAll(filepath.Join(g.root, d.Mount), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// TestDataDisks: each is mounted as the profile says, those who keep something on it have a folder there, and of one
// that cannot be had the report says why. Optional ones the guest is READY without.
func TestDataDisks(t *testing.T) {
	g := prepareDisks(t, withDisks(true))
	g.begin(t)
	r := g.wait(t, "READY", ready)
	want := []contract.DiskReport{{Name: "logs", Device: "vdc", Action: state.Mounted},
		{Name: "tools", Device: "vdd", Action: state.Mounted},
		{Name: "dirty", Action: state.FailedDisk, Error: "attach it writable for one start"},
		{Name: "gone", Action: state.Absent, Error: "no such? disk"},
		{Name: "silent", Action: state.FailedDisk, Error: "ended without a word"}}
	for i, d := range r.Disks {
		if i >= len(want) || d.Name != want[i].Name || d.Mount != "/srv/"+d.Name || d.Device != want[i].Device ||
			d.Action != want[i].Action || !strings.Contains(d.Error, want[i].Error) ||
			(d.Error == "") != (want[i].Error == "") || (d.Bytes > 0) != (d.Device != "") {
			t.Errorf("disk %d is %+v; want it as in %+v", i, d, want)
			continue
		}
		said := strings.Join(r.Warnings, "\n")
		if d.Error != "" && !strings.Contains(said, "data disk "+d.Name+": "+d.Error) {
			t.Errorf("warnings %q; want what became of %s", r.Warnings, d.Name)
		}
	}
	if len(r.Disks) != len(want) {
		t.Errorf("%d disks in the report; want %d", len(r.Disks), len(want))
	}
	g.mu.Lock()
	mounted := slices.Clone(g.mounted)
	g.mu.Unlock()
	for _, want := range []string{"/dev/vdc /srv/logs nodev noexec nosuid", "/dev/vdd /srv/tools nodev nosuid",
		"/dev/vde /srv/dirty nodev noexec nosuid ro"} {
		if !slices.Contains(mounted, want) {
			t.Errorf("mounted %q; want %q", mounted, want)
		}
	}
	for dir, want := range map[string]bool{"logs/log": true, "logs/admin": true, "tools/admin": true, "tools/log": false,
		"dirty/admin": false, "gone/admin": false} {
		info, err := os.Lstat(filepath.Join(g.root, profiles.DisksDir, dir))
		if there := err == nil && info.IsDir() && info.Mode().Perm() == 0o750; there != want {
			t.Errorf("folder %s is there: %v; want %v", dir, there, want)
		}
	}
}

// TestWithoutDataDisk: a disk that is not optional keeps the guest from being READY, and from nothing else.
func TestWithoutDataDisk(t *testing.T) {
	g := prepareDisks(t, withDisks(false))
	g.begin(t)
	r := g.wait(t, "a verdict", func(r contract.Report) bool { return r.Settled })
	said := strings.Join(r.Failures, "\n")
	if r.Ready || !strings.Contains(said, "data disk gone: no such? disk") || strings.Contains(said, "logs") {
		t.Errorf("failures %q, READY %v; want the disks that are not there named", r.Failures, r.Ready)
	}
	if r.Policy != "loaded" || len(r.Links) == 0 || !r.Links[0].Up {
		t.Errorf("the policy is %s, links %+v; want both up", r.Policy, r.Links)
	}
}

// TestFolderOnDataDisk: what an earlier owner left in the place of a folder is neither followed nor removed.
func TestFolderOnDataDisk(t *testing.T) {
	g := prepareDisks(t, withDisks(true))
	outside := t.TempDir()
	for name, target := range map[string]string{"logs/log": outside, "tools/admin": "../../etc"} {
		if err := os.Symlink(target, filepath.Join(g.root, profiles.DisksDir, name)); err != nil {
			t.Fatal(err)
		}
	}
	g.begin(t)
	r := g.wait(t, "READY", ready)
	said := strings.Join(r.Warnings, "\n")
	for _, want := range []string{"log is a L---------, wanted a directory", "admin is a L---------"} {
		if !strings.Contains(said, want) {
			t.Errorf("warnings %q; want %q", r.Warnings, want)
		}
	}
	if _, err := os.Lstat(filepath.Join(outside, "log")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made behind the link: %v", err)
	}
}

// TestToldOfDisks: what the disks child may tell is bounded, and comes from nobody else.
func TestToldOfDisks(t *testing.T) {
	result := func(device, action string) []child.DiskResult {
		return []child.DiskResult{{Name: "a", StateResult: child.StateResult{Device: device, Action: action}}}
	}
	for name, c := range map[string]struct {
		from    string
		results []child.DiskResult
		taken   bool
	}{
		"mounted":         {disksChild, result("vdc", state.Mounted), true},
		"another child":   {stateChild, result("vdc", state.Mounted), false},
		"too many":        {disksChild, make([]child.DiskResult, profiles.MaxDisks+1), false},
		"unknown action":  {disksChild, result("vdc", "shredded"), false},
		"no name of disk": {disksChild, result("../mem", state.Mounted), false},
	} {
		value, err := json.Marshal(c.results)
		if err != nil {
			t.Fatal(err)
		}
		g := newGuest(Options{Root: t.TempDir(), Console: &strings.Builder{}})
		err = g.told(c.from, child.Message{Key: child.KeyDisks, Value: value})
		if (err == nil) != c.taken || (len(g.facts.diskResults) > 0) != c.taken {
			t.Errorf("%s: told = %v, and %d results; want it taken %v", name, err, len(g.facts.diskResults), c.taken)
		}
	}
}

// TestFoldersOfAChild: a child is let into folders that are there, and through no link.
func TestFoldersOfAChild(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Mkdir(at("folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	places := []string{at("missing"), at("folder"), at("file"), at("file/below")}
	for name, target := range map[string]string{"out": "/", "in": "folder", "loop": "loop"} {
		if err := os.Symlink(target, at(name)); err != nil {
			t.Fatal(err)
		}
		places = append(places, at(name))
	}
	if got := folders(places); !slices.Equal(got, []string{at("folder")}) {
		t.Errorf("folders are %q; want the one that is", got)
	}
}
