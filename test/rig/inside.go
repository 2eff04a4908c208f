package rig

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/initramfs"
	"rempart/builder/master"
	"rempart/builder/rootfs/tree"
)

// InsideVerdict is what a test that runs inside a guest says last on the console, and then "good" or "bad".
const InsideVerdict = "INSIDE: "

// insideInit is where the test lies in the initramfs.
const insideInit = "inside"

// InsideInitrd makes the initramfs of a master in which the test of a package is the init, and returns its file: the
// kernel wants rdinit=/inside besides. The boot stage's modules are in it, and files.
func (m *Master) InsideInitrd(tb testing.TB, pkg string, files *tree.Tree) string {
	tb.Helper()
	dir := tb.TempDir()
	program := filepath.Join(dir, "inside.test")
	build := exec.CommandContext(context.Background(), "go", "test", "-c", "-o", program, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("building this test as an init: %v\n%s", err, out)
	}
	static, err := os.ReadFile(program)
	if err != nil {
		tb.Fatal(err)
	}
	if err := files.Add(tree.Bytes(insideInit, 0o755, static, "test")); err != nil {
		tb.Fatal(err)
	}
	initrd, err := os.ReadFile(m.Initrd())
	if err != nil {
		tb.Fatal(err)
	}
	// The kernel unpacks one archive after the other; each begins at a multiple of four (buffer-format.rst).
	var both bytes.Buffer
	both.Write(initrd)
	both.Write(make([]byte, -both.Len()&3))
	if err := initramfs.Write(&both, files); err != nil {
		tb.Fatal(err)
	}
	joined := filepath.Join(dir, "joined")
	if err := os.WriteFile(joined, both.Bytes(), 0o600); err != nil {
		tb.Fatal(err)
	}
	return joined
}

// Initrd is the file of the master's initramfs.
func (m *Master) Initrd() string { return filepath.Join(m.Dir, master.InitrdFile) }

// InsideSed is for Options.Sed: it gives the guest another initramfs than its master's.
func (m *Master) InsideSed(initrd string) string {
	return fmt.Sprintf("s,^%s$,%s,", m.Initrd(), initrd)
}

// InsideEnd waits for the end of a guest in which a test ran, and returns what that said.
func (g *Guest) InsideEnd() (text string, good bool) {
	g.tb.Helper()
	g.AwaitConsole(InsideVerdict)
	g.AwaitEnd()
	text = g.ConsoleText()
	if at := strings.Index(text, "=== RUN"); at >= 0 {
		text = text[at:]
	}
	return text, strings.Contains(text, InsideVerdict+"good")
}
