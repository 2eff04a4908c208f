package reprovision

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/builder/files"
	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/quarantine"
	"rempart/builder/guest/storage"
	"rempart/builder/hypervisor"
	"rempart/builder/master"
	"rempart/builder/master/store"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
)

// world is a guest that runs on the master "well" with a state, and a store with the masters "better", "sick" and
// "wrong" too, the last one with packets that its policy does not want. All of it is in a folder, so that another
// process finds it.
type world struct {
	dir     string
	home    home.Home
	store   *store.Store
	masters map[string]string // digests by name
}

// What the guest of a world has before anything is done to it.
const (
	oldState = "old state"
	hostKey  = "the host key"
)

// volumesVariable has the guest of the world in LVM, as GROUP or GROUP/POOL: that is where there is device-mapper, in
// the machine of test/lvm.
const volumesVariable = "REMPART_TEST_VOLUMES"

// stateSize is that of the state disks in bytes: an extent of the volume group in test/lvm.
const stateSize = 1 << 20

func newWorld(dir string) (*world, error) {
	w, err := openWorld(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"well", "better", "sick", "wrong"} {
		m, err := publish(w.store, filepath.Join(dir, "build-"+name), name)
		if err != nil {
			return nil, err
		}
		w.masters[name] = m.Digest
	}
	d := home.Description{Name: "fw", Store: w.store.Dir(), Master: w.masters["well"], State: stateSize,
		Firmware: hypervisor.BIOS, Accel: hypervisor.TCG, Volumes: os.Getenv(volumesVariable)}
	d.Root = d.Volumes != ""
	ctx := context.Background()
	if d.Volumes != "" { // of the world before
		if err := (&home.Guest{Description: d}).Disks().RemoveAll(ctx); err != nil {
			return nil, err
		}
	}
	g, err := w.home.Create(ctx, d, false)
	if err != nil {
		return nil, err
	}
	defer g.Unlock()
	id := &identity.Identity{Hostname: "fw"}
	id.SetSecret(identity.ConsumerSSH, identity.SSHHostKey, []byte(hostKey))
	id.SetSecret(identity.ConsumerSSH, identity.SSHAuthorizedKeys, []byte("given"))
	err = errors.Join(g.Disks().Make(ctx, storage.Disk{Kind: storage.State}, stateSize, func(path string) error {
		return os.WriteFile(path, []byte(oldState), 0o600)
	}), guest.WriteIdentity(g.Identity(), id), w.derive(g), g.Save(), w.runner().Start(ctx))
	return w, err
}

// derive makes the system disk of a guest that has one of its own.
func (w *world) derive(g *home.Guest) error {
	if !g.Root {
		return nil
	}
	m, err := w.store.Find(g.Master)
	if err != nil {
		return err
	}
	from, err := guest.Volume(m.Dir, m.Digest, m.Manifest)
	return errors.Join(err, g.Disks().Derive(context.Background(), from, storage.Disk{Kind: storage.System}))
}

// openWorld finds the world that newWorld made.
func openWorld(dir string) (*world, error) {
	s, err := store.Open(filepath.Join(dir, "masters"))
	if err != nil {
		return nil, err
	}
	w := &world{dir, home.Home{Dir: filepath.Join(dir, "guests")}, s, map[string]string{}}
	all, err := s.List()
	for _, m := range all {
		w.masters[m.Manifest.Master.Name] = m.Digest
	}
	return w, err
}

// publish makes a master of a few bytes and publishes it.
func publish(s *store.Store, dir, name string) (*store.Master, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	const size = 512
	disk := append([]byte(name), make([]byte, size-len(name))...)
	digest := sha256.Sum256(disk)
	sum := hex.EncodeToString(digest[:])
	m := &master.Manifest{Format: master.Format, Master: contract.Master{Name: name, Arch: "amd64"},
		Disk: master.Disk{Size: size, SHA256: sum, Regions: []master.Region{{Name: "all", Length: size}}, Block: size,
			Blocks: digest[:]},
		Outputs: []master.Output{{Name: master.RawFile, Size: size, SHA256: sum}}}
	b, err := m.Encode()
	if err == nil {
		err = errors.Join(os.WriteFile(filepath.Join(dir, master.RawFile), disk, 0o600),
			os.WriteFile(filepath.Join(dir, master.ManifestFile), b, 0o600))
	}
	if err != nil {
		return nil, err
	}
	kept, err := s.Publish(context.Background(), dir)
	return kept, errors.Join(err, os.RemoveAll(dir))
}

// machine runs the world's guest: a file says from which master. A guest writes to its state when it starts, as real
// ones do, and makes itself a host key that is missing.
type machine struct{ w *world }

func (w *world) runner() machine { return machine{w} }

func (m machine) file() string { return filepath.Join(m.w.dir, "runs") }

func (m machine) Runs() (bool, error) {
	_, err := os.Stat(m.file())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (m machine) Start(context.Context) error {
	g, err := m.w.home.Open("fw")
	if err != nil {
		return err
	}
	if runs, err := m.Runs(); err != nil || runs {
		return errors.Join(errors.New("it runs already"), err)
	}
	if _, err := guest.ReadIdentity(g.Identity()); err != nil {
		return err
	}
	f, err := os.OpenFile(g.StateDisk(), os.O_WRONLY, 0) // which must be there
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(g.Master[:8]), 512)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return files.Write(m.file(), []byte(g.Master), 0o600) // whole: one that could not start does not run
}

