package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"rempart/builder/guest/home"
	"rempart/builder/guest/storage"
	"rempart/builder/hypervisor"
)

// stopped makes a guest with disks.
func stopped(t testing.TB, state int64) *home.Guest {
	t.Helper()
	h := home.Home{Dir: t.TempDir()}
	g, err := h.Create(t.Context(), home.Description{Name: "fw", Store: "/masters",
		Master: strings.Repeat("ab", 32), State: state,
		Firmware: hypervisor.BIOS, Accel: hypervisor.TCG}, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Unlock)
	if err := os.WriteFile(g.Identity(), []byte("identity"), 0o600); err != nil {
		t.Fatal(err)
	}
	if state > 0 {
		f, err := os.Create(g.StateDisk())
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, err = f.WriteAt(bytes.Repeat([]byte("state"), 1000), state/2)
		if err := errors.Join(err, f.Truncate(state)); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Save(); err != nil {
		t.Fatal(err)
	}
	return g
}

// restore reads a backup into a folder and returns its disks.
func restore(b []byte, dir string) (d home.Description, identity, state []byte, err error) {
	r, err := Open(bytes.NewReader(b))
	if err != nil {
		return d, nil, nil, err
	}
	defer r.Close()
	if err := r.Disks(context.Background(), storage.Files{Dir: dir}); err != nil {
		return d, nil, nil, err
	}
	identity, err = os.ReadFile(filepath.Join(dir, storage.IdentityFile))
	if r.Guest().State > 0 && err == nil {
		state, err = os.ReadFile(filepath.Join(dir, storage.StateFile))
	}
	return r.Guest(), identity, state, err
}

func untold(done, total int64) {}

func TestBackup(t *testing.T) {
	for _, size := range []int64{0, 1 << 20, 20<<20 + 4096} {
		g := stopped(t, size)
		var b bytes.Buffer
		var last, all int64
		tell := func(done, total int64) {
			if done <= last || done > total {
				t.Errorf("it tells %d of %d bytes after %d; want more, and no more than all", done, total, last)
			}
			last, all = done, total
		}
		if err := Write(t.Context(), &b, g, g.StateDisk(), tell); err != nil {
			t.Fatal(err)
		}
		if want := 2 * (size + int64(len("identity"))); last != want || all != want {
			t.Errorf("at the end it has told %d of %d bytes; want %d", last, all, want)
		}
		dir := t.TempDir()
		d, identity, state, err := restore(b.Bytes(), dir)
		if err != nil {
			t.Fatal(err)
		}
		want := []byte(nil)
		if size > 0 {
			if want, err = os.ReadFile(g.StateDisk()); err != nil {
				t.Fatal(err)
			}
		}
		if d.Name != "fw" || d.Master != g.Master || string(identity) != "identity" || !bytes.Equal(state, want) {
			t.Errorf("a state of %d bytes: %+v, %q, %d bytes; want what was written", size, d, identity, len(state))
		}
		if size > 0 && b.Len() > 8<<10 {
			t.Errorf("the backup of an almost empty disk of %d bytes has %d; want little", size, b.Len())
		}
		if info, err := os.Stat(filepath.Join(dir, storage.StateFile)); err == nil {
			if s := info.Sys().(*syscall.Stat_t); s.Blocks*512 > 4<<20 || info.Mode().Perm() != 0o600 {
				t.Errorf("the restored disk takes %d bytes, mode %v; want its holes, and 0600", s.Blocks*512, info.Mode())
			}
		}
	}
}

// oneMaster writes what stands for a guest's master.
func oneMaster(w io.Writer) error {
	return archived(w, func(archive *tar.Writer) error {
		return put(archive, "manifest.json", 4, strings.NewReader("none"))
	})
}

// TestWhole: a backup with the master is read with and without that; what is between or in place of its three archives
// is told.
func TestWhole(t *testing.T) {
	g := stopped(t, 1<<20)
	var b bytes.Buffer
	if err := WriteWhole(t.Context(), &b, g, g.StateDisk(), oneMaster, untold); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(g.StateDisk())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, state, err := restore(b.Bytes(), t.TempDir()); err != nil || !bytes.Equal(state, want) {
		t.Errorf("without its master it has %d bytes of state, %v; want those written", len(state), err)
	}
	r, err := Open(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if !r.HasMaster() {
		t.Error("HasMaster = false; want true")
	}
	read := func(archive *tar.Reader) error {
		h, err := archive.Next()
		if err != nil || h.Name != "manifest.json" {
			t.Errorf("the master begins with %v, %v; want its manifest", h, err)
		}
		return skip(archive)
	}
	if err := r.Master(read); err != nil {
		t.Error(err)
	}
	if err := r.Master(read); err == nil {
		t.Error("Master again = nil; want an error")
	}
	dir := t.TempDir()
	if err := r.Disks(t.Context(), storage.Files{Dir: dir}); err != nil {
		t.Error(err)
	}
	if state, err := os.ReadFile(filepath.Join(dir, storage.StateFile)); err != nil || !bytes.Equal(state, want) {
		t.Errorf("after its master it has %d bytes of state, %v; want those written", len(state), err)
	}
	for at := 0; at < b.Len(); at += 3 {
		if _, _, state, err := restore(b.Bytes()[:at], t.TempDir()); err == nil {
			t.Errorf("cut at %d it is taken for a guest of %d bytes of state", at, len(state))
		}
	}
	for name, master := range map[string]func(io.Writer) error{
		"nothing": func(io.Writer) error { return nil },
		"text":    func(w io.Writer) error { _, err := io.WriteString(w, "no archive"); return err },
		"two":     func(w io.Writer) error { return errors.Join(oneMaster(w), oneMaster(w)) },
	} {
		var b bytes.Buffer
		if err := WriteWhole(t.Context(), &b, g, g.StateDisk(), master, untold); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := restore(b.Bytes(), t.TempDir()); !errors.Is(err, ErrDamaged) {
			t.Errorf("with %s for a master: %v; want %v", name, err, ErrDamaged)
		}
	}
}

// TestHoles: a master that is not wanted is passed over by what there is of it, not by what it says it unpacks to.
func TestHoles(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err := w.WriteHeader(&tar.Header{Name: "manifest.json", Format: tar.FormatGNU})
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	// The header of a sparse file (tar(5), "GNU tar archives"): its one piece is empty, and behind the largest of holes.
	h := archive.Bytes()[:512]
	const size = "\x80\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00" // 1 << 62
	h[156] = tar.TypeGNUSparse
	copy(h[386:], size+"00000000000\x00")
	copy(h[483:], size)
	sum := 0
	copy(h[148:156], "        ")
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00", sum))
	holed := tar.NewReader(bytes.NewReader(archive.Bytes()))
	if got, err := holed.Next(); err != nil || got.Size != 1<<62 {
		t.Fatalf("the archive begins with %+v, %v; want a file of holes", got, err)
	}
	g := stopped(t, 1<<20)
	var b bytes.Buffer
	if err := WriteWhole(t.Context(), &b, g, g.StateDisk(), func(w io.Writer) error {
		packed, err := zstd.NewWriter(w)
		if err != nil {
			return err
		}
		_, err = packed.Write(archive.Bytes())
		return errors.Join(err, packed.Close())
	}, untold); err != nil {
		t.Fatal(err)
	}
	r, err := Open(&b)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.Disks(ctx, storage.Files{Dir: t.TempDir()}); err != nil {
		t.Errorf("Disks = %v; want the holes passed over", err)
	}
}

// TestDamaged changes and cuts a backup everywhere: it is refused, or it is the same guest.
func TestDamaged(t *testing.T) {
	g := stopped(t, 1<<20)
	var b bytes.Buffer
	if err := Write(t.Context(), &b, g, g.StateDisk(), untold); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(g.StateDisk())
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for at := 0; at < b.Len(); at += 3 {
		flipped := bytes.Clone(b.Bytes())
		flipped[at] ^= 0x10
		for _, damaged := range [][]byte{flipped, b.Bytes()[:at]} {
			d, identity, state, err := restore(damaged, t.TempDir())
			if err != nil {
				refused++
			} else if d.Master != g.Master || string(identity) != "identity" || !bytes.Equal(state, want) {
				t.Errorf("damaged at %d it is taken for another guest", at)
			}
		}
	}
	if refused < b.Len()/3 {
		t.Errorf("of %d damaged ones only %d were refused", 2*b.Len()/3, refused)
	}
	for name, content := range map[string][]byte{"empty": nil, "text": []byte("no archive")} {
		if _, err := Open(bytes.NewReader(content)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: Open = %v; want %v", name, err, ErrDamaged)
		}
	}
}

func FuzzOpen(f *testing.F) {
	var b bytes.Buffer
	g := stopped(f, 4096)
	if err := Write(context.Background(), &b, g, g.StateDisk(), untold); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	var whole bytes.Buffer
	if err := WriteWhole(context.Background(), &whole, g, g.StateDisk(), oneMaster, untold); err != nil {
		f.Fatal(err)
	}
	f.Add(whole.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Open(bytes.NewReader(b))
		if err != nil {
			return
		}
		defer r.Close()
		if err := r.about.Guest.Check(); err != nil {
			t.Errorf("a guest was taken with %v", err)
		}
	})
}
