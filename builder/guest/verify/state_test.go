package verify_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/builder/disk/ext4"
	"rempart/builder/guest/verify"
	"rempart/firstboot/contract"
)

// tool runs one of e2fsprogs.
func tool(t testing.TB, stdin string, words ...string) {
	t.Helper()
	path, err := exec.LookPath(words[0])
	if err != nil {
		path = filepath.Join("/usr/sbin", words[0])
	}
	cmd := exec.Command(path, words[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil || bytes.Contains(out, []byte("not found")) {
		t.Fatalf("%q, of the package e2fsprogs: %v\n%s", words, err, out)
	}
}

// stateDisk makes a state disk as a guest leaves it: what contract.StatePlaces says, and a file in each place that may
// hold one. Then it has debugfs carry out a script.
func stateDisk(t testing.TB, script string) []byte {
	t.Helper()
	image := filepath.Join(t.TempDir(), "state.raw")
	tool(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-L", contract.StateLabel, "-b", "4096", "-N", "512", image, "16M")
	content := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(content, []byte("some text\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	elf := filepath.Join(t.TempDir(), "elf")
	if err := os.WriteFile(elf, []byte("\x7fELF and more"), 0o600); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	own := func(name string, mode uint32, owner int) {
		fmt.Fprintf(&all, "sif /%s mode 0%o\nsif /%s uid %d\nsif /%s gid %d\n", name, mode, name, owner, name, owner)
	}
	for _, p := range contract.StatePlaces() {
		if p.Path == "" {
			continue
		}
		mode := uint32(p.Mode.Perm()) | 0o040000
		if p.Mode&fs.ModeSticky != 0 {
			mode |= 0o1000
		}
		fmt.Fprintf(&all, "mkdir /%s\n", p.Path)
		own(p.Path, mode, p.Owner)
		if p.Files != nil {
			name := p.Path + "/" + strings.ReplaceAll(p.Files[0], "*", "7")
			fmt.Fprintf(&all, "write %s /%s\n", content, name)
			own(name, uint32(p.FileMode)|0o100000, p.Owner)
		}
	}
	for _, l := range contract.StateLinks() {
		fmt.Fprintf(&all, "symlink /%s %s\n", l.Path, l.Target)
	}
	tool(t, all.String()+strings.NewReplacer("CONTENT", content, "ELF", elf).Replace(script), "debugfs", "-w", image)
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func inspect(t testing.TB, b []byte, last *verify.Listing) *verify.State {
	t.Helper()
	s, err := verify.InspectState(t.Context(), bytes.NewReader(b), int64(len(b)), verify.DefaultRules(), last)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestStateImplants plants one thing after the other: each is named, with every reason, and nothing else is.
func TestStateImplants(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		want         []string // "path: reason; reason"
	}{
		{"nothing", "", nil},
		{"what the kernel of a guest holds", "write CONTENT /" + contract.QuotaFile + "\nsif /" + contract.QuotaFile +
			" mode 0100600\nsif /" + contract.QuotaFile + " flags 0x80010\n", nil},
		{"another that is as unchangeable", "write CONTENT /lib/rempart/seed.new\nsif /lib/rempart/seed.new mode 0100600\n" +
			"sif /lib/rempart/seed.new flags 0x80010\n", []string{"lib/rempart/seed.new: made unchangeable by a flag"}},
		{"what the kernel holds, held otherwise", "mkdir /" + contract.QuotaFile + "\nsif /" + contract.QuotaFile +
			" flags 0x80010\n", []string{"lib/rempart/quota: nothing declares it; made unchangeable by a flag"}},
		{"a file where none may be", "write CONTENT /home/x\n", []string{"home/x: nothing declares it"}},
		{"a program in place of a log", "write ELF /log/rempart/9.log\nsif /log/rempart/9.log mode 0100640\n" +
			"sif /log/rempart/9.log uid 914\nsif /log/rempart/9.log gid 914\n",
			[]string{"log/rempart/9.log: a program that no volume declares"}},
		{"set-user-id", "write ELF /tmp/sh\nsif /tmp/sh mode 0106755\n", []string{"tmp/sh: nothing declares it; " +
			"set-user-id; set-group-id; executable, which no volume declares; a program that no volume declares"}},
		{"a device", "cd /tmp\nmknod disk b 254 0\n", []string{"tmp/disk: nothing declares it; a device, 254:0"}},
		{"a pipe", "cd /tmp\nmknod p p\n", []string{"tmp/p: nothing declares it; a pipe or socket"}},
		{"links", "symlink /lib/lists/out /etc/shadow\nsymlink /lib/lists/up ../../../etc\n" +
			"symlink /lib/lists/in 7\n", []string{
			"lib/lists/in: nothing declares it", "lib/lists/out: nothing declares it; a link that leads out",
			"lib/lists/up: nothing declares it; a link that leads out"}},
		{"a link instead of a link", "rm /run\nsymlink /run ../etc\n", []string{"run: it should be a link to ../run; " +
			"a link that leads out"}},
		{"a link instead of a directory", "rmdir /spool\nsymlink /spool home\n", []string{
			"spool: Lrwxrwxrwx; it should be drwxr-xr-x"}},
		{"a directory with more", "mkdir /.x\nmkdir /.x/y\nwrite CONTENT /.x/y/z\nwrite ELF /.x/y/p\n" +
			"sif /.x/y/p mode 0100755\n",
			[]string{".x/y/p: executable, which no volume declares; a program that no volume declares",
				".x: nothing declares it"}},
		{"a capability", "ea_set /lib/rempart/seed security.capability abc\n",
			[]string{"lib/rempart/seed: the attribute security.capability"}},
		{"another owner", "sif /lib/rempart/time uid 0\n", []string{
			"lib/rempart/time: of user 0, group 909; it should be of 909"}},
		{"a mode that lets in", "sif /root mode 040777\nsif /lib/rempart/seed mode 0100644\n", []string{
			"lib/rempart/seed: -rw-r--r--; it should be -rw-------", "root: drwxrwxrwx; it should be drwx------"}},
		{"a second name", "ln /lib/rempart/seed /lib/lists/seed\n", []string{
			"lib/lists/seed: -rw-------; a second name of a file: lib/rempart/seed"}},
		{"unchangeable", "sif /lib/rempart/seed flags 0x80010\n", []string{
			"lib/rempart/seed: made unchangeable by a flag"}},
		{"no name", "unlink /lib/rempart/seed\n", []string{"#NUMBER: a file that no name leads to"}},
		{"another label", "ssv volume_name OTHER\n", []string{`: the filesystem is labelled "OTHER", not "RMPSTATE"`}},
		{"a name that is none", "write CONTENT /tmp/a\xffb\n", []string{`tmp/a\xffb: nothing declares it`}},
	} {
		s := inspect(t, stateDisk(t, tt.script), nil)
		var got []string
		for _, p := range s.Suspects {
			got = append(got, p.Path+": "+strings.Join(p.Why, "; "))
		}
		slices.Sort(got)
		if strings.Contains(fmt.Sprint(tt.want), "#NUMBER") && len(got) == 1 {
			_, rest, _ := strings.Cut(got[0], ":")
			got[0] = "#NUMBER:" + rest
		}
		if tt.name == "a second name" && len(got) == 1 { // which of the two is the second is the directory's order
			if strings.Contains(got[0], "a second name of a file") {
				continue
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s:\n got %q\nwant %q", tt.name, got, tt.want)
		}
	}
}

// TestStateDisks inspects what is no state disk, or more than one.
func TestStateDisks(t *testing.T) {
	whole := stateDisk(t, "")
	for _, tt := range []struct {
		name string
		disk func(b []byte) []byte
		want string
	}{
		{"blank", func([]byte) []byte { return make([]byte, 1<<20) }, ""},
		{"noise", func([]byte) []byte { return noise(1<<20, "x") }, "no ext4 filesystem, and not blank"},
		{"boot code", func(b []byte) []byte { b[446]++; return b }, "something is in the boot block"},
		{"a tail", func(b []byte) []byte { return append(append(b, make([]byte, 1<<20)...), 1) },
			"something is behind the end"},
		{"a blank tail", func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) }, ""},
		{"a wrong superblock", func(b []byte) []byte { b[1024]++; return b }, "damaged"},
		{"another size", func(b []byte) []byte { return b[:8<<20] }, "damaged"},
	} {
		b := tt.disk(bytes.Clone(whole))
		s := inspect(t, b, nil)
		if tt.want == "" {
			if !s.IsClean() {
				t.Errorf("%s: suspects %+v; want none", tt.name, s.Suspects)
			}
			continue
		}
		if len(s.Suspects) != 1 || s.Suspects[0].Path != "" ||
			!strings.Contains(strings.Join(s.Suspects[0].Why, ";"), tt.want) {
			t.Errorf("%s: suspects %+v; want one of the disk: %s", tt.name, s.Suspects, tt.want)
		}
	}
}

// TestFastCommits has the journal hold what is not read: the next kernel would lay it over the disk.
func TestFastCommits(t *testing.T) {
	b := stateDisk(t, "")
	at := bytes.Index(b, []byte{0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 4}) // the journal's superblock
	b[at+0x2b] |= 0x20                                               // JBD2_FEATURE_INCOMPAT_FAST_COMMIT
	s := inspect(t, b, nil)
	if len(s.Suspects) != 1 || !strings.Contains(fmt.Sprint(s.Suspects[0].Why), "fast commits") {
		t.Errorf("suspects %+v; want the fast commits", s.Suspects)
	}
}

// TestStateBounds names few files by paths so long that the listing of them would fill the memory.
func TestStateBounds(t *testing.T) {
	const depth, files = 1000, 300
	name := strings.Repeat("n", 255)
	list := []ext4.NewFile{{Mode: 0o755}}
	for n := range depth {
		list = append(list, ext4.NewFile{Path: strings.Repeat(name+"/", n) + name, Dir: true, Mode: 0o755})
	}
	deep := list[depth].Path
	for n := range files {
		list = append(list, ext4.NewFile{Path: fmt.Sprintf("%s/%d", deep, n)})
	}
	image, err := os.Create(filepath.Join(t.TempDir(), "state.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	const size = 128 << 20
	if err := image.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := ext4.Make(image, ext4.Options{Size: size, Label: contract.StateLabel, UUID: [16]byte{1},
		Time: time.Unix(1, 0)}, list); err != nil {
		t.Fatal(err)
	}
	s, err := verify.InspectState(t.Context(), image, size, verify.DefaultRules(), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := 0
	for _, e := range s.Listing.Entries {
		text += len(e.Path)
	}
	told := slices.ContainsFunc(s.Suspects, func(p verify.Suspect) bool {
		return p.Path == "" && slices.Contains(p.Why, "more files than are listed")
	})
	if !told || text > 256<<20 || len(s.Listing.Entries) < depth/4 {
		t.Errorf("%d files of %d are listed, by %d bytes; told of the rest: %v", len(s.Listing.Entries), len(list), text,
			told)
	}
}

// TestStateChanges compares with an earlier look, through the file that is kept of it.
func TestStateChanges(t *testing.T) {
	before := inspect(t, stateDisk(t, ""), nil)
	b, err := before.Listing.Encode()
	if err != nil {
		t.Fatal(err)
	}
	last, err := verify.ReadListing(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if s := inspect(t, stateDisk(t, ""), last); !s.Compared || len(s.Changes) != 0 {
		t.Errorf("changes of nothing: %+v", s.Changes)
	}
	s := inspect(t, stateDisk(t, `rm /lib/rempart/seed
write ELF /lib/rempart/seed.new
sif /root mode 040777
rm /run
symlink /run ../etc
`), last)
	want := []verify.Change{{Path: "lib/rempart/seed", What: []string{"removed"}},
		{Path: "lib/rempart/seed.new", What: []string{"added"}}, {Path: "root", What: []string{"mode"}},
		{Path: "run", What: []string{"target"}}}
	for i := range s.Changes { // sizes of links are part of their content
		s.Changes[i].What = slices.DeleteFunc(s.Changes[i].What, func(w string) bool { return w == "content" })
	}
	if fmt.Sprint(s.Changes) != fmt.Sprint(want) {
		t.Errorf("changes %+v; want %+v", s.Changes, want)
	}
}

func FuzzReadListing(f *testing.F) {
	f.Add([]byte(`{"format":1,"entries":[{"path":"a","mode":"-rw-------","uid":0,"gid":0,"size":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := verify.ReadListing(bytes.NewReader(b))
		if err != nil {
			return
		}
		if c := l.Compare(l); len(c) > len(l.Entries) {
			t.Errorf("%d changes of %d entries", len(c), len(l.Entries))
		}
	})
}

// FuzzInspectState changes bytes of a small state disk with implants.
func FuzzInspectState(f *testing.F) {
	image := stateDisk(f, "mkdir /d\nwrite ELF /d/e\nln /d/e /d/f\nea_set /d/e user.x y\nsymlink /l /etc\n")
	if inspect(f, image, nil).IsClean() {
		f.Fatal("nothing is suspect to begin with")
	}
	f.Add([]byte{0, 4, 0x18, 1, 0, 0x14, 3, 0xff})
	f.Fuzz(func(t *testing.T, changes []byte) {
		b := bytes.Clone(image)
		for ; len(changes) >= 4; changes = changes[4:] {
			b[int(binary.BigEndian.Uint32(changes)>>8)%(2<<20)] = changes[3]
		}
		s := inspect(t, b, nil)
		for _, p := range s.Suspects {
			if len(p.Why) == 0 {
				t.Errorf("%q is suspect for no reason", p.Path)
			}
		}
	})
}
