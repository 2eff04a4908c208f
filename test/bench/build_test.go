package bench

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/builder/initramfs"
	"rempart/builder/master"
	"rempart/test/rig"
)

// tries is how often a build is repeated for its median.
const tries = 5

// phase is one line of `rempart build --timings`.
type phase struct {
	name    string
	seconds float64
}

var phaseLine = regexp.MustCompile(`(?m)^(\w+) +([0-9.]+) s$`)

// phases reads what --timings prints.
func phases(out string) []phase {
	var all []phase
	for _, m := range phaseLine.FindAllStringSubmatch(out, -1) {
		s, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			continue // "1.2.3" is no time of ours
		}
		all = append(all, phase{m[1], s})
	}
	return all
}

func seconds(all []phase, name string) float64 {
	for _, p := range all {
		if p.name == name {
			return p.seconds
		}
	}
	return 0
}

// lastLine is the last line that says something.
func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// build runs `rempart build --timings` and returns its phases and how long the whole program took.
func build(b *testing.B, dir string, env ...string) ([]phase, time.Duration, error) {
	b.Helper()
	cmd := exec.Command(rig.Rempart(b), "build", profile, "--renew-lock", "--timings", "--output", dir)
	cmd.Env = append(os.Environ(), env...)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(start)
	if err != nil {
		return nil, 0, fmt.Errorf("rempart build: %w: %s", err, lastLine(out))
	}
	all := phases(string(out))
	if seconds(all, "total") == 0 {
		b.Fatalf("rempart build --timings printed no total:\n%s", out)
	}
	return all, took, nil
}

// BenchmarkBuildCold builds with an empty cache: every package comes from the mirror.
func BenchmarkBuildCold(b *testing.B) {
	cache := b.TempDir()
	all, took, err := build(b, filepath.Join(b.TempDir(), "master"), "XDG_CACHE_HOME="+cache)
	if err != nil {
		// The mirror is somebody else's machine: without it there is no figure, but everything else can be measured.
		figure("cold build", "NOT MEASURED: %v", err)
		b.Skipf("SKIPPED, NOT MEASURED: a build with an empty cache needs a mirror: %v", err)
	}
	var bytes int64
	err = filepath.WalkDir(filepath.Join(cache, "rempart", "debs"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	report(b, took.Seconds(), "s/build")
	figure("cold build (empty cache)", "%.1f s, %.1f of them for %s of packages from the mirror",
		took.Seconds(), seconds(all, "packages"), mib(bytes))
}

// report sets a metric and takes away the time of the loop, which here is no figure.
func report(b *testing.B, value float64, unit string) {
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(value, unit)
}

// BenchmarkBuildWarm builds with everything in the cache, and writes the same image with qemu-img for comparison.
func BenchmarkBuildWarm(b *testing.B) {
	rig.Build(b, profile) // fills the cache
	dir := filepath.Join(b.TempDir(), "master")
	var took []float64
	runs := map[string][]float64{}
	var order []string
	for range tries {
		all, t, err := build(b, dir)
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, t.Seconds())
		for _, p := range all {
			if !slices.Contains(order, p.name) {
				order = append(order, p.name)
			}
			runs[p.name] = append(runs[p.name], p.seconds)
		}
	}
	var parts []string
	for _, name := range order {
		report(b, median(runs[name]), "s/"+name)
		if name != "total" {
			parts = append(parts, fmt.Sprintf("%s %.2f", name, median(runs[name])))
		}
	}
	report(b, median(took), "s/build")
	figure("warm build", "%.2f s (%s)", median(took), strings.Join(parts, ", "))

	var peer []float64
	theirs := filepath.Join(b.TempDir(), "peer.qcow2")
	for range tries {
		start := time.Now()
		out, err := exec.Command("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2",
			filepath.Join(dir, master.RawFile), theirs).CombinedOutput()
		if err != nil {
			b.Fatalf("qemu-img (package qemu-utils): %v: %s", err, out)
		}
		peer = append(peer, time.Since(start).Seconds())
	}
	ourSize, theirSize := stat(b, filepath.Join(dir, master.Qcow2File)).Size(), stat(b, theirs).Size()
	speed, size := median(peer)/median(runs["qcow2"]), float64(ourSize)/float64(theirSize)
	report(b, speed, "times-as-fast-as-qemu-img")
	report(b, size, "of-qemu-img's-size")
	figure("qcow2 against `qemu-img convert -c`",
		"%.2f s against %.2f s (%.1f times as fast), %s against %s (%.2f times the size)",
		median(runs["qcow2"]), median(peer), speed, mib(ourSize), mib(theirSize), size)
}

func stat(b *testing.B, path string) os.FileInfo {
	b.Helper()
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	return info
}

// statBlock is the unit of st_blocks, whatever the file system's own (stat(2)).
const statBlock = 512

// BenchmarkSizes measures no time: it is here so that `make bench` prints sizes with everything else.
func BenchmarkSizes(b *testing.B) {
	m := rig.Build(b, profile)
	for _, name := range []string{master.Qcow2File, master.KernelFile, master.InitrdFile} {
		size := stat(b, filepath.Join(m.Dir, name)).Size()
		report(b, float64(size), "B/"+name)
		figure(name, "%s", mib(size))
	}
	raw := stat(b, filepath.Join(m.Dir, master.RawFile))
	used := raw.Sys().(*syscall.Stat_t).Blocks * statBlock
	report(b, float64(used), "B/raw-used")
	figure(master.RawFile, "%s, %s of them used", mib(raw.Size()), mib(used))

	packed, err := os.ReadFile(filepath.Join(m.Dir, master.InitrdFile))
	if err != nil {
		b.Fatal(err)
	}
	tree, err := initramfs.Read(packed)
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range tree.Entries() {
		if e.Path == "init" {
			report(b, float64(e.Size), "B/boot-stage")
			figure("boot stage (/init of the initrd)", "%s", mib(e.Size))
		}
	}
	origins := map[string]int64{}
	var total int64
	for _, f := range m.Manifest.Root {
		if f.SHA256 != "" {
			origins[f.Origin] += f.Size
			total += f.Size
		}
		if f.Path == "/sbin/init" || f.Path == "/usr/sbin/init" {
			report(b, float64(f.Size), "B/firstboot")
			figure("firstboot", "%s", mib(f.Size))
		}
	}
	var parts []string
	names := slices.SortedFunc(maps.Keys(origins), func(x, y string) int { return int(origins[y] - origins[x]) })
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%s %s", name, mib(origins[name])))
	}
	report(b, float64(total), "B/root")
	figure("files of the root, by origin", "%s: %s", mib(total), strings.Join(parts, ", "))
}
