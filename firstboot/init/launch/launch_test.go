package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// probeVariable makes the test binary say what it may do.
const probeVariable = "LAUNCH_TEST_PROBE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(probeVariable); dir != "" {
		if sysctl, ok := strings.CutPrefix(dir, "later:"); ok {
			fmt.Println("up")
			_, _ = os.Stdin.Read(make([]byte, 1))
			_, err := os.ReadFile(sysctl)
			fmt.Println("read", err)
			os.Exit(0)
		}
		sayWhatIsAllowed(dir)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func sayWhatIsAllowed(dir string) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fmt.Println("status", err)
	}
	for line := range strings.Lines(string(b)) {
		for _, key := range []string{"Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:",
			"NoNewPrivs:"} {
			if strings.HasPrefix(line, key) {
				fmt.Println(strings.Join(strings.Fields(line), " "))
			}
		}
	}
	try := func(what string, err error) {
		switch {
		case err == nil:
			fmt.Println(what, "allowed")
		case errors.Is(err, fs.ErrPermission):
			fmt.Println(what, "denied")
		default:
			fmt.Println(what, err)
		}
	}
	_, err = os.ReadFile(filepath.Join(dir, "read", "file"))
	try("read of the readable", err)
	try("write to the readable", os.WriteFile(filepath.Join(dir, "read", "new"), nil, 0o600))
	try("write to the writable", os.WriteFile(filepath.Join(dir, "write", "new"), nil, 0o600))
	_, err = os.ReadFile(filepath.Join(dir, "other", "file"))
	try("read of another", err)
	try("device node", unix.Mknod(filepath.Join(dir, "write", "node"), unix.S_IFCHR|0o600, 0x103))
	try("setuid", unix.Setuid(0))
}

// ask starts the test binary confined and returns what it says.
func ask(t *testing.T, dir string, uid uint32, caps ...uintptr) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	reaper := NewReaper()
	ctx, stop := context.WithCancel(context.Background())
	reaping := make(chan struct{})
	go func() { reaper.Run(ctx); close(reaping) }()
	defer func() { stop(); <-reaping }()
	exe := copyOfSelf(t, dir)
	p, err := reaper.Start(Command{Path: exe, Args: []string{"probe"}, Env: []string{probeVariable + "=" + dir},
		Files: []*os.File{null, w, w}, Confine: true, UID: uid, Caps: caps,
		Read: []string{"/proc", filepath.Join(dir, "read"), "/nonexistent"}, Write: []string{filepath.Join(dir, "write")},
		Exec: []string{"/lib", "/lib64", "/usr/lib"}}) // a race build is linked dynamically
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if p.Landlock == 0 {
		t.Log("NOT TESTED with Landlock: this kernel has none")
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if status := <-p.Done; status != 0 {
		t.Fatalf("probe ended with %v: %s", status, out)
	}
	return string(out)
}

// copyOfSelf lays the test binary where every user can reach it.
func copyOfSelf(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "probe")
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return exe
}

// place makes the directories of a probe where every user can reach them.
func place(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "launch")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, d := range []string{"", "read", "write", "other"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, d, "file"), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: changing user and capabilities needs root")
	}
}

func TestConfined(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		uid  uint32
		caps []uintptr
		mask string
	}{
		{977, nil, "0000000000000000"},
		{977, []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}, "0000000000003000"},
		{0, []uintptr{unix.CAP_NET_ADMIN}, "0000000000001000"}, // root without a root's rights
	} {
		out := ask(t, place(t), c.uid, c.caps...)
		want := []string{fmt.Sprintf("Uid: %d %[1]d %[1]d %[1]d", c.uid), fmt.Sprintf("Gid: %d %[1]d %[1]d %[1]d", c.uid),
			"Groups:\n",
			"CapInh: " + c.mask, "CapPrm: " + c.mask, "CapEff: " + c.mask, "CapBnd: " + c.mask, "CapAmb: " + c.mask,
			"NoNewPrivs: 1", "read of the readable allowed", "write to the writable allowed", "device node "}
		if c.uid != 0 {
			want = append(want, "setuid operation not permitted")
		}
		if LandlockABI() > 0 {
			want = append(want, "write to the readable denied", "read of another denied")
		}
		for _, w := range want {
			if !strings.Contains(out, w) && !strings.Contains(strings.ReplaceAll(out, "setuid denied",
				"setuid operation not permitted"), w) {
				t.Errorf("uid %d, caps %v: lacks %q:\n%s", c.uid, c.caps, w, out)
			}
		}
		if strings.Contains(out, "device node allowed") {
			t.Errorf("uid %d, caps %v: may make device nodes", c.uid, c.caps)
		}
	}
}

// TestStarterKeepsItsRights: what was laid on the thread of a fork must not stay with the program that forks.
func TestStarterKeepsItsRights(t *testing.T) {
	needRoot(t)
	before, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		ask(t, place(t), 977)
	}
	time.Sleep(100 * time.Millisecond) // a thread that was used ends after its goroutine has
	threads, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads: %v, %v", threads, err)
	}
	want := line(string(before), "CapBnd:")
	for _, file := range threads {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		if got := line(string(b), "CapBnd:"); got != want {
			t.Errorf("%s: %s; want %s", file, got, want)
		}
		if got := line(string(b), "NoNewPrivs:"); got != line(string(before), "NoNewPrivs:") {
			t.Errorf("%s: %s", file, got)
		}
	}
}

func line(text, key string) string {
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, key) {
			return strings.TrimSpace(l)
		}
	}
	return ""
}

func TestStartOfNothing(t *testing.T) {
	if _, err := NewReaper().Start(Command{Path: "/nonexistent", Args: []string{"x"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Start of a program that is not there = %v; want ErrNotExist", err)
	}
}

// TestSysctlOutlivesItsName: when memory is short the kernel forgets names of procfs, and with a name the inode that a
// rule of Landlock holds. A child must keep what it was given.
func TestSysctlOutlivesItsName(t *testing.T) {
	needRoot(t)
	const forget = "/proc/sys/vm/drop_caches" // 2: dentries and inodes nobody uses
	if LandlockABI() == 0 {
		t.Skip("SKIPPED, NOT PASSED: this kernel has no Landlock")
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer inW.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer outR.Close()
	reaper := NewReaper()
	ctx, stop := context.WithCancel(context.Background())
	reaping := make(chan struct{})
	go func() { reaper.Run(ctx); close(reaping) }()
	defer func() { stop(); <-reaping }()
	p, err := reaper.Start(Command{Path: copyOfSelf(t, place(t)), Args: []string{"probe"},
		Env:   []string{probeVariable + "=later:/proc/sys/net/ipv4/ip_forward"},
		Files: []*os.File{inR, outW, outW}, Confine: true, UID: 977,
		Read: []string{"/proc/sys/net"}, Exec: []string{"/lib", "/lib64", "/usr/lib"}})
	inR.Close()
	outW.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := outR.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(forget, []byte("2"), 0); err != nil {
		t.Skipf("SKIPPED, NOT PASSED: caches cannot be dropped here: %v", err)
	}
	inW.Close()
	out, err := io.ReadAll(outR)
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done
	if !strings.Contains(string(out), "read <nil>") {
		t.Errorf("after its name was forgotten: %s", out)
	}
}
