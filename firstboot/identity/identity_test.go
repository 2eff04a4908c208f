package identity

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/firstboot/block"
	"rempart/firstboot/contract/identity"
)

// guestRoot is a root as PID 1 leaves it to the child.
func guestRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, consumer := range identity.Consumers() {
		if err := os.MkdirAll(filepath.Join(root, identity.ConsumerDir(consumer)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestLayOut(t *testing.T) {
	root := guestRoot(t)
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	id := &identity.Identity{Hostname: "fw-2"}
	id.SetSecret(identity.ConsumerWireGuard, "wg0", []byte("key of wg0"))
	id.SetSecret(identity.ConsumerWireGuard, "wg0/office", []byte("key of office"))
	id.SetSecret("stranger", "x", []byte("hunter2"))
	// A run that was ended halfway left this.
	half := filepath.Join(root, identity.Dir, ".facts.json.new")
	if err := os.WriteFile(half, []byte("{"), 0o400); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second run finds what the first one left
		if err := LayOut(root, id, log); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]string{
			identity.SecretPath(identity.ConsumerWireGuard, "wg0"):        "key of wg0",
			identity.SecretPath(identity.ConsumerWireGuard, "wg0/office"): "key of office",
			identity.FactsPath: `{"hostname":"fw-2"}`,
		} {
			got, err := os.ReadFile(filepath.Join(root, path))
			if err != nil || string(got) != want {
				t.Errorf("%s = %q, %v; want %q", path, got, err, want)
			}
		}
	}
	info, err := os.Stat(filepath.Join(root, identity.SecretPath(identity.ConsumerWireGuard, "wg0")))
	if err != nil || info.Mode() != 0o440 {
		t.Errorf("mode of a secret: %v, %v; want 0440", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(root, identity.ConsumerDir("stranger"))); err == nil {
		t.Error("the secret of an unknown consumer was laid out")
	}
	if !strings.Contains(said.String(), "stranger") || strings.Contains(said.String(), "hunter2") {
		t.Errorf("log = %q; want the stranger named, and no secret", said.String())
	}
	// What the identity no longer has is gone after the next run.
	id.Secrets = nil
	if err := LayOut(root, id, log); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(root, identity.ConsumerDir(identity.ConsumerWireGuard)))
	if err != nil || len(left) != 0 {
		t.Errorf("after a run without secrets there are %v, %v; want none", left, err)
	}
}

func TestRead(t *testing.T) {
	node := filepath.Join(t.TempDir(), "vdc")
	id := &identity.Identity{Hostname: "fw-2"}
	b, err := id.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		disk []byte
		ok   bool
	}{
		"whole": {b, true}, "on a larger disk": {append(bytes.Clone(b), make([]byte, 2*identity.MaxSize)...), true},
		"empty": {nil, false}, "cut": {b[:60], false}, "zeros": {make([]byte, 4096), false},
		"one bit": {append([]byte{b[0] ^ 1}, b[1:]...), false},
	} {
		if err := os.WriteFile(node, c.disk, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := read(node)
		if (err == nil) != c.ok || c.ok && got.Hostname != "fw-2" {
			t.Errorf("read of a disk that is %s = %+v, %v; want it taken: %v", name, got, err, c.ok)
		}
	}
}

// TestNeeded: the disk is found by its name; two that carry it are not nothing.
func TestNeeded(t *testing.T) {
	root := t.TempDir()
	disk := func(name, serial string) {
		t.Helper()
		for file, text := range map[string]string{"size": "8", "serial": serial} {
			path := filepath.Join(root, "sys/block", name, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	needed := func(want bool) {
		t.Helper()
		if got := Spec().Needed(root); got != want {
			disks, _ := block.Disks(filepath.Join(root, "sys"))
			t.Errorf("Needed() = %v with %s; want %v", got, block.Describe(disks), want)
		}
	}
	disk("vda", "system")
	needed(false)
	disk("vdc", identity.Serial)
	needed(true)
	disk("vdd", identity.Serial)
	needed(true)
}
