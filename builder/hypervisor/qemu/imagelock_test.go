package qemu

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestWrites has QEMU's own tool open an image, to write to it and to read it.
func TestWrites(t *testing.T) {
	if _, err := exec.LookPath("qemu-io"); err != nil {
		t.Fatal("qemu-io is missing; install it with `apt install qemu-utils`")
	}
	image := filepath.Join(t.TempDir(), "image.raw")
	writes := func(want bool, who string) {
		t.Helper()
		if got, err := Writes(image); err != nil || got != want {
			t.Errorf("Writes(%s) = %v, %v; want %v", who, got, err, want)
		}
	}
	writes(false, "no file")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	writes(false, "a file of nobody's")
	for _, c := range []struct {
		who   string
		flags []string
		want  bool
	}{{"a writer", nil, true}, {"a reader", []string{"-r"}, false}} {
		cmd := exec.Command("qemu-io", append(c.flags, "-f", "raw", image)...)
		keys, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		said, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// It has opened the image once it carries commands out.
		if _, err := keys.Write([]byte("length\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(said).ReadString('M'); err != nil { // of 1 MiB
			t.Error(err)
		}
		writes(c.want, c.who)
		keys.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		writes(false, "after "+c.who)
	}
}
