package home

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/builder/guest"
	"rempart/builder/guest/quarantine"
	"rempart/builder/guest/running"
	"rempart/builder/guest/storage"
	"rempart/builder/hypervisor"
)

// description is one that nothing is wrong with.
func description(name string) Description {
	return Description{Format: Format, Name: name, Store: "/masters", Master: strings.Repeat("ab", 32),
		Accel: hypervisor.TCG, Firmware: hypervisor.BIOS, State: 1 << 20, Nets: map[string]string{"wan": "user"},
		Data: []Data{{Name: "www", Path: "/srv/www.raw", Format: hypervisor.Raw}}}
}

// makeGuest makes a guest with the files of its disks.
func makeGuest(t *testing.T, h Home, name string) *Guest {
	t.Helper()
	g, err := h.Create(t.Context(), description(name), false)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{g.StateDisk(), g.Identity()} {
		if err := os.WriteFile(path, []byte("disk"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Save(); err != nil {
		t.Fatal(err)
	}
	g.Unlock()
	return g
}

// lockedGuest makes one called fw, which nobody else changes until the test is over.
func lockedGuest(t *testing.T, h Home) *Guest {
	t.Helper()
	makeGuest(t, h, "fw")
	g, err := h.Lock("fw", "a test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Unlock)
	return g
}

func TestLife(t *testing.T) {
	h := Home{Dir: filepath.Join(t.TempDir(), "guests")}
	if names, err := h.Names(); err != nil || len(names) != 0 {
		t.Errorf("Names of a home that is not there = %q, %v; want none", names, err)
	}
	if _, err := h.Open("fw"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "rempart create") {
		t.Errorf("Open before = %v; want %v and what to do", err, ErrUnknown)
	}
	made := makeGuest(t, h, "fw")
	if info, err := os.Stat(made.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder is %v, %v; want mode 0700", info.Mode(), err)
	}
	if _, err := h.Create(t.Context(), description("fw"), true); !errors.Is(err, ErrExists) {
		t.Errorf("Create again = %v; want %v", err, ErrExists)
	}
	g, err := h.Lock("fw", "a test")
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(g.Description) != fmt.Sprint(description("fw")) {
		t.Errorf("Lock = %+v; want what was saved, %+v", g.Description, description("fw"))
	}
	if _, err := h.Lock("fw", "another"); !errors.Is(err, ErrLocked) ||
		!strings.Contains(err.Error(), fmt.Sprintf("process %d, a test", os.Getpid())) {
		t.Errorf("Lock of a locked one = %v; want %v and whose lock it is", err, ErrLocked)
	}
	if _, err := h.Open("fw"); err != nil {
		t.Errorf("Open of a locked one = %v; looking is free", err)
	}
	if err := g.Remove(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if names, err := h.Names(); err != nil || len(names) != 0 {
		t.Errorf("Names after Remove = %q, %v; want none", names, err)
	}
	if b, err := os.ReadFile(g.StateDisk()); err != nil || string(b) != "disk" {
		t.Errorf("the state disk after Remove without data: %q, %v; want it as it was", b, err)
	}
	if _, err := h.Create(t.Context(), description("fw"), false); !errors.Is(err, ErrLeft) {
		t.Errorf("Create over what is left = %v; want %v", err, ErrLeft)
	}
	again, err := h.Create(t.Context(), description("fw"), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Abandon(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if again, err = h.Create(t.Context(), description("fw"), true); err == nil {
		err = again.Save()
	}
	if err != nil {
		t.Fatal(err)
	}
	again.Unlock()
	if _, err := h.Left("fw"); !errors.Is(err, ErrExists) {
		t.Errorf("Left of one that is a guest = %v; want %v", err, ErrExists)
	}
	if again, err = h.Lock("fw", "a test"); err == nil {
		err = again.Remove(t.Context(), false)
	}
	if err != nil {
		t.Fatal(err)
	}
	left, err := h.Left("fw")
	if err != nil {
		t.Fatal(err)
	}
	if err := left.Remove(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(g.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder after Remove with data: %v; want it gone", err)
	}
	if err := made.Save(); err == nil {
		t.Error("Save of one that is not locked = nil; want an error")
	}
}

// TestLeft: whatever a removed guest left becomes no new one's by accident, and stays where it is.
func TestLeft(t *testing.T) {
	for name, adopted := range map[string]bool{storage.StateFile: true, storage.IdentityFile: true,
		quarantine.Folder: true, quarantine.Journal: false} {
		h := Home{Dir: t.TempDir()}
		path := filepath.Join(h.Dir, "fw", name)
		if err := os.MkdirAll(path, 0o700); err != nil { // what it is does not matter
			t.Fatal(err)
		}
		if _, err := h.Create(t.Context(), description("fw"), false); !errors.Is(err, ErrLeft) ||
			!strings.Contains(err.Error(), path) {
			t.Errorf("Create where %s was left = %v; want %v and what", name, err, ErrLeft)
		}
		g, err := h.Create(t.Context(), description("fw"), true)
		if (err == nil) != adopted || err != nil && !errors.Is(err, ErrLeft) {
			t.Errorf("Create that adopts %s = %v; want it adopted: %v", name, err, adopted)
		}
		if err == nil {
			g.Unlock()
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s after that: %v; want it where it was", name, err)
		}
	}
}

// TestRemovedWhileMade: what is made while the guest of before is being removed is whole, or is refused.
func TestRemovedWhileMade(t *testing.T) {
	h := Home{Dir: t.TempDir()}
	over := make(chan struct{})
	removed := make(chan struct{})
	go func() {
		defer close(removed)
		for {
			select {
			case <-over:
				return
			default:
			}
			old, err := h.Lock("fw", "a test")
			if errors.Is(err, ErrUnknown) {
				old, err = h.Left("fw")
			}
			if err == nil {
				_ = old.Remove(t.Context(), true)
			}
			time.Sleep(100 * time.Microsecond) // its turn for who makes one
		}
	}()
	made := 0
	for deadline := time.Now().Add(time.Minute); made < 100 && time.Now().Before(deadline); {
		g, err := h.Create(t.Context(), description("fw"), true)
		if err != nil {
			continue // its name is locked, or its folder has just gone
		}
		err = errors.Join(os.WriteFile(g.StateDisk(), nil, 0o600), g.Save())
		if err == nil {
			_, err = os.Stat(g.StateDisk())
		}
		if _, opened := h.Open("fw"); err != nil || opened != nil {
			t.Errorf("a guest that is locked was removed: %v, %v", err, opened)
			break
		}
		g.Unlock()
		made++
	}
	close(over)
	<-removed
	if made == 0 && !t.Failed() {
		t.Error("none was made")
	}
}

// TestUnfinished: what a killed `create` left is no guest, and what it began may begin anew.
func TestUnfinished(t *testing.T) {
	h := Home{Dir: t.TempDir()}
	g, err := h.Create(t.Context(), description("fw"), false)
	if err != nil {
		t.Fatal(err)
	}
	g.Unlock() // as the kernel does
	if _, err := h.Open("fw"); !errors.Is(err, ErrUnknown) {
		t.Errorf("Open of an unfinished one = %v; want %v", err, ErrUnknown)
	}
	if g, err = h.Create(t.Context(), description("fw"), false); err != nil {
		t.Fatal(err)
	}
	if err := g.Abandon(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(h.Dir); err != nil || len(entries) != 0 {
		t.Errorf("after Abandon the home has %v, %v; want nothing", entries, err)
	}
}

const holderVariable = "REMPART_TEST_HOLD"

// TestLockGoesWithItsProcess: a lock outlives neither its process nor is it given up to a child.
func TestLockGoesWithItsProcess(t *testing.T) {
	if dir := os.Getenv(holderVariable); dir != "" {
		if _, err := (Home{Dir: dir}).Lock("fw", "a test that is killed"); err != nil {
			t.Fatal(err)
		}
		fmt.Println("held")
		select {}
	}
	h := Home{Dir: t.TempDir()}
	makeGuest(t, h, "fw")
	cmd := exec.Command(os.Args[0], "-test.run", "^TestLockGoesWithItsProcess$")
	cmd.Env = append(os.Environ(), holderVariable+"="+h.Dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Lock("fw", "me"); !errors.Is(err, ErrLocked) ||
		!strings.Contains(err.Error(), "a test that is killed") {
		t.Errorf("Lock while another process has it = %v; want %v", err, ErrLocked)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	g, err := h.Lock("fw", "me")
	if err != nil {
		t.Fatalf("Lock after its holder was killed = %v", err)
	}
	g.Unlock()
}

func TestRunning(t *testing.T) {
	h := Home{Dir: t.TempDir()}
	g := makeGuest(t, h, "fw")
	if _, err := g.Running(); !errors.Is(err, running.ErrAbsent) {
		t.Errorf("Running before = %v; want %v", err, running.ErrAbsent)
	}
	if e, killed := g.LastEnd(); e != nil || killed {
		t.Errorf("LastEnd before = %v, %v; want none", e, killed)
	}
	place := t.TempDir()
	r, err := running.Register(place, "fw")
	if err == nil {
		err = r.Announce(running.Info{PID: 7})
	}
	if err == nil {
		err = g.Runs(place)
	}
	if err != nil {
		t.Fatal(err)
	}
	if found, err := g.Running(); err != nil || found.PID != 7 || found.Keeper() != r.Keeper() {
		t.Errorf("Running = %+v, %v; want the one of process 7", found, err)
	}
	if err := r.Forget(); err != nil {
		t.Fatal(err)
	}
	if _, killed := g.LastEnd(); !killed {
		t.Error("LastEnd of one whose keeper never said a word does not tell that it was killed")
	}
	if err := g.End(Ended{Cause: "powered off"}); err != nil {
		t.Fatal(err)
	}
	if e, killed := g.LastEnd(); killed || e == nil || e.Cause != "powered off" {
		t.Errorf("LastEnd = %v, %v; want powered off", e, killed)
	}
}

func TestEnsure(t *testing.T) {
	g := lockedGuest(t, Home{Dir: t.TempDir()})
	g.Data[0].Path = g.StateDisk() // some file
	if err := g.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(g.StateDisk()); err != nil || info.Size() != 1<<20 {
		t.Errorf("the state disk is %v, %v; want it grown to 1 MiB", info, err)
	}
	if err := g.Resize(t.Context(), 2<<20); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(g.StateDisk()); err != nil || info.Size() != 2<<20 || g.State != 2<<20 || g.Growing != 0 {
		t.Errorf("after Resize the state disk is %v, %v, said to have %d; want 2 MiB", info, err, g.State)
	}
	if err := g.Resize(t.Context(), 1<<20); err == nil || g.State != 2<<20 {
		t.Errorf("Resize to less = %v; want it refused", err)
	}
	g.State = 100
	if err := g.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(g.StateDisk()); err != nil || info.Size() != 2<<20 {
		t.Errorf("the state disk is %v, %v; want it never made smaller", info, err)
	}
	for _, path := range []string{g.StateDisk(), g.Identity()} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	err := g.Ensure(t.Context())
	for _, want := range []string{"state disk", "identity disk", "data disk www"} {
		if err == nil || !strings.Contains(err.Error(), "its "+want) {
			t.Errorf("Ensure without disks = %v; want it to name the %s", err, want)
		}
	}
	if _, err := os.Stat(g.StateDisk()); err == nil {
		t.Error("Ensure put a blank disk in the place of one that is gone")
	}
}

// TestAdoptFile: a state disk that is a file is not passed over for a blank volume.
func TestAdoptFile(t *testing.T) {
	h := Home{Dir: t.TempDir(), LVM: "/bin/false"}
	makeGuest(t, h, "fw")
	g, err := h.Lock("fw", "a test")
	if err == nil {
		err = g.Remove(t.Context(), false)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := description("fw")
	d.Volumes = "vg0"
	if _, err := h.Create(t.Context(), d, true); !errors.Is(err, ErrLeft) ||
		!strings.Contains(err.Error(), "without --volumes") {
		t.Errorf("Create in LVM over a state disk that is a file = %v; want %v and what to do", err, ErrLeft)
	}
}

func TestCheck(t *testing.T) {
	good := description("fw")
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*Description){
		"format 9":            func(d *Description) { d.Format = 9 },
		"no name of a guest":  func(d *Description) { d.Name = "../x" },
		"store":               func(d *Description) { d.Store = "masters" },
		"master":              func(d *Description) { d.Master = "abc" },
		"previous master":     func(d *Description) { d.Previous = "abc" },
		"firmware":            func(d *Description) { d.Firmware = "coreboot" },
		"accelerator":         func(d *Description) { d.Accel = "" },
		"vdi":                 func(d *Description) { d.DiskFormat = "vdi" },
		"memory of -1":        func(d *Description) { d.Memory = -1 },
		"link wan":            func(d *Description) { d.Nets["wan"] = "tap:" },
		"data disk \"A\"":     func(d *Description) { d.Data[0].Name = "A" },
		"called www":          func(d *Description) { d.Data = append(d.Data, d.Data[0]) },
		"cannot be kept":      func(d *Description) { d.Keep = []string{"etc"} },
		"begins with a slash": func(d *Description) { d.Data[0].Path = "x" },
		"data disk www: form": func(d *Description) { d.Data[0].Format = "" },
	} {
		d := description("fw")
		spoil(&d)
		if err := d.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Check = %v; want %q", err, want)
		}
	}
}

// TestCheckImage: a guest of another system says all that no profile says for it, and nothing that is not for it.
func TestCheckImage(t *testing.T) {
	image := func() Description {
		d := description("web")
		d.Image = &Image{Links: []string{"wan", "lan0"}, Health: guest.Health{After: time.Minute}}
		d.Memory = 1 << 30
		return d
	}
	good := image()
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	if g := (&Guest{Description: good, Dir: "/guests/web"}); g.StateDisk() != "/guests/web/root.qcow2" ||
		g.Settings().Overlay != g.StateDisk() || g.Settings().State != "" {
		t.Errorf("it writes to %s, %+v; want its overlay and no state disk", g.StateDisk(), g.Settings())
	}
	for want, spoil := range map[string]func(*Description){
		"nothing says when":     func(d *Description) { d.Image.Health = guest.Health{} },
		`link "Wan"`:            func(d *Description) { d.Image.Links[0] = "Wan" },
		`link "lan0"`:           func(d *Description) { d.Image.Links[0] = "lan0"; d.Nets = nil },
		"no link wan":           func(d *Description) { d.Image.Links = d.Image.Links[1:] },
		"want bios or uefi":     func(d *Description) { d.Firmware = hypervisor.Direct },
		"how much memory":       func(d *Description) { d.Memory = 0 },
		"how large its overlay": func(d *Description) { d.State = 0 },
		"nothing is carried":    func(d *Description) { d.Keep = []string{"log/rempart"} },
		"volume group vg0":      func(d *Description) { d.Volumes = "vg0" },
	} {
		d := image()
		spoil(&d)
		if err := d.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Check = %v; want %q", err, want)
		}
	}
}

func TestDefault(t *testing.T) {
	t.Setenv(Variable, "/srv/guests/")
	if h, err := Default(); err != nil || h.Dir != "/srv/guests" {
		t.Errorf("Default = %+v, %v; want /srv/guests", h, err)
	}
	t.Setenv(Variable, "guests")
	if _, err := Default(); err == nil {
		t.Error("a relative home was taken")
	}
}

// TestNamesAreNoPaths: no name leads out of the home.
func TestNamesAreNoPaths(t *testing.T) {
	h := Home{Dir: t.TempDir()}
	for _, name := range []string{"", ".", "..", "../x", "a/b", "A", strings.Repeat("a", 64)} {
		_, open := h.Open(name)
		_, lock := h.Lock(name, "")
		_, left := h.Left(name)
		_, create := h.Create(t.Context(), description(name), true)
		if slices.Contains([]error{open, lock, left, create}, nil) {
			t.Errorf("%q was taken for the name of a guest", name)
		}
	}
}

func FuzzDescription(f *testing.F) {
	b, err := json.Marshal(description("fw"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":1}`))
	f.Add([]byte(`{"format":1}{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseDescription(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseDescription(again); err != nil {
			t.Errorf("parseDescription(%s) refuses what it gave: %v", again, err)
		}
	})
}