func (m machine) Stop(context.Context) error {
	if err := os.Remove(m.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (m machine) Healthy(context.Context) error {
	on, err := os.ReadFile(m.file())
	if err == nil && string(on) == m.w.masters["sick"] {
		err = errors.New("the policy cannot be loaded")
	}
	return err
}

// options are those of a transaction in the world.
func (w *world) options() Options {
	return Options{Runner: w.runner(), Store: w.store,
		Examine: func(_ context.Context, path string) (Finding, error) {
			disk, err := os.Open(path)
			if err != nil {
				return Finding{}, err
			}
			defer disk.Close()
			b := make([]byte, 64)
			n, _ := disk.Read(b)
			f := Finding{Report: []byte(`{}`), Evidence: func(_ context.Context, file string) (string, error) {
				return "signed by nobody", os.WriteFile(file, []byte("all of it"), 0o600)
			}}
			if strings.Contains(string(b[:n]), "implant") {
				f.Suspects = []string{"an implant"}
			}
			return f, nil
		},
		Fill: func(_ context.Context, old, path string, size int64) ([]string, error) {
			b, err := os.ReadFile(old)
			if err == nil {
				text, _, _ := bytes.Cut(b, []byte{0}) // the rest of a device is zeros
				err = os.WriteFile(path, append([]byte("kept of "), text...), 0o600)
			}
			return []string{"cron"}, err
		},
		Prove: func(_ context.Context, to, work string, _ time.Duration) (Proof, error) {
			p := Proof{Verdict: "2 of 2 flows", Report: []byte(`{}`)}
			if to == w.masters["wrong"] {
				p.Verdict, p.Wrong = "1 of 2 flows", []string{"inside -> internet"}
			}
			return p, os.WriteFile(filepath.Join(work, "identity.raw"), []byte("the host key"), 0o600)
		}}
}

// plan is one for the guest.
func (w *world) plan(kind, to string, mode Mode) Plan {
	return Plan{Kind: kind, To: w.masters[to], State: mode, Size: stateSize, Start: true, Patience: time.Minute,
		At: time.Unix(1e9, 0).UTC()}
}

// proven is a plan whose master is tried first.
func (p Plan) proven() Plan {
	p.Prove = true
	return p
}

// run carries out a plan.
func (w *world) run(p Plan, trace func(string)) error {
	g, err := w.home.Lock("fw", "a test")
	if err != nil {
		return err
	}
	defer g.Unlock()
	o := w.options()
	o.Trace = trace
	t, err := Begin(context.Background(), g, p, o)
	if err != nil {
		return err
	}
	return t.Run(context.Background())
}

// finish goes on with what is under way, forward or back.
func (w *world) finish(back bool) error {
	g, err := w.home.Lock("fw", "a test")
	if err != nil {
		return err
	}
	defer g.Unlock()
	t, err := Load(g, w.options())
	if err != nil {
		return err
	}
	if back && !t.Over() {
		if err := t.Return(errors.New("asked for")); err != nil {
			return err
		}
	}
	return t.Run(context.Background())
}

// fate is how the guest is, for a test to compare: on which master, with which state, and whether it runs.
func (w *world) fate(t testing.TB) string {
	t.Helper()
	g, err := w.home.Open("fw")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(g.StateDisk())
	if err != nil {
		t.Fatalf("the guest has no state disk: %v", err)
	}
	state, _, _ := strings.Cut(string(b), "\x00")
	name := func(digest string) string {
		for n, d := range w.masters {
			if d == digest {
				return n
			}
		}
		return digest
	}
	how := "stopped"
	if on, err := os.ReadFile(w.runner().file()); err == nil {
		how = "runs on " + name(string(on))
	}
	if _, _, err := Pending(g); !errors.Is(err, ErrNone) {
		how += fmt.Sprintf(", pending: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(g.Dir, storage.Work)); err == nil {
		how += fmt.Sprintf(", with %d new disks left", len(left))
	}
	if g.Root {
		b, err := os.ReadFile(g.Settings().System)
		if system, _, _ := strings.Cut(string(b), "\x00"); err != nil || system != name(g.Master) {
			how += fmt.Sprintf(", on the system disk of %q, %v", system, err)
		}
	}
	all, err := g.Disks().Left(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		if strings.HasSuffix(path, ".new") || strings.HasSuffix(path, ".part") {
			how += ", with " + path + " left"
		}
	}
	return fmt.Sprintf("%s with %q, %s", name(g.Master), state, how)
}

// kept tells what is in quarantine: outcomes and states.
func (w *world) kept(t testing.TB) string {
	t.Helper()
	g, err := w.home.Open("fw")
	if err != nil {
		t.Fatal(err)
	}
	all, err := quarantine.List(g.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, e := range all {
		line := e.ID + " " + e.Outcome
		for i, name := range []string{quarantine.State, quarantine.FailedState} {
			if b, err := os.ReadFile(g.Disks().Path(e.Disk(i > 0))); err == nil {
				text, _, _ := strings.Cut(string(b), "\x00")
				line += fmt.Sprintf(", %s %q", name, text)
			}
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; ")
}

// hostKeys are those of all identity disks of the guest: its own, and those in quarantine.
func (w *world) hostKeys(t testing.TB) (keys []string) {
	t.Helper()
	g, err := w.home.Open("fw")
	if err != nil {
		t.Fatal(err)
	}
	aside, err := filepath.Glob(filepath.Join(g.Dir, quarantine.Folder, "*", "*"+storage.IdentityFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(aside, g.Identity()) {
		id, err := guest.ReadIdentity(path)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, string(id.Secret(identity.ConsumerSSH, identity.SSHHostKey)))
	}
	return keys
}
