package ext4

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// run runs one of e2fsprogs, which apt-get install e2fsprogs brings.
func run(t testing.TB, stdin string, words ...string) string {
	t.Helper()
	path, err := exec.LookPath(words[0])
	if err != nil {
		path = filepath.Join("/usr/sbin", words[0])
	}
	cmd := exec.Command(path, words[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	var exit *exec.ExitError
	out, err := cmd.CombinedOutput()
	// e2fsck: 1 is "errors corrected".
	if err != nil && !(words[0] == "e2fsck" && errors.As(err, &exit) && exit.ExitCode() == 1) {
		t.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return string(out)
}

// makeFS lays a tree into a filesystem made with some options.
func makeFS(t testing.TB, tree, size string, options ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	run(t, "", append(append([]string{"mke2fs", "-q", "-F", "-L", "RMPTEST", "-d", tree}, options...), image, size)...)
	return image
}

func open(t testing.TB, image string) *FS {
	t.Helper()
	file, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(file, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// listing is a tree as lines: what stat and a digest tell of every file.
func listing(t testing.TB, f *FS) (all []string) {
	t.Helper()
	err := f.Walk(func(name string, i *Inode, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		line := fmt.Sprintf("%q %v %d:%d %d", name, i.FileMode(), i.UID, i.GID, i.Modified.Unix())
		switch i.FileMode().Type() {
		case 0:
			file, err := f.Open(i)
			if err != nil {
				return err
			}
			h := sha256.New()
			if _, err := io.Copy(h, io.NewSectionReader(file, 0, file.Size())); err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", i.Size, h.Sum(nil)[:8])
		case fs.ModeSymlink:
			to, err := f.Readlink(i)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" -> %q", to)
		case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
			line += fmt.Sprintf(" %d,%d", i.Major, i.Minor)
		}
		attributes, err := f.Attributes(i)
		if err != nil {
			return err
		}
		for _, a := range attributes {
			if a.Name != attrSystemData {
				line += fmt.Sprintf(" %s=%q", a.Name, a.Value)
			}
		}
		if name == "" {
			line = strings.Replace(line, fmt.Sprint(i.Modified.Unix()), "0", 1) // mke2fs gives the root the present
		}
		if name != "lost+found" {
			all = append(all, line)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// makeTree makes files of every kind, and returns the lines that listing shall give.
func makeTree(t testing.TB) (dir string, want []string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{})
	at := time.Unix(1700000000, 0)
	write := func(name string, size int64, mode fs.FileMode, holes bool) {
		t.Helper()
		file, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		b := make([]byte, 4096)
		for off := int64(0); off < size; off += 4096 {
			if holes && off/4096%3 != 0 {
				continue
			}
			random.Read(b)
			if _, err := file.WriteAt(b[:min(4096, size-off)], off); err != nil {
				t.Fatal(err)
			}
		}
		if err := file.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file.Name(), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"d", "d/many", "d/deep", "d/empty"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	deep := "d/deep"
	for i := range 30 {
		deep += fmt.Sprintf("/level%d", i)
		if err := os.Mkdir(filepath.Join(dir, deep), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 600 { // several blocks: a hash tree where there is one
		write(fmt.Sprintf("d/many/file-with-a-rather-long-name-%04d", i), int64(i%3), 0o600, false)
	}
	write("empty", 0, 0o644, false)
	write("small", 40, 0o644, false)
	write("inline", 120, 0o4755, false)
	write("block", 5000, 0o2711, false)
	write("large", 3<<20+17, 0o640, false)
	write("sparse", 9<<20+4000, 0o600, true) // of 800 extents: a tree, and doubly indirect blocks
	write("héllo wörld\n", 1, 0o1666, false)
	for name, to := range map[string]string{"short": "small", "long": strings.Repeat("x/", 100),
		"out": "../../etc/passwd"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "block"), filepath.Join(dir, "block2")); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := os.Lstat(path); err != nil || info.Mode()&fs.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(path, at, at)
	})
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if name == "." {
			name = ""
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		modified := info.ModTime().Unix()
		if name == "" {
			modified = 0
		}
		line := fmt.Sprintf("%q %v %d:%d %d", name, info.Mode(), os.Getuid(), os.Getgid(), modified)
		switch info.Mode().Type() {
		case 0:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(b)
			line += fmt.Sprintf(" %d %x", len(b), sum[:8])
		case fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" -> %q", to)
		}
		want = append(want, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	return dir, want
}

// same compares listings.
func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	t.Errorf("%s: %d files; want %d", what, len(got), len(want))
	for i, told := 0, 0; i < max(len(got), len(want)) && told < 5; i++ {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			told++
			t.Errorf("%d: %s", i, strings.Join(slices.Concat(got[min(i, len(got)):min(i+1, len(got))], []string{"; want"},
				want[min(i, len(want)):min(i+1, len(want))]), " "))
		}
	}
}

// TestRead reads what mke2fs makes in all the ways it can.
func TestRead(t *testing.T) {
	tree, want := makeTree(t)
	for _, options := range []string{"-t ext4", "-t ext2", "-t ext3 -b 1024", "-t ext2 -b 1024 -O ^filetype -I 128",
		"-t ext4 -b 1024", "-t ext4 -b 2048 -O ^64bit", "-t ext4 -b 65536 -N 2000", "-t ext4 -O inline_data",
		"-t ext4 -O ^metadata_csum,uninit_bg", "-t ext4 -O meta_bg,^resize_inode -b 1024", "-t ext4 -O bigalloc",
		"-t ext4 -I 128", "-t ext4 -O ^has_journal", "-t ext4 -O metadata_csum_seed,large_dir,ea_inode",
		"-t ext4 -O ^flex_bg,^sparse_super,^resize_inode,mmp", "-t ext4 -O fast_commit"} {
		t.Run(options, func(t *testing.T) {
			image := makeFS(t, tree, "64M", strings.Fields(options)...)
			f := open(t, image)
			same(t, options, listing(t, f), want)
			if i := f.Info(); !i.Clean || i.Label != "RMPTEST" || i.Errors {
				t.Errorf("Info = %+v; want it clean and labelled", i)
			}
		})
	}
}

// TestNodes reads what only debugfs can plant.
func TestNodes(t *testing.T) {
	image := makeFS(t, t.TempDir(), "8M", "-t", "ext4")
	run(t, strings.Join([]string{"mknod fifo p", "mknod char c 5 1", "mknod block b 259 700", "mkdir dir",
		"ea_set dir user.note hello", "ea_set -f /dev/null dir user.empty", "set_inode_field dir uid 70000", "quit"}, "\n"),
		"debugfs", "-w", image)
	f := open(t, image)
	all := strings.Join(listing(t, f), "\n")
	for _, part := range []string{`"char" Dc`, " 5,1", `"block" D`, " 259,700", `"fifo" p`, `user.note="hello"`,
		"70000:0"} {
		if !strings.Contains(all, part) {
			t.Errorf("the listing\n%s\nhas no %q", all, part)
		}
	}
	i, err := f.Lookup("/dir/")
	if err != nil || i.UID != 70000 {
		t.Errorf("Lookup = %+v, %v", i, err)
	}
	if _, err := f.Lookup("dir/none"); err == nil {
		t.Error("a file that is not there was found")
	}
}

// TestJournal plants transactions into the log and compares what is read with what e2fsck makes of it.
func TestJournal(t *testing.T) {
	tree, _ := makeTree(t)
	for _, options := range []string{"-t ext4", "-t ext4 -O ^metadata_csum", "-t ext4 -O ^metadata_csum,^64bit",
		"-t ext3 -b 1024"} {
		t.Run(options, func(t *testing.T) {
			image := makeFS(t, tree, "64M", strings.Fields(options)...)
			// Another state of the same filesystem: what a kernel would have put into the log are the blocks that differ.
			next := filepath.Join(t.TempDir(), "next")
			b, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(next, b, 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, "rm large\nwrite "+filepath.Join(tree, "block")+" planted\nmkdir d/new\nsymlink link /etc/shadow\n",
				"debugfs", "-w", next)
			changed, err := os.ReadFile(next)
			if err != nil {
				t.Fatal(err)
			}
			size := int(open(t, image).s.blockSize)
			var commands strings.Builder
			commands.WriteString("jo\n")
			dir := t.TempDir()
			for n := 1; n < len(b)/size; n++ { // not the superblock, which says that the log is to be read
				block := changed[n*size : (n+1)*size]
				if bytes.Equal(block, b[n*size:(n+1)*size]) || n*size <= superOffset && size > superOffset {
					continue
				}
				file := filepath.Join(dir, fmt.Sprint(n))
				if err := os.WriteFile(file, block, 0o600); err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&commands, "jw -b %d %s\n", n, file)
			}
			// A block that is written and revoked stays as it is; one that begins as the log's own blocks do is kept apart.
			magic := filepath.Join(dir, "magic")
			if err := os.WriteFile(magic, append([]byte{0xc0, 0x3b, 0x39, 0x98}, make([]byte, size-4)...), 0o600); err != nil {
				t.Fatal(err)
			}
			free := len(b)/size - 5
			fmt.Fprintf(&commands, "jw -b %d %s\njw -b %d %s\njw -r %d\njc\n", free, magic, free+1, magic, free+1)
			run(t, commands.String(), "debugfs", "-w", image)

			f := open(t, image)
			if i := f.Info(); i.Clean || i.Transactions < 5 {
				t.Errorf("Info = %+v; want it not clean, with transactions", i)
			}
			got := listing(t, f)
			for n, want := range map[int][]byte{free: {0xc0, 0x3b, 0x39, 0x98}, free + 1: b[(free+1)*size:][:4]} {
				block, err := f.block(uint64(n))
				if err != nil || !bytes.Equal(block[:4], want) {
					t.Errorf("block %d begins %x, %v; want %x", n, block[:4], err, want)
				}
			}
			if !strings.Contains(strings.Join(got, "\n"), `"link" L`) {
				t.Error("what the log holds is not seen")
			}
			run(t, "", "e2fsck", "-E", "journal_only", "-y", image)
			clean := open(t, image)
			same(t, "after the recovery of e2fsck", got, listing(t, clean))
			if i := clean.Info(); !i.Clean || i.Transactions != 0 {
				t.Errorf("Info = %+v after the recovery", i)
			}
		})
	}
}
