package scrub

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"rempart/firstboot/contract"
)

func TestRead(t *testing.T) {
	for _, size := range []int64{0, 1, chunk - 1, chunk, chunk + 1, 3*chunk + 4096} {
		file := filepath.Join(t.TempDir(), "device")
		if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := Read(context.Background(), f, 0); n != size || err != nil {
			t.Errorf("Read of %d bytes = %d, %v", size, n, err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := Read(ctx, f, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("Read when it is to end = %v; want context.Canceled", err)
		}
		f.Close()
		if _, err := Read(context.Background(), f, 0); err == nil {
			t.Error("Read of a closed file = nil; want an error")
		}
	}
}

func TestDevice(t *testing.T) {
	for text, want := range map[string]string{
		`{"root_device":"dm-0"}`:   "dev/dm-0",
		`{"root_device":""}`:       "",
		`{"root_device":"../vda"}`: "",
		`junk`:                     "",
	} {
		root := t.TempDir()
		file := filepath.Join(root, contract.BootPath)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := device(root)
		if (err == nil) != (want != "") || err == nil && got != filepath.Join(root, want) {
			t.Errorf("device after %s = %q, %v; want %q", text, got, err, want)
		}
	}
}
