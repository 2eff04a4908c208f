// Package build tests what `rempart build` leaves on disk: that it needs nothing but itself, that its bytes never
// differ, that it never leaves half a master, and that foreign tools find nothing wrong with any format in it.
package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/builder/master"
)

// rempart is the binary under test, as `make` built it: with the guest programs inside.
func rempart(t testing.TB) string {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	bin := filepath.Join(filepath.Dir(file), "..", "..", "bin", "rempart")
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("these tests run bin/rempart: run `make` first: %v", err)
	}
	return bin
}

// profile is the built-in profile all these tests build.
const profile = "home-firewall"

// shared is a master that several tests look at; it is built once.
var shared struct {
	dir string
	err error
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "rempart-test-build-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		shared.dir = filepath.Join(dir, "master")
		_, file, _, _ := runtime.Caller(0)
		bin := filepath.Join(filepath.Dir(file), "..", "..", "bin", "rempart")
		out, err := exec.Command(bin, "build", profile, "--renew-lock", "--output", shared.dir).CombinedOutput()
		if err != nil {
			shared.err = fmt.Errorf("rempart build: %w\n%s", err, out)
		}
		if bytes.Contains(out, []byte("renewed")) {
			fmt.Fprintf(os.Stderr, "NOTE: the mirror has forgotten locked versions:\n%s", out)
		}
		return m.Run()
	}())
}

func sharedMaster(t testing.TB) string {
	t.Helper()
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.dir
}

func manifestOf(t testing.TB, dir string) *master.Manifest {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, master.ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := master.ReadManifest(f)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func digest(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// digests are those of all files in a folder, by name.
func digests(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		all[e.Name()] = digest(t, filepath.Join(dir, e.Name()))
	}
	return all
}

var outputs = []string{
	master.RawFile, master.Qcow2File, master.KernelFile, master.InitrdFile, master.CmdlineFile,
	master.ManifestFile, master.SBOMFile,
}

// TestReproducible builds the same master in a folder, time zone, umask and locale as different as can be.
func TestReproducible(t *testing.T) {
	first := digests(t, sharedMaster(t))
	for _, name := range outputs {
		if first[name] == "" {
			t.Errorf("the build left no %s", name)
		}
	}
	deep := filepath.Join(t.TempDir(), "ein Ordner", "mit Ümläuten")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", `umask 0077; exec "$0" build "$1" --renew-lock --output anders`,
		rempart(t), profile)
	cmd.Dir = deep
	cmd.Env = append(os.Environ(), "TZ=Pacific/Kiritimati", "LC_ALL=tr_TR.UTF-8", "LANG=ja_JP.UTF-8", "GOMAXPROCS=1",
		"SOURCE_DATE_EPOCH=1234567890", "HOSTNAME=elsewhere", "USER=nobody")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rempart build: %v\n%s", err, out)
	}
	second := digests(t, filepath.Join(deep, "anders"))
	for _, name := range outputs {
		if first[name] != second[name] {
			t.Errorf("%s differs between two builds: %s and %s", name, first[name], second[name])
		}
	}
}

// TestUnprivileged builds as an ordinary user with an empty PATH, from a cache that is already filled.
func TestUnprivileged(t *testing.T) {
	want := digests(t, sharedMaster(t))
	if os.Geteuid() != 0 {
		t.Log("not root: the build runs as this user, which is an ordinary one already")
	}
	dir, err := os.MkdirTemp("", "rempart-unprivileged-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin := filepath.Join(dir, "rempart")
	copyFile(t, rempart(t), bin, 0o755)
	cache := filepath.Join(dir, "cache")
	copyTree(t, userCache(t), cache)
	cmd := exec.Command(bin, "build", profile, "--renew-lock", "--output", filepath.Join(dir, "out"))
	cmd.Dir = dir
	cmd.Env = []string{"PATH=", "HOME=" + dir, "XDG_CACHE_HOME=" + cache}
	if os.Geteuid() == 0 {
		const nobody = 65534
		if out, err := exec.Command("chown", "-R", fmt.Sprint(nobody), dir).CombinedOutput(); err != nil {
			t.Fatalf("chown: %v\n%s", err, out)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rempart build as an ordinary user with an empty PATH: %v\n%s", err, out)
	}
	for name, got := range digests(t, filepath.Join(dir, "out")) {
		if got != want[name] {
			t.Errorf("%s differs when an ordinary user builds it", name)
		}
	}
}

// userCache is where this user's rempart keeps packages.
func userCache(t testing.TB) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func copyFile(t testing.TB, from, to string, mode os.FileMode) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, mode); err != nil {
		t.Fatal(err)
	}
}

// copyTree copies the packages of one XDG cache into another.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(filepath.Join(to, "rempart"), os.DirFS(filepath.Join(from, "rempart"))); err != nil {
		t.Fatal(err)
	}
}

