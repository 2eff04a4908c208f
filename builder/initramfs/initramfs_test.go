package initramfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/builder/kernel"
	"rempart/builder/rootfs/debtest"
	"rempart/builder/rootfs/tree"
)

// bootStage stands for the boot stage: Build does not look into it.
var bootStage = []byte("\x7fELF a boot stage")

func open(t testing.TB) *kernel.Kernel {
	t.Helper()
	k, err := kernel.Open(debtest.Entries(t, debtest.KernelPackage(t)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func build(t testing.TB) []byte {
	t.Helper()
	b, err := Build(t.Context(), open(t), bootStage)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestForeignTools lets zstd and cpio unpack what we wrote and compares each file.
func TestForeignTools(t *testing.T) {
	packed := build(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "initrd")
	if err := os.WriteFile(file, packed, 0o600); err != nil {
		t.Fatal(err)
	}
	debtest.Run(t, "zstd", "zstd", "-q", "-t", file)
	archive := filepath.Join(dir, "archive")
	debtest.Run(t, "zstd", "zstd", "-q", "-d", file, "-o", archive)
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o700); err != nil {
		t.Fatal(err)
	}
	list := debtest.Run(t, "cpio", "cpio", "--quiet", "-itv", "-F", archive)
	for _, want := range []string{" 5,   1 ", "dev/console", "init", "newroot", "dm-verity.ko"} {
		if !strings.Contains(list, want) {
			t.Errorf("cpio -itv: no %q in\n%s", want, list)
		}
	}
	cmd := exec.Command(debtest.Tool(t, "cpio", "cpio"), "--quiet", "-id", "--no-absolute-filenames", "-F", archive,
		"--nonmatching", "dev/console") // device nodes need root
	cmd.Dir = out
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio -id: %v\n%s", err, msg)
	}
	got, err := Read(packed)
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, e := range got.Entries() {
		if !e.Mode.IsRegular() {
			continue
		}
		files++
		theirs, err := os.ReadFile(filepath.Join(out, e.Path))
		if err != nil {
			t.Fatal(err)
		}
		r, err := e.Open()
		if err != nil {
			t.Fatal(err)
		}
		if ours, err := io.ReadAll(r); err != nil || !bytes.Equal(ours, theirs) {
			t.Errorf("/%s: Read gives %d bytes (%v), cpio gives %d others", e.Path, len(ours), err, len(theirs))
		}
	}
	if files < 20 {
		t.Errorf("%d files were compared; want at least 20:\n%s", files, list)
	}
	t.Logf("initramfs without a real boot stage: %d bytes", len(packed))
}

// TestReproducible builds under another umask and time zone, later, and compares.
func TestReproducible(t *testing.T) {
	first := build(t)
	defer syscall.Umask(syscall.Umask(0o077))
	local := time.Local
	time.Local = time.FixedZone("elsewhere", 5*3600)
	defer func() { time.Local = local }()
	time.Sleep(1100 * time.Millisecond) // cpio times have whole seconds
	if second := build(t); !bytes.Equal(first, second) {
		t.Errorf("two builds differ: %d and %d bytes", len(first), len(second))
	}
}

// TestRoundTrip writes one entry of each kind and reads it again.
func TestRoundTrip(t *testing.T) {
	in := new(tree.Tree)
	for _, e := range []tree.Entry{
		tree.Dir("tmp", 0o777|fs.ModeSticky, "test"),
		tree.Bytes("bin/tool", 0o755|fs.ModeSetuid, []byte("tool"), "test"),
		tree.Bytes("empty", 0o600, nil, "test"),
		tree.Symlink("link", "bin/tool", "test"),
		{Path: "dev/vda", Mode: fs.ModeDevice | 0o660, Major: 254, Minor: 16},
		{Path: "dev/tty", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 5},
	} {
		if err := in.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	var archive bytes.Buffer
	if err := Write(&archive, in); err != nil {
		t.Fatal(err)
	}
	out, err := readArchive(archive.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(out.Entries()), len(in.Entries()); got != want {
		t.Errorf("%d entries came back; want %d", got, want)
	}
	for _, want := range in.Entries() {
		got := out.Lookup(want.Path)
		if got == nil {
			t.Errorf("/%s did not come back", want.Path)
			continue
		}
		if got.Mode != want.Mode || got.Link != want.Link || got.Size != want.Size || got.Major != want.Major ||
			got.Minor != want.Minor {
			t.Errorf("/%s came back as %+v; want %+v", want.Path, got, want)
		}
	}
}

// TestWriteRefuses gives Write what it cannot put into an archive.
func TestWriteRefuses(t *testing.T) {
	short := tree.Bytes("short", 0o644, []byte("abc"), "test")
	short.Size = 4
	for _, e := range []tree.Entry{{Path: "pipe", Mode: fs.ModeNamedPipe | 0o600}, short} {
		in := new(tree.Tree)
		if err := in.Add(e); err != nil {
			t.Fatal(err)
		}
		if err := Write(io.Discard, in); err == nil || !strings.Contains(err.Error(), "/"+e.Path) {
			t.Errorf("Write(%s) = %v; want an error that names it", e.Path, err)
		}
	}
	if _, err := Build(t.Context(), open(t), nil); err == nil {
		t.Error("Build without a boot stage = nil; want an error")
	}
}

// sound is a small archive to damage.
func sound(t testing.TB) []byte {
	t.Helper()
	in := new(tree.Tree)
	for _, e := range []tree.Entry{
		tree.Bytes("init", 0o755, []byte("program"), "test"),
		tree.Symlink("a", "init", "test"),
	} {
		if err := in.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := Write(&b, in); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestReadRefuses damages an archive in the ways that would hurt a naive reader.
func TestReadRefuses(t *testing.T) {
	good := sound(t)
	if _, err := readArchive(good); err != nil {
		t.Fatalf("readArchive of a sound archive: %v", err)
	}
	at := bytes.Index(good, []byte("init\x00")) - headerSize // the record of init
	patch := func(offset int, s string) []byte {
		b := bytes.Clone(good)
		copy(b[offset:], s)
		return b
	}
	for _, c := range []struct {
		name    string
		archive []byte
	}{
		{"nothing", nil},
		{"cut before the trailer", good[:len(good)-124]},
		{"cut in the trailer", good[:len(good)-8]},
		{"another format", patch(0, "070702")},
		{"a name of 4 GB", patch(at+94, "FFFFFFFF")},
		{"no name", patch(at+94, "00000000")},
		{"a file of 4 GB", patch(at+54, "FFFFFFFF")},
		{"no hexadecimal digits", patch(at+54, "0000000x")},
		{"a socket", patch(at+14, "0000C1ED")},
		{"a directory with content", patch(at+14, "000041ED")},
		{"a NUL in a name", patch(at+headerSize, "in\x00t")},
		{"a file twice", append(bytes.Clone(good[:len(good)-124]), good...)},
		{"something behind the trailer", append(bytes.Clone(good), "more"...)},
	} {
		if _, err := readArchive(c.archive); !errors.Is(err, ErrArchive) {
			t.Errorf("readArchive of %s = %v; want ErrArchive", c.name, err)
		}
	}
	if _, err := Read([]byte("not zstd")); !errors.Is(err, ErrArchive) {
		t.Errorf("Read of no zstd = %v; want ErrArchive", err)
	}
}

// FuzzCpio gives the reader bytes from outside. What it accepts must come out the same when written again.
func FuzzCpio(f *testing.F) {
	f.Add(sound(f))
	f.Add([]byte("070701"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		first, err := readArchive(archive)
		if err != nil {
			if !errors.Is(err, ErrArchive) {
				t.Errorf("readArchive = %v; want ErrArchive", err)
			}
			return
		}
		var again bytes.Buffer
		if err := Write(&again, first); err != nil {
			t.Fatalf("an archive was read that cannot be written: %v", err)
		}
		second, err := readArchive(again.Bytes())
		if err != nil {
			t.Fatalf("an archive was written that cannot be read: %v", err)
		}
		if got, want := len(second.Entries()), len(first.Entries()); got != want {
			t.Errorf("%d entries came back; want %d", got, want)
		}
	})
}

// BenchmarkBuild is what a warm build spends here.
func BenchmarkBuild(b *testing.B) {
	k := open(b)
	stage := bytes.Repeat(bootStage, 3<<20/len(bootStage))
	for b.Loop() {
		if _, err := Build(b.Context(), k, stage); err != nil {
			b.Fatal(err)
		}
	}
}
