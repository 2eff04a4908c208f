package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestConvert turns a disk into every format and each of these into every other, and has qemu-img compare.
func TestConvert(t *testing.T) {
	dir := t.TempDir()
	content := make([]byte, 5<<20)
	rand.NewChaCha8([32]byte{8}).Read(content[300_000:900_000])
	copy(content[5<<20-4:], "end.")
	raw := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	kinds := []struct{ name, options, judged string }{
		{"a.qcow2", "", "qcow2"}, {"z.qcow2", "--zstd", "qcow2"}, {"a.vmdk", "", "vmdk"},
		{"s.vmdk", "--to vmdk-sparse", "vmdk"}, {"m.ova", "--nic lan --memory 64M", ""}, {"a.img", "", "raw"},
	}
	convert := func(from, to, options string) {
		t.Helper()
		code, _, errs := rempart(append([]string{"convert", from, to}, strings.Fields(options)...)...)
		if code != exitDone {
			t.Fatalf("convert %s %s %s = %d: %s", from, to, options, code, errs)
		}
	}
	for _, k := range kinds {
		first := filepath.Join(dir, k.name)
		convert(raw, first, k.options)
		if k.judged != "" {
			out, err := exec.Command("qemu-img", "compare", "-f", k.judged, "-F", "raw", first, raw).CombinedOutput()
			if err != nil {
				t.Errorf("qemu-img compare %s (apt-get install qemu-utils): %v\n%s", k.name, err, out)
			}
		}
		for _, second := range kinds {
			next, back := filepath.Join(dir, "next-"+second.name), filepath.Join(dir, "back.raw")
			convert(first, next, second.options)
			convert(next, back, "")
			got, err := os.ReadFile(back)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("raw to %s to %s to raw: %d other bytes, %v", k.name, second.name, len(got), err)
			}
			for _, file := range []string{next, back} {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for words, want := range map[string]struct {
		code int
		text string
	}{
		"convert " + raw:                                             {exitUsage, "want an image and the name"},
		"convert " + raw + " " + raw:                                 {exitFailed, "is there already"},
		"convert " + raw + " " + dir + "/x.ova --name ../x":          {exitUsage, "want 1 to 80 letters"},
		"convert " + raw + " " + dir + "/x.ova --memory much":        {exitUsage, "--memory"},
		"convert " + raw + " " + dir + "/x --to vhd":                 {exitUsage, "want raw, qcow2, vmdk-stream"},
		"convert --format vhd " + raw + " " + dir + "/x":             {exitUsage, "want raw, qcow2"},
		"convert --format vmdk " + raw + " " + dir + "/x":            {exitFailed, "not a VMDK image"},
		"convert " + dir + "/none.qcow2 " + dir + "/x":               {exitFailed, "no such file"},
		"convert --snapshot s " + dir + "/a.qcow2 " + dir + "/x.raw": {exitFailed, "no such snapshot"},
	} {
		code, _, errs := rempart(strings.Fields(words)...)
		if code != want.code || !strings.Contains(errs, want.text) {
			t.Errorf("%s = %d, %s; want %d and %q", words, code, errs, want.code, want.text)
		}
	}
	for _, mode := range []os.FileMode{0o600, 0o640, 0o444} {
		to := filepath.Join(dir, "mode.qcow2")
		if err := os.Chmod(raw, mode); err != nil {
			t.Fatal(err)
		}
		convert(raw, to, "")
		if info, err := os.Stat(to); err != nil || info.Mode() != mode|0o600 {
			t.Errorf("an image of mode %v is converted into %v, %v; want nobody else to read it", mode, info.Mode(), err)
		}
		if err := os.Remove(to); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}