// TestKilledAnywhere kills builds over an existing master at many moments: the old master must be untouched or the new
// one whole, and the next build must clear away what was left.
func TestKilledAnywhere(t *testing.T) {
	parent := t.TempDir()
	out := filepath.Join(parent, "master")
	if err := os.CopyFS(out, os.DirFS(sharedMaster(t))); err != nil {
		t.Fatal(err)
	}
	want := digests(t, out)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	start := time.Now()
	build := exec.CommandContext(ctx, rempart(t), "build", profile, "--renew-lock", "-o", out)
	if b, err := build.CombinedOutput(); err != nil {
		t.Fatalf("rempart build: %v\n%s", err, b)
	}
	whole := time.Since(start)
	const moments = 24
	killed := 0
	for i := range moments {
		cmd := exec.Command(rempart(t), "build", profile, "--renew-lock", "-o", out)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(whole*time.Duration(i+1)/(moments+1), func() { cmd.Process.Kill() })
		if cmd.Wait() != nil {
			killed++
		}
		timer.Stop()
		if got := digests(t, out); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("killed at moment %d of %d: the output folder holds %v; want %v", i+1, moments, got, want)
		}
	}
	if killed < moments/2 {
		t.Errorf("only %d of %d builds were killed; the test saw too little", killed, moments)
	}
	if b, err := exec.Command(rempart(t), "build", profile, "--renew-lock", "-o", out).CombinedOutput(); err != nil {
		t.Fatalf("rempart build: %v\n%s", err, b)
	}
	left, err := os.ReadDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 {
		var names []string
		for _, e := range left {
			names = append(names, e.Name())
		}
		t.Errorf("killed builds left %s", strings.Join(names, ", "))
	}
}

// TestRefusals shows what a build says and leaves when it cannot work.
func TestRefusals(t *testing.T) {
	readOnly := filepath.Join(t.TempDir(), "read-only")
	if err := os.Mkdir(readOnly, 0o555); err != nil {
		t.Fatal(err)
	}
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "thesis.tex"), []byte("years of work"), 0o600); err != nil {
		t.Fatal(err)
	}
	junk := filepath.Join(t.TempDir(), "junk.yaml")
	if err := os.WriteFile(junk, []byte("rempart: 1\nname: fw\nlinkz: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"unknown key", []string{"build", junk, "-o", filepath.Join(t.TempDir(), "x")}, 2, "junk.yaml:3:1:"},
		{"no output", []string{"build", profile}, 2, "--output"},
		{"foreign files", []string{"build", profile, "--renew-lock", "-o", foreign}, 1, "thesis.tex"},
		{"no such profile", []string{"build", "nothing.yaml", "-o", filepath.Join(t.TempDir(), "x")}, 1, "nothing.yaml"},
		{"wrong format", []string{"build", profile, "--format", "vhd", "-o", filepath.Join(t.TempDir(), "x")}, 2, "vhd"},
		{"unknown architecture", []string{"build", profile, "--arch", "sparc", "-o", filepath.Join(t.TempDir(), "x")},
			2, "rempart builds amd64 and arm64"},
		{"a release that moves", []string{"lock", "--suite", "stable"}, 2, "code name"},
		{"an unknown architecture's lock", []string{"lock", "--arch", "sparc"}, 2, "amd64 or arm64"},
		{"a lock of another architecture", []string{"build", profile, "--lock", "../../builder/debian/bookworm-arm64.lock",
			"-o", filepath.Join(t.TempDir(), "x")}, 2, "give --arch arm64"},
		{"too small", []string{"build", profile, "--renew-lock", "--size", "8M", "-o", filepath.Join(t.TempDir(), "x")},
			1, "too small"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(rempart(t), tt.args...)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != tt.code {
				t.Errorf("rempart %v = %v; want exit status %d\n%s", tt.args, err, tt.code, out)
			}
			if !bytes.Contains(out, []byte(tt.want)) {
				t.Errorf("rempart %v says %q; want it to name %q", tt.args, out, tt.want)
			}
		})
	}
	if b, err := os.ReadFile(filepath.Join(foreign, "thesis.tex")); err != nil || string(b) != "years of work" {
		t.Errorf("the foreign file is %q, %v after a refused build", b, err)
	}
	t.Run("read-only folder", func(t *testing.T) {
		cmd := exec.Command(rempart(t), "build", profile, "--renew-lock", "-o", filepath.Join(readOnly, "x"))
		if os.Geteuid() == 0 {
			// Root writes anywhere, so the folder must be of a filesystem that cannot be written.
			mountTmpfs(t, readOnly, "size=1m,ro")
		}
		out, err := cmd.CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte(readOnly)) {
			t.Errorf("building into a read-only folder = %v, %q; want an error that names %s", err, out, readOnly)
		}
	})
	t.Run("full disk", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("SKIPPED, NOT PASSED: a full disk is made with a small tmpfs, which needs root")
		}
		small := t.TempDir()
		mountTmpfs(t, small, "size=20m")
		build := exec.Command(rempart(t), "build", profile, "--renew-lock", "-o", filepath.Join(small, "x"))
		out, err := build.CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte("no space left")) {
			t.Errorf("building onto a full disk = %v, %q; want an error that says so", err, out)
		}
		left, err := os.ReadDir(small)
		if err != nil || len(left) != 0 {
			t.Errorf("a build onto a full disk left %v, %v", left, err)
		}
	})
}

func mountTmpfs(t *testing.T, dir, options string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
}
