package guest

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/hypervisor"
	"rempart/builder/image/foreign"
)

// another is the master of another system, in a folder as a store has it.
func another(t *testing.T) *Master {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("ab", 32))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := disk.NewSparse(1 << 20)
	for at, text := range map[int64]string{0: "code", 510: "\x55\xaa", 4096: "as it came"} {
		if err := s.Put(at, strings.NewReader(text), int64(len(text))); err != nil {
			t.Fatal(err)
		}
	}
	if err := foreign.Write(t.Context(), dir, "web", "amd64", s, nil); err != nil {
		t.Fatal(err)
	}
	m, err := OpenMaster(dir)
	if err != nil || !m.Foreign() {
		t.Fatalf("OpenMaster = %+v, %v; want one of another system", m, err)
	}
	return m
}

// overlay makes a new one of a master.
func overlay(t *testing.T, m *Master, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.qcow2")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MakeOverlay(t.Context(), path, m, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestOverlay: a new overlay reads as the master and zeros behind it, and the machine writes to it and not to the
// master.
func TestOverlay(t *testing.T) {
	m := another(t)
	path := overlay(t, m, 3<<20)
	i, err := OpenOverlay(t.Context(), path, m)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	b := make([]byte, 10)
	if _, err := i.ReadAt(b, 4096); err != nil || string(b) != "as it came" || i.Size() != 3<<20 {
		t.Errorf("the overlay reads %q, %v, and has %d bytes; want the master's and 3 MiB", b, err, i.Size())
	}
	m.Plugged([]string{"net0"})
	s := Settings{Name: "web", Firmware: hypervisor.BIOS, Memory: 1 << 28, Accel: hypervisor.TCG, Overlay: path,
		Health: Health{After: 1}}
	machine, err := Describe(t.Context(), m, s, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if machine.System.Path != path || machine.Base == nil || filepath.Dir(machine.Base.Path) != m.Dir ||
		machine.State != nil || machine.Identity != nil || len(machine.NICs) != 1 {
		t.Errorf("Describe = %+v; want the overlay on the master, one NIC and no other disk", machine)
	}
	s.Overlay = ""
	if _, err := Describe(t.Context(), m, s, t.TempDir()); err == nil || !strings.Contains(err.Error(), "rempart create") {
		t.Errorf("Describe without an overlay = %v; want it to say how to have one", err)
	}
	same := overlay(t, m, 0)
	if i, err := OpenOverlay(t.Context(), same, m); err != nil || i.Size() != 1<<20 {
		t.Errorf("an overlay of no size said: %v; want that of the master", err)
	}
}

// TestOpenOverlayRefuses all that would have QEMU read another file than the master: whoever wrote the file.
func TestOpenOverlayRefuses(t *testing.T) {
	m := another(t)
	good, err := os.ReadFile(overlay(t, m, 0))
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"nothing":    func([]byte) []byte { return nil },
		"a raw disk": func(b []byte) []byte { return make([]byte, len(b)) },
		"one that lies on none": func(b []byte) []byte {
			clear(b[8:20])
			return b
		},
		"one that lies on a file of this machine": func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[16:], uint32(copy(b[binary.BigEndian.Uint64(b[8:]):], "/etc/shadow")))
			return b
		},
		"one with a file of data elsewhere": func(b []byte) []byte {
			b[79] |= 1 << 2 // incompatible feature: external data file (docs/interop/qcow2.txt)
			return b
		},
	} {
		path := filepath.Join(t.TempDir(), "root.qcow2")
		if err := os.WriteFile(path, spoil(append([]byte{}, good...)), 0o600); err != nil {
			t.Fatal(err)
		}
		if i, err := OpenOverlay(t.Context(), path, m); !errors.Is(err, ErrOverlay) {
			t.Errorf("OpenOverlay of %s = %v, %v; want %v", name, i, err, ErrOverlay)
		}
	}
	other := another(t)
	other.Dir = filepath.Join(filepath.Dir(other.Dir), strings.Repeat("cd", 32))
	if err := os.Rename(filepath.Join(filepath.Dir(other.Dir), strings.Repeat("ab", 32)), other.Dir); err != nil {
		t.Fatal(err)
	}
	path := overlay(t, m, 0)
	if _, err := OpenOverlay(t.Context(), path, other); !errors.Is(err, ErrOverlay) {
		t.Errorf("OpenOverlay with another master = %v; want %v", err, ErrOverlay)
	}
	if err := MoveOverlay(path, other); err != nil {
		t.Fatal(err)
	}
	if i, err := OpenOverlay(t.Context(), path, other); err != nil {
		t.Errorf("OpenOverlay after MoveOverlay = %v", err)
	} else {
		i.Close()
	}
}
