package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rempart/builder/initramfs"
	"rempart/builder/master"
	"rempart/builder/rootfs/tree"
	"rempart/firstboot/contract"
	"rempart/firstboot/power"
)

// InsideVerdict is what a test that runs inside a guest says last on the console, and then "good" or "bad".
const InsideVerdict = "INSIDE: "

// Inside is what the init of InsideInitrd does, as PID 1: it mounts what a program needs, has prepare load of the
// modules in a folder what the test needs, runs the tests, with more arguments of the test binary if there are any,
// says how they went, and powers off. It does not return.
func Inside(m *testing.M, prepare func(modules string) error, args ...string) {
	word := "bad"
	modules, err := mountInside()
	if err == nil {
		err = prepare(modules)
	}
	if err != nil {
		fmt.Println(err)
	} else {
		os.Args = append([]string{os.Args[0], "-test.v"}, args...)
		if m.Run() == 0 {
			word = "good"
		}
	}
	fmt.Println("\n" + InsideVerdict + word)
	unix.Sync()
	_ = power.Sent(os.Stdout)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// mountInside mounts what every program needs, and returns the folder of the kernel's modules.
func mountInside() (modules string, err error) {
	for _, m := range []struct{ what, where string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"},
		{"tmpfs", "/run"}, {"tmpfs", "/tmp"}} {
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return "", err
		}
		if err := unix.Mount(m.what, m.where, m.what, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return "", fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return filepath.Join(contract.ModulesDir, unix.ByteSliceToString(u.Release[:])), nil
}

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

// Kernel is the file of the master's kernel.
func (m *Master) Kernel() string { return filepath.Join(m.Dir, master.KernelFile) }

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
