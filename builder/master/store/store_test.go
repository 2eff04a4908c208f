package store

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aead.dev/minisign"
	"github.com/klauspost/compress/zstd"

	"rempart/builder/master"
	"rempart/firstboot/contract"
)

// makeMaster lays a folder with a manifest and files: a system disk of its own and a kernel that all share.
func makeMaster(t *testing.T, name, system string) string {
	t.Helper()
	dir := t.TempDir()
	raw := system + strings.Repeat("\x00", 3<<20) + "end"
	size := int64(len(raw))
	m := &master.Manifest{Format: master.Format, Master: contract.Master{Name: name, Arch: "amd64", Kernel: "6.1"},
		Cmdline: "quiet rempart.verity=" + system, Disk: master.Disk{Size: size, Regions: []master.Region{{Name: "all",
			Length: size}}},
		Root:     []master.File{{Path: "etc/hosts", Mode: "-rw-r--r--", Size: int64(len(system)), SHA256: sum(system)}},
		Packages: []master.Package{{Name: "linux", Version: "6.1-" + system, Arch: "amd64"}}}
	const block = 64 << 10
	if err := m.Disk.Fill(t.Context(), strings.NewReader(raw), block); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct{ name, text string }{{master.RawFile, raw}, {master.KernelFile, "the kernel"}} {
		if err := os.WriteFile(filepath.Join(dir, f.name), []byte(f.text), 0o600); err != nil {
			t.Fatal(err)
		}
		m.Outputs = append(m.Outputs, master.Output{Name: f.name, Size: int64(len(f.text)), SHA256: sum(f.text)})
	}
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, master.ManifestFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publish(t *testing.T, s *Store, dir string) *Master {
	t.Helper()
	m, err := s.Publish(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// tree is every path of a store, with sizes.
func tree(t *testing.T, s *Store) (all []string) {
	t.Helper()
	err := filepath.Walk(s.dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() && info.Name() != lockFile {
			all = append(all, strings.TrimPrefix(path, s.dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPublish(t *testing.T) {
	s := newStore(t)
	one, two := makeMaster(t, "fw-1", "one"), makeMaster(t, "fw-1", "two")
	a, b := publish(t, s, one), publish(t, s, two)
	if again := publish(t, s, one); again.Digest != a.Digest || a.Digest == b.Digest {
		t.Errorf("the same master has the digests %.8s and %.8s, another one %.8s", a.Digest, again.Digest, b.Digest)
	}
	if n := len(tree(t, s)); n != 3+3+3 {
		t.Errorf("two masters with one kernel take %d files:\n%s", n, strings.Join(tree(t, s), "\n"))
	}
	for _, m := range []*Master{a, b} {
		if err := s.Verify(t.Context(), m); err != nil {
			t.Error(err)
		}
		for _, name := range []string{master.RawFile, master.KernelFile} {
			info, err := os.Stat(filepath.Join(m.Dir, name))
			if err != nil || info.Mode().Perm() != 0o444 {
				t.Errorf("%s = %v, %v; want it read-only", name, info, err)
			}
		}
	}
	for _, dir := range []string{one, a.Dir} {
		if _, digest, err := Read(dir); err != nil || digest != a.Digest {
			t.Errorf("Read(%s) = %.8s, %v; want %.8s, as the store has it", dir, digest, err, a.Digest)
		}
	}
	got, err := os.ReadFile(filepath.Join(a.Dir, master.RawFile))
	want, _ := os.ReadFile(filepath.Join(one, master.RawFile))
	if err != nil || !bytes.Equal(got, want) {
		t.Error("the system disk is not what was published")
	}
}

// TestPublishRefuses: what is not what it says is not taken, and leaves nothing.
func TestPublishRefuses(t *testing.T) {
	s := newStore(t)
	change := func(name, text string) string {
		dir := makeMaster(t, "fw-1", "x")
		if text == "" {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	outside := makeMaster(t, "fw-1", "x")
	manifest, err := os.ReadFile(filepath.Join(outside, master.ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	for what, dir := range map[string]string{
		"another kernel":   change(master.KernelFile, "the kerneL"),
		"a longer kernel":  change(master.KernelFile, "the kernel\n"),
		"no kernel":        change(master.KernelFile, ""),
		"no manifest":      change(master.ManifestFile, ""),
		"no real manifest": change(master.ManifestFile, "{}"),
		"a way out": change(master.ManifestFile, strings.Replace(string(manifest), `"vmlinuz"`, `"../../vmlinuz"`,
			1)),
		"no digest": change(master.ManifestFile, strings.Replace(string(manifest), sum("the kernel"), "../../x", 1)),
		"no folder": filepath.Join(t.TempDir(), "none"),
	} {
		if m, err := s.Publish(t.Context(), dir); err == nil {
			t.Errorf("%s: Publish = %v; want an error", what, m)
		}
		if all, err := s.List(); len(all) != 0 || err != nil {
			t.Errorf("%s: the store has %v, %v", what, all, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Publish(ctx, makeMaster(t, "fw-1", "x")); !errors.Is(err, context.Canceled) {
		t.Errorf("Publish, cancelled = %v", err)
	}
	// What a killed one left is removed by the next change.
	left := filepath.Join(s.dir, workDir, "publish-dead")
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	publish(t, s, makeMaster(t, "fw-1", "x"))
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v; want it gone", left, err)
	}
}

func TestFindAndTags(t *testing.T) {
	s := newStore(t)
	a, b := publish(t, s, makeMaster(t, "fw-1", "one")), publish(t, s, makeMaster(t, "gw", "two"))
	for _, tag := range []string{"fw-1", "stable", "stable"} {
		if before, err := s.Tag(a.Digest[:10], tag); err != nil || before != "" {
			t.Fatalf("Tag(%s) = %q, %v; want it of no other before", tag, before, err)
		}
	}
	if before, err := s.Tag(b.Digest, "stable"); err != nil || before != a.Digest {
		t.Fatalf("Tag of one that another has = %q, %v; want the other, %s", before, err, a.Digest)
	}
	for ref, want := range map[string]string{"fw-1": a.Digest, "stable": b.Digest, a.Digest: a.Digest,
		b.Digest[:leastPrefix]: b.Digest} {
		if m, err := s.Find(ref); err != nil || m.Digest != want {
			t.Errorf("Find(%.10s) = %v, %v; want %.10s", ref, m, err, want)
		}
	}
	for _, ref := range []string{"", "none", a.Digest[:5], a.Digest + "0", "../" + a.Digest, strings.Repeat("0", 64),
		"STABLE"} {
		if m, err := s.Find(ref); !errors.Is(err, ErrUnknown) {
			t.Errorf("Find(%q) = %v, %v; want ErrUnknown", ref, m, err)
		}
	}
	for _, tag := range []string{"", "-x", "a/b", "..", "A", "deadbeef", strings.Repeat("a", 65), "a b"} {
		if _, err := s.Tag(a.Digest, tag); err == nil {
			t.Errorf("Tag(%q) was taken", tag)
		}
	}
	if err := s.Untag("stable"); err != nil {
		t.Error(err)
	}
	if err := s.Untag("stable"); !errors.Is(err, ErrUnknown) {
		t.Errorf("Untag of none = %v", err)
	}
	all, err := s.List()
	if err != nil || len(all) != 2 || all[0].Digest != a.Digest || !slices.Equal(all[0].Tags, []string{"fw-1"}) {
		t.Errorf("List = %+v, %v", all, err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, tagsDir, "broken"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find("fw-1"); !errors.Is(err, ErrChanged) {
		t.Errorf("with a broken tag Find = %v", err)
	}
}

func TestPrune(t *testing.T) {
	s := newStore(t)
	tagged, guests, free := publish(t, s, makeMaster(t, "a", "1")), publish(t, s, makeMaster(t, "b", "2")),
		publish(t, s, makeMaster(t, "c", "3"))
	if _, err := s.Tag(tagged.Digest, "keep"); err != nil {
		t.Fatal(err)
	}
	users := func() (func(string) bool, error) {
		return func(digest string) bool { return digest == guests.Digest }, nil
	}
	before := tree(t, s)
	for _, pretend := range []bool{true, false} {
		gone, freed, err := s.Prune(users, pretend)
		if err != nil || len(gone) != 1 || gone[0].Digest != free.Digest || freed != 3<<20+4 {
			t.Errorf("Prune = %v, %d bytes, %v; want the free one", gone, freed, err)
		}
		if pretend && !slices.Equal(tree(t, s), before) {
			t.Error("pretending to prune changed the store")
		}
	}
	for _, m := range []*Master{tagged, guests} {
		if err := s.Verify(t.Context(), m); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Find(free.Digest); !errors.Is(err, ErrUnknown) {
		t.Errorf("the free one is still there: %v", err)
	}
	if err := s.Remove(guests.Digest, users); !errors.Is(err, ErrInUse) {
		t.Errorf("Remove of one in use = %v", err)
	}
	if err := s.Remove("keep", users); err != nil {
		t.Error(err)
	}
	if all, err := s.List(); err != nil || len(all) != 1 || all[0].Digest != guests.Digest {
		t.Errorf("List = %v, %v; want what the guest uses", all, err)
	}
}

// TestSignatures has minisign itself judge what we sign, and us judge what it signs.
func TestSignatures(t *testing.T) {
	s := newStore(t)
	m := publish(t, s, makeMaster(t, "a", "1"))
	if _, err := s.Signer(m); !errors.Is(err, ErrUnsigned) {
		t.Errorf("Signer of an unsigned one = %v", err)
	}
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Sign(m, private); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Signer(m); !errors.Is(err, ErrUntrusted) {
		t.Errorf("Signer with no trusted key = %v", err)
	}
	text, err := public.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Trust("me", text); err != nil {
		t.Fatal(err)
	}
	if name, err := s.Signer(m); name != "me" || err != nil {
		t.Errorf("Signer = %q, %v; want me", name, err)
	}
	if err := s.Trust("junk", []byte("RWQ")); err == nil {
		t.Error("a key that is none was trusted")
	}
	if err := s.Verify(t.Context(), m); err != nil {
		t.Errorf("a signed master: %v", err)
	}
	tool, err := exec.LookPath("minisign")
	if err != nil {
		t.Skip("SKIPPED, NOT PASSED: there is no minisign; `test/setup test` brings it")
	}
	manifest := filepath.Join(m.Dir, master.ManifestFile)
	out, err := exec.Command(tool, "-V", "-P", public.String(), "-m", manifest).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "rempart master "+m.Digest) {
		t.Errorf("minisign -V: %v\n%s", err, out)
	}
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	for _, words := range [][]string{{"-G", "-W", "-p", key + ".pub", "-s", key},
		{"-S", "-s", key, "-m", manifest, "-x", filepath.Join(dir, "sig"), "-t", "by the tool"}} {
		if out, err := exec.Command(tool, words...).CombinedOutput(); err != nil {
			t.Fatalf("minisign %v: %v\n%s", words, err, out)
		}
	}
	signature, err := os.ReadFile(filepath.Join(dir, "sig"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(m.Dir, SignatureFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.Dir, SignatureFile), signature, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Signer(m); !errors.Is(err, ErrUntrusted) {
		t.Errorf("signed by a stranger: Signer = %v", err)
	}
	if text, err = os.ReadFile(key + ".pub"); err != nil {
		t.Fatal(err)
	}
	if err := s.Trust("tool", text); err != nil {
		t.Fatal(err)
	}
	if name, err := s.Signer(m); name != "tool" || err != nil {
		t.Errorf("signed by minisign: Signer = %q, %v", name, err)
	}
}

func TestDiff(t *testing.T) {
	s := newStore(t)
	a, b := publish(t, s, makeMaster(t, "a", "1")), publish(t, s, makeMaster(t, "a", "22"))
	if got := Diff(a.Manifest, a.Manifest); len(got) != 0 {
		t.Errorf("Diff of a master with itself = %v", got)
	}
	got := Diff(a.Manifest, b.Manifest)
	want := []Difference{{"package", "linux amd64", "6.1-1", "6.1-22"},
		{"size", "system disk", fmt.Sprint(3<<20 + 4), fmt.Sprint(3<<20 + 5)}, {"file", "etc/hosts",
			fmt.Sprintf("-rw-r--r-- 0:0 1 bytes sha256 %.16s", sum("1")),
			fmt.Sprintf("-rw-r--r-- 0:0 2 bytes sha256 %.16s", sum("22"))}}
	if !slices.Equal(got, want) {
		t.Errorf("Diff = %+v; want %+v", got, want)
	}
}

func TestExportImport(t *testing.T) {
	from, to := newStore(t), newStore(t)
	m := publish(t, from, makeMaster(t, "a", "1"))
	_, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := from.Sign(m, private); err != nil {
		t.Fatal(err)
	}
	var file, again bytes.Buffer
	for _, w := range []*bytes.Buffer{&file, &again} {
		if err := from.Export(t.Context(), m, w); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(file.Bytes(), again.Bytes()) {
		t.Error("the same master was exported as different bytes")
	}
	got, err := to.Import(t.Context(), bytes.NewReader(file.Bytes()))
	if err != nil || got.Digest != m.Digest {
		t.Fatalf("Import = %v, %v", got, err)
	}
	if err := to.Verify(t.Context(), got); err != nil {
		t.Error(err)
	}
	if _, err := to.Signer(got); !errors.Is(err, ErrUntrusted) {
		t.Errorf("the signature did not come along: %v", err)
	}
	for _, cut := range []int{0, 10, file.Len() / 2, file.Len() - 1} {
		s := newStore(t)
		if _, err := s.Import(t.Context(), bytes.NewReader(file.Bytes()[:cut])); err == nil {
			t.Errorf("an archive of %d bytes of %d was taken", cut, file.Len())
		}
		if left := tree(t, s); len(left) != 0 {
			t.Errorf("a refused archive left %q", left)
		}
	}
}

// TestImportRefuses has archives that somebody made to do harm.
func TestImportRefuses(t *testing.T) {
	dir := makeMaster(t, "a", "1")
	manifest, err := os.ReadFile(filepath.Join(dir, master.ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	type entry struct {
		header tar.Header
		text   string
	}
	plain := func(name, text string) entry {
		return entry{tar.Header{Name: name, Size: int64(len(text)), Typeflag: tar.TypeReg, Mode: 0o600}, text}
	}
	first := plain(master.ManifestFile, string(manifest))
	for what, entries := range map[string][]entry{
		"nothing":           nil,
		"no manifest first": {plain(master.KernelFile, "the kernel"), first},
		"a way out":         {first, plain("../x", "x")},
		"a file not named":  {first, plain("x", "x")},
		"a file twice":      {first, plain(master.KernelFile, "the kernel"), plain(master.KernelFile, "the kernel")},
		"another manifest":  {first, first},
		"a link": {first, {tar.Header{Name: master.KernelFile, Typeflag: tar.TypeSymlink,
			Linkname: "/etc/passwd"}, ""}},
		"too long":                {first, plain(master.KernelFile, "the kernel of another")},
		"a long signature":        {first, plain(SignatureFile, strings.Repeat("x", maxSignatureSize+1))},
		"a file is missing":       {first, plain(master.KernelFile, "the kernel")},
		"a manifest of a way out": {plain(master.ManifestFile, strings.Replace(string(manifest), `"vmlinuz"`, `".."`, 1))},
	} {
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(z)
		for _, e := range entries {
			if err := w.WriteHeader(&e.header); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(e.text)); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Close(), z.Close()); err != nil {
			t.Fatal(err)
		}
		s := newStore(t)
		if m, err := s.Import(t.Context(), &b); err == nil {
			t.Errorf("%s: Import = %v; want an error", what, m)
		}
		if left := tree(t, s); len(left) != 0 {
			t.Errorf("%s left %q", what, left)
		}
	}
}

func FuzzImport(f *testing.F) {
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd})
	dir := f.TempDir()
	s, err := Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := s.Import(context.Background(), bytes.NewReader(b)); err == nil {
			t.Errorf("Import = %v", m)
		}
	})
}
