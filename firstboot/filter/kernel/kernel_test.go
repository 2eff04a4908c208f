package kernel_test

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/firstboot/filter/kernel"
	"rempart/profiles"
)

// namespace makes a network namespace that lives as long as the test and returns a file descriptor of it.
func namespace(t *testing.T) int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root to make a network namespace")
	}
	type result struct {
		fd  int
		err error
	}
	made := make(chan result)
	go func() {
		// The thread is left in the namespace and ends with the goroutine, because it stays locked.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: err}
			return
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		made <- result{fd, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatalf("make a network namespace: %v", r.err)
	}
	t.Cleanup(func() { _ = unix.Close(r.fd) })
	return r.fd
}

// nft runs nft(8) in a namespace.
func nft(t *testing.T, ns int, stdin string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Fatal("nft is missing: apt-get install nftables")
	}
	file := os.NewFile(uintptr(dup(t, ns)), "netns")
	defer file.Close()
	cmd := exec.Command("nsenter", append([]string{"--net=/proc/self/fd/3", "nft"}, args...)...)
	cmd.ExtraFiles = []*os.File{file}
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String()
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func compile(t *testing.T, p *profiles.Profile) filter.Ruleset {
	t.Helper()
	rs, err := filter.Compile(p)
	if err != nil {
		t.Fatalf("Compile(%s) = %v; want no error", p.Name, err)
	}
	return rs
}

func apply(t *testing.T, ns int, rs filter.Ruleset) {
	t.Helper()
	if err := kernel.Apply(context.Background(), rs, kernel.Options{NetNS: ns}); err != nil {
		t.Fatalf("Apply = %v; want no error", err)
	}
}

// everyRuleset is the full and the closed rules of every profile.
func everyRuleset(t *testing.T) map[string]filter.Ruleset {
	t.Helper()
	all := map[string]filter.Ruleset{}
	for _, p := range filtertest.Profiles() {
		all[p.Name] = compile(t, p)
		closed, err := filter.Closed(p)
		if err != nil {
			t.Fatal(err)
		}
		all[p.Name+" closed"] = closed
	}
	return all
}

// handles differ with the order in which objects were made; nothing else may.
var handle = regexp.MustCompile(` # handle \d+`)

// What we send by netlink and what nft makes of our text must be the same to the kernel: as nft lists it, and as the
// bytecode that the kernel runs.
func TestNetlinkEqualsText(t *testing.T) {
	for name, rs := range everyRuleset(t) {
		t.Run(name, func(t *testing.T) {
			ours, theirs := namespace(t), namespace(t)
			apply(t, ours, rs)
			nft(t, theirs, rs.Text(), "-f", "-")
			list := []string{"-s", "-a", "list", "table", "inet", filter.TableName}
			got, want := nft(t, ours, "", list...), nft(t, theirs, "", list...)
			if strip(got) != strip(want) {
				t.Errorf("by netlink (-) and by nft (+):\n%s", difference(got, want))
			}
			// The listing is a script again, and loading it changes nothing.
			again := "delete table inet rempart\n" + nft(t, ours, "", "-s", "list", "table", "inet", filter.TableName)
			nft(t, ours, again, "-f", "-")
			if after := nft(t, ours, "", list...); strip(after) != strip(got) {
				t.Errorf("before (-) and after (+) loading what was listed:\n%s", difference(got, after))
			}
		})
	}
}

func strip(s string) string { return handle.ReplaceAllString(s, "") }

// difference is the lines that only one of two listings has.
func difference(a, b string) string {
	var out strings.Builder
	left, right := strings.Split(strip(a), "\n"), strings.Split(strip(b), "\n")
	for _, line := range left {
		if !slices.Contains(right, line) {
			out.WriteString("-" + line + "\n")
		}
	}
	for _, line := range right {
		if !slices.Contains(left, line) {
			out.WriteString("+" + line + "\n")
		}
	}
	if out.Len() == 0 {
		return "the same lines in another order"
	}
	return out.String()
}
