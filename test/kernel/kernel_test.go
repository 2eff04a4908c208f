// Package kernel runs the link child and the packet filter in the kernel that guests have, as the only program there:
// this machine's may lack bonds, WireGuard, VLANs in bridges and flow tables. The test binary is its own init: outside
// it builds and boots, inside, as PID 1, it changes behind the child's back what the child has set up, and looks with
// other libraries than the child's own whether that is changed back; and sends packets between namespaces.
package kernel

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"rempart/builder/hypervisor"
	"rempart/builder/rootfs/tree"
	"rempart/test/rig"
)

func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		rig.Inside(m, prepare)
	}
	code := m.Run()
	rig.Clean()
	os.Exit(code)
}

// memory of the guest in bytes: the test binary is unpacked into it.
const memory = 512 << 20

// TestInGuestKernel boots the kernel of a master with this program as its init, behind the boot stage's modules.
func TestInGuestKernel(t *testing.T) {
	if os.Getpid() == 1 {
		t.Run("links", converge)
		t.Run("flows", flows)
		t.Run("uplinks", uplinks)
		return
	}
	m := rig.Build(t, "home-firewall")
	var files tree.Tree
	addForeign(t, &files, "nft")
	g := m.Boot(t, rig.Options{Firmware: hypervisor.Direct, Memory: memory, Append: "rdinit=/inside",
		Patience: 10 * time.Minute, Sed: m.InsideSed(m.InsideInitrd(t, ".", &files))})
	text, good := g.InsideEnd()
	const ran = "--- PASS: TestInGuestKernel"
	if good && strings.Contains(text, ran) {
		t.Logf("inside:\n%s", text)
	} else {
		t.Errorf("inside:\n%s", text)
	}
}

// addForeign adds a program of this machine with the libraries it needs.
func addForeign(t *testing.T, files *tree.Tree, name string) {
	t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing; install the package nftables: %v", name, err)
	}
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		t.Fatalf("ldd %s: %v", program, err)
	}
	paths := []string{program}
	for line := range strings.Lines(string(out)) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				paths = append(paths, word)
			}
		}
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		path = strings.TrimPrefix(path, "/")
		if path == strings.TrimPrefix(program, "/") {
			path = foreignDir + name
		}
		if err := files.Add(tree.Bytes(path, 0o755, content, "this machine's "+name)); err != nil {
			t.Fatal(err)
		}
	}
}

// foreignDir is where programs of this machine are inside, below the root.
const foreignDir = "foreign/"
