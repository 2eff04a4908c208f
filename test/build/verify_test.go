package build

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rempart/builder/guest/verify"
	"rempart/builder/master"
)

// verified runs `rempart verify` and wants an exit code; it returns standard output.
func verified(t *testing.T, code int, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(rempart(t), append([]string{"verify"}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, _ := cmd.Output()
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("rempart verify %q = %d; want %d\n%s%s", args, got, code, out, errs.Bytes())
	}
	return out
}

// TestVerifySystem changes a copy of a real master's system disk where somebody broken in would, and a copy of a state
// disk; and reads the evidence with foreign tools.
func TestVerifySystem(t *testing.T) {
	dir := sharedMaster(t)
	m := manifestOf(t, dir)
	raw := filepath.Join(t.TempDir(), "system.img")
	copyFile(t, filepath.Join(dir, master.RawFile), raw, 0o600)
	for _, image := range []string{raw, filepath.Join(dir, master.Qcow2File), filepath.Join(dir, master.RawFile)} {
		if out := verified(t, 0, "--master", dir, image); !bytes.Contains(out, []byte("system: identical to master fw-1")) {
			t.Errorf("rempart verify of %s:\n%s", image, out)
		}
	}
	f, err := os.OpenFile(raw, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := func(path string) int64 {
		for _, file := range slices.Concat(m.Boot, m.Root) {
			if file.Path == path {
				return file.Extents[0].Offset + file.Size/2
			}
		}
		t.Fatalf("the manifest has no file %s", path)
		return 0
	}
	for _, offset := range []int64{100, 500_000, at("/boot/grub/grub.cfg"), at("/boot/initrd"), at("/usr/sbin/mke2fs"),
		m.Disk.Size - 100_000} {
		if _, err := f.WriteAt([]byte("implant"), offset); err != nil {
			t.Fatal(err)
		}
	}
	state := filepath.Join(t.TempDir(), "state.raw")
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("\x7fELF..."), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{{"mke2fs", "-q", "-F", "-t", "ext4", "-L", "RMPSTATE", state, "16M"},
		{"debugfs", "-w", "-R", "write " + program + " /sh", state}, {"debugfs", "-w", "-R", "sif /sh mode 0104755", state}} {
		if out, err := exec.Command("/usr/sbin/"+words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q (apt-get install e2fsprogs): %v\n%s", words, err, out)
		}
	}
	evidence, key := filepath.Join(t.TempDir(), "evidence.tar.zst"), filepath.Join(t.TempDir(), "key")
	judge(t, "minisign", "-G", "-W", "-p", key+".pub", "-s", key)
	var report verify.Report
	out := verified(t, 3, "--json", "--master", dir, raw, "--state", state, "--evidence", evidence, "--key", key)
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got []string
	for _, d := range report.System.Differences {
		got = append(got, strings.TrimSpace(d.Region+" "+d.Path))
	}
	want := []string{"mbr", "gap 1", "partition esp /boot/grub/grub.cfg", "partition esp /boot/initrd",
		"partition root /usr/sbin/mke2fs", "slack"}
	slices.Sort(got)
	slices.Sort(want)
	if !report.System.Exact || !slices.Equal(got, want) {
		t.Errorf("system: found %q; want %q", got, want)
	}
	if s := report.State.Suspects; len(s) != 1 || s[0].Path != "sh" || len(s[0].Why) != 4 {
		t.Errorf("state: suspects %+v; want sh for four reasons", s)
	}
	judge(t, "minisign", "-V", "-p", key+".pub", "-m", evidence)
	unpacked := t.TempDir()
	judge(t, "tar", "--zstd", "-xf", evidence, "-C", unpacked)
	if b, err := os.ReadFile(filepath.Join(unpacked, "state", fmt.Sprint(report.State.Suspects[0].Inode))); err != nil ||
		string(b) != "\x7fELF..." {
		t.Errorf("the evidence's copy of the program: %q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(unpacked, "system", "100-7")); err != nil || string(b) != "implant" {
		t.Errorf("the evidence's copy of the boot code: %q, %v", b, err)
	}
	// With no disk of the master's own, the manifest alone names the same files.
	bare := t.TempDir()
	copyFile(t, filepath.Join(dir, master.ManifestFile), filepath.Join(bare, master.ManifestFile), 0o600)
	text := string(verified(t, 3, "--master", bare, raw))
	for _, name := range []string{" mbr ", " gap 1 ", " /boot/grub/grub.cfg ", " /boot/initrd ", " /usr/sbin/mke2fs ",
		" slack "} {
		if !strings.Contains(text, name) {
			t.Errorf("by the manifest alone:\n%s\nwant %q", text, name)
		}
	}
	const heads = 2 // who signed the manifest, and the system disk's own
	if n := strings.Count(text, "\n"); n != len(want)+heads || !strings.Contains(text, "NOT signed") {
		t.Errorf("by the manifest alone %d lines; want %d, and that nobody signed it:\n%s", n, len(want)+heads, text)
	}
	trusted := []string{"--master", bare, raw, "--trust", key + ".pub"}
	verified(t, 1, trusted...)
	manifest := filepath.Join(bare, master.ManifestFile)
	judge(t, "minisign", "-S", "-s", key, "-m", manifest)
	if text := string(verified(t, 3, trusted...)); !strings.Contains(text, "signed by") {
		t.Errorf("by a manifest that is signed:\n%s\nwant it said", text)
	}
	judge(t, "sed", "-i", "s/fw-1/fw-2/", manifest)
	verified(t, 1, trusted...)
}

// TestVerifyFlips flips bytes of a real master's disk, one of each region at a time: every one is found.
func TestVerifyFlips(t *testing.T) {
	dir := sharedMaster(t)
	m := manifestOf(t, dir)
	b, err := os.ReadFile(filepath.Join(dir, master.RawFile))
	if err != nil {
		t.Fatal(err)
	}
	original := bytes.Clone(b)
	r := rand.New(rand.NewPCG(1, 9))
	for range 20 {
		flips := map[string]int64{}
		for _, region := range m.Disk.Regions {
			at := region.Offset + r.Int64N(region.Length)
			flips[region.Name] = at
			b[at] ^= 1 << r.IntN(8)
		}
		s, err := verify.CompareSystem(t.Context(), bytes.NewReader(b), int64(len(b)), m,
			bytes.NewReader(original))
		if err != nil {
			t.Fatal(err)
		}
		for name, at := range flips {
			if !slices.ContainsFunc(s.Differences, func(d verify.Difference) bool {
				return d.Kind == verify.Changed && d.Region == name &&
					slices.Contains(d.Ranges, verify.Range{Offset: at, Length: 1})
			}) {
				t.Errorf("the flip at %d of %s was not found: %+v", at, name, s.Differences)
			}
			b[at] = original[at]
		}
	}
}

// TestVerifyGuest verifies a guest by its name: one that has not started yet, one whose disk was tampered with, and one
// that is not there.
func TestVerifyGuest(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("REMPART_GUESTS", filepath.Join(dir, "guests"))
	stored := filepath.Join(dir, "store")
	key := filepath.Join(dir, "key")
	judge(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	for _, words := range []string{"build " + profile + " --publish --renew-lock --store " + stored,
		"create fw-7 --master fw-1 --store " + stored + " --key " + key + ".pub"} {
		if out, err := exec.Command(rempart(t), strings.Fields(words)...).CombinedOutput(); err != nil {
			t.Fatalf("rempart %s: %v\n%s", words, err, out)
		}
	}
	out := string(verified(t, 0, "fw-7"))
	if !strings.Contains(out, "system: identical to master fw-1") || !strings.Contains(out, "state: blank") {
		t.Errorf("a guest that never started:\n%s", out)
	}
	state, err := os.OpenFile(filepath.Join(dir, "guests", "fw-7", "state.raw"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	if _, err := state.WriteAt([]byte("implant"), 5000); err != nil {
		t.Fatal(err)
	}
	if out := string(verified(t, 3, "fw-7")); !strings.Contains(out, "SUSPECT /: no ext4 filesystem, and not blank") {
		t.Errorf("a guest whose state is no filesystem:\n%s", out)
	}
	verified(t, 1, "fw-8")
}
