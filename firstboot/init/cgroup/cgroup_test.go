package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const mib = 1 << 20

// lay makes files of a control group as the kernel has them, below dir.
func lay(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, elements ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestLimits: the kernel keeps its reserve, and two children that take all they may, beside those that do little,
// leave the third nothing less than what it cannot start in.
func TestLimits(t *testing.T) {
	for _, tt := range []struct{ available, together, alone, with8 int64 }{
		{0, 16 * mib, 8 * mib, 8 * mib},
		{40 * mib, 29*mib + mib/2, 8 * mib, 8 * mib}, // a guest of 96 MiB
		{80 * mib, 67 * mib, 43 * mib, 16 * mib},     // of 128 MiB
		{1024 * mib, 952 * mib, 928 * mib, 16 * mib},
	} {
		together := Limit(tt.available)
		tree := &Tree{limit: together}
		if alone, with8 := tree.MemoryOf(0), tree.MemoryOf(8*mib); together != tt.together || alone != tt.alone ||
			with8 != tt.with8 {
			t.Errorf("of %d bytes all children may take %d, one %d, one with a heap of 8 MiB %d; want %d, %d, %d",
				tt.available, together, alone, with8, tt.together, tt.alone, tt.with8)
		}
	}
}

func TestGroups(t *testing.T) {
	root := t.TempDir()
	children := filepath.Join(root, childrenGroup)
	lay(t, root, map[string]string{"cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n"})
	lay(t, children, map[string]string{"cgroup.controllers": "memory pids\n"})
	lay(t, filepath.Join(children, "policy"), map[string]string{"memory.current": "4096\n", "memory.peak": "8192\n",
		"memory.events": "low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 1\n"})
	tree, err := New(root, 64*mib)
	if err != nil {
		t.Fatal(err)
	}
	g, err := tree.Group("policy", 16*mib, 64)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"cgroup.subtree_control":           "+cpu", // the last of three writes: the file of the kernel adds up
		"children/cgroup.subtree_control":  "+pids",
		"children/memory.max":              "67108864",
		"children/policy/memory.max":       "16777216",
		"children/policy/memory.oom.group": "1",
		"children/policy/pids.max":         "64",
	} {
		if got := read(t, root, file); got != want {
			t.Errorf("%s = %q; want %q", file, got, want)
		}
	}
	u, err := g.Usage()
	if want := (Usage{Memory: 4096, Peak: 8192, Kills: 1}); err != nil || u != want {
		t.Errorf("Usage = %+v, %v; want %+v", u, err, want)
	}
	if err := g.Kill(); err != nil || read(t, children, "policy", "cgroup.kill") != "1" {
		t.Errorf("Kill = %v", err)
	}
	if _, err := (&Group{dir: filepath.Join(children, "nobody")}).Usage(); err == nil {
		t.Error("Usage of a group that is not there = nil; want an error")
	}
}

func TestWithoutMemoryController(t *testing.T) {
	root := t.TempDir()
	lay(t, root, map[string]string{"cgroup.controllers": "pids cpu\n"})
	if _, err := New(root, mib); err == nil || !strings.Contains(err.Error(), "counts no memory") {
		t.Errorf("New without the memory controller = %v; want it named", err)
	}
	if _, err := New(filepath.Join(root, "nothing"), mib); err == nil {
		t.Error("New where no control groups are = nil; want an error")
	}
}
