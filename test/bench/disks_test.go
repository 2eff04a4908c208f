package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/builder/master"
	"rempart/test/rig"
)

// took is the median time of a command over some tries. Its first word is a program; OUT in a word is a new file.
func took(b *testing.B, words ...string) time.Duration {
	b.Helper()
	var times []time.Duration
	for range tries {
		out := filepath.Join(b.TempDir(), "out")
		all := make([]string, len(words))
		for i, w := range words {
			all[i] = strings.ReplaceAll(w, "OUT", out)
		}
		start := time.Now()
		text, err := exec.Command(all[0], all[1:]...).CombinedOutput()
		times = append(times, time.Since(start))
		if err != nil {
			b.Fatalf("%q: %v\n%s", all, err, text)
		}
	}
	return median(times)
}

// BenchmarkVerify reads a system disk as `rempart verify` does, beside programs that read one too.
func BenchmarkVerify(b *testing.B) {
	m := rig.Build(b, profile)
	system := filepath.Join(b.TempDir(), "system.img")
	own := filepath.Join(m.Dir, master.RawFile)
	if out, err := exec.Command("cp", "--sparse=never", own, system).CombinedOutput(); err != nil {
		b.Fatalf("cp: %v\n%s", err, out)
	}
	info, err := os.Stat(system)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		for _, c := range []struct {
			name  string
			words []string
		}{
			{"rempart verify", []string{rig.Rempart(b), "verify", "--master", m.Dir, system}},
			{"rempart verify, qcow2", []string{rig.Rempart(b), "verify", "--master", m.Dir,
				filepath.Join(m.Dir, master.Qcow2File)}},
			{"sha256sum", []string{"sha256sum", system}},
			{"qemu-img compare", []string{"qemu-img", "compare", "-f", "raw", "-F", "raw", system, own}},
		} {
			t := took(b, c.words...)
			figure("read a system disk: "+c.name, "%.0f MB/s", float64(info.Size())/1e6/t.Seconds())
		}
	}
}

// BenchmarkConvert turns a system disk into other formats, beside qemu-img.
func BenchmarkConvert(b *testing.B) {
	m := rig.Build(b, profile)
	raw := filepath.Join(m.Dir, master.RawFile)
	for b.Loop() {
		for _, c := range []struct {
			name, ours string
			theirs     []string
		}{
			{"raw", "raw", []string{"-O", "raw"}},
			{"qcow2, compressed", "qcow2", []string{"-c", "-O", "qcow2"}},
			{"VMDK, stream", "vmdk-stream", []string{"-O", "vmdk", "-o", "subformat=streamOptimized"}},
			{"VMDK, sparse", "vmdk-sparse", []string{"-O", "vmdk", "-o", "subformat=monolithicSparse"}},
			{"OVA", "ova", nil},
		} {
			t := took(b, rig.Rempart(b), "convert", raw, "OUT", "--to", c.ours)
			if c.theirs == nil {
				figure("convert to "+c.name, "%.2f s", t.Seconds())
				continue
			}
			other := took(b, append(append([]string{"qemu-img", "convert", "-f", "raw"}, c.theirs...), raw, "OUT")...)
			figure("convert to "+c.name, "%.2f s (qemu-img: %.2f s)", t.Seconds(), other.Seconds())
		}
	}
}
