package seed

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// guest makes a root with a hardware generator, so that no test feeds this machine's kernel.
func guest(t *testing.T) (root, seed string) {
	t.Helper()
	root = t.TempDir()
	for dir, file := range map[string]string{"sys/class/misc/hw_random": "rng_current", directory: ""} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if file != "" {
			if err := os.WriteFile(filepath.Join(root, dir, file), []byte("virtio_rng.0\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root, filepath.Join(root, directory, file)
}

func TestSaveAndLoad(t *testing.T) {
	root, file := guest(t)
	if _, err := Load(root); err != nil { // the first boot: there is none
		t.Fatal(err)
	}
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if seed, err := decode(first); err != nil || len(seed) != seedSize {
		t.Errorf("decode of what was saved = %x, %v", seed, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the seed's mode is %v, %v; want 0600", info.Mode(), err)
	}
	if _, err := Load(root); err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(file)
	if err != nil || bytes.Equal(first, second) {
		t.Errorf("after use the same seed is there again (%v)", err)
	}
	if err := Save(root); err != nil {
		t.Fatal(err)
	}
	if third, err := os.ReadFile(file); err != nil || bytes.Equal(third, second) {
		t.Errorf("Save left the seed of the start (%v)", err)
	}
}

func TestBrokenSeedIsNeverCredited(t *testing.T) {
	whole := encode(make([]byte, seedSize))
	for name, b := range map[string][]byte{
		"empty": {}, "short": whole[:len(whole)-1], "long": append(bytes.Clone(whole), 0),
		"flipped":     append(append(bytes.Clone(whole[:20]), whole[20]^1), whole[21:]...),
		"wrong magic": append([]byte("XMPSEED1"), whole[8:]...),
	} {
		root, file := guest(t)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(root); err == nil {
			t.Errorf("%s: Load = nil; want it reported", name)
		}
		if got, err := os.ReadFile(file); err != nil || bytes.Equal(got, b) {
			t.Errorf("%s: the broken seed is still there (%v)", name, err)
		}
	}
}

func TestLinkIsNotFollowed(t *testing.T) {
	root, file := guest(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, encode(make([]byte, seedSize)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, file); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(root); err == nil {
		t.Error("Load of a link = nil; want it refused")
	}
	if b, err := os.ReadFile(secret); err != nil || !bytes.Equal(b, encode(make([]byte, seedSize))) {
		t.Error("what the link led to was changed")
	}
}

func FuzzSeed(f *testing.F) {
	f.Add(encode(make([]byte, seedSize)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if seed, err := decode(b); err == nil && !bytes.Equal(encode(seed), b) {
			t.Errorf("decode(%x) took what encode would not write", b)
		}
	})
}
