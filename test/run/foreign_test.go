package run

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/builder/disk"
	"rempart/builder/disk/ext4"
	"rempart/builder/disk/fat"
	"rempart/builder/disk/gpt"
	"rempart/builder/disk/inside"
	"rempart/builder/master"
	"rempart/test/rig"
)

// foreignImage writes the disk of a system that rempart knows nothing of, as a raw file: GRUB, a kernel, this program
// as its init behind the boot stage's modules, their root for the rest of them, and a filesystem that it writes to.
func foreignImage(t *testing.T, path string) {
	t.Helper()
	m := rig.Build(t, "home-firewall")
	own, err := os.Open(filepath.Join(m.Dir, master.RawFile))
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	bootCode := make([]byte, gpt.SectorSize)
	if _, err := own.ReadAt(bootCode, 0); err != nil {
		t.Fatal(err)
	}
	_, parts, _, err := inside.Partitions(own, m.Manifest.Disk.Size)
	if err != nil || len(parts) != 3 {
		t.Fatalf("the master has %d partitions, %v; want GRUB, ESP and root", len(parts), err)
	}
	initrd, err := os.ReadFile(m.InsideInitrd(t, ".", withEfivars(t)))
	if err != nil {
		t.Fatal(err)
	}
	layout := []disk.Partition{{Name: "bios", Type: gpt.TypeBIOSBoot, Content: part(t, own, parts[0])},
		{Name: "esp", Type: gpt.TypeESP, Content: foreignESP(t, own, parts[1], initrd)},
		{Name: "modules", Type: gpt.TypeRootAMD64, Content: part(t, own, parts[2])},
		{Name: "data", Type: gpt.TypeRootAMD64, Content: foreignRoot(t)}}
	for i := range layout {
		layout[i].GUID[15] = byte(i + 1)
	}
	plan, err := disk.PlanLayout(layout, 0)
	if err != nil {
		t.Fatal(err)
	}
	image, err := plan.Assemble(gpt.GUID{7}, bootCode, layout)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := disk.WriteRaw(t.Context(), f, image); err != nil {
		t.Fatal(err)
	}
}

// part is a partition of a disk as it is.
func part(t *testing.T, own *os.File, p inside.Partition) *disk.Sparse {
	t.Helper()
	s := disk.NewSparse(p.Size)
	b := make([]byte, p.Size)
	if err := disk.ReadFull(own, b, p.Offset); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(0, bytes.NewReader(b), p.Size); err != nil {
		t.Fatal(err)
	}
	return s
}

// foreignESP is the ESP of a master with another initramfs, and the word that has the kernel begin there.
func foreignESP(t *testing.T, own *os.File, p inside.Partition, initrd []byte) *disk.Sparse {
	t.Helper()
	v, err := inside.OpenVolume(p.Part(own), p.Size)
	if err != nil {
		t.Fatal(err)
	}
	var files []fat.File
	const removable = "EFI/BOOT/BOOTX64.EFI"
	for _, name := range []string{"boot/grub/grub.cfg", "boot/vmlinuz", "boot/initrd", removable, "loader/loader.conf",
		"loader/entries/rempart.conf"} {
		b, err := fs.ReadFile(v, name)
		if err != nil {
			t.Fatal(err)
		}
		switch filepath.Base(name) {
		case "initrd":
			b = initrd
		case "grub.cfg", "rempart.conf":
			b = bytes.Replace(b, []byte(" console="), []byte(" rdinit=/inside console="), 1)
			if !bytes.Contains(b, []byte("rdinit=")) {
				t.Fatalf("%s names no console:\n%s", name, b)
			}
		}
		files = append(files, fat.File{Path: name, Size: int64(len(b)), Content: bytes.NewReader(b)})
		if name == removable { // once more where only a boot entry leads
			files = append(files, fat.File{Path: ownLoader, Size: int64(len(b)), Content: bytes.NewReader(b)})
		}
	}
	s, err := fat.Build(files, fat.Options{Label: v.Label, Serial: 1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// writerAt is a disk in memory.
type writerAt []byte

func (w writerAt) WriteAt(b []byte, at int64) (int, error) { return copy(w[at:], b), nil }

// foreignRoot is the filesystem that the system writes to.
func foreignRoot(t *testing.T) *disk.Sparse {
	t.Helper()
	const size = 32 << 20
	b := make(writerAt, size)
	text := "as it came\n"
	made := time.Unix(1e9, 0)
	o := ext4.Options{Size: size, Label: "data", UUID: [16]byte{1}, Time: made}
	issue := ext4.NewFile{Path: "etc/issue", Mode: 0o644, Modified: made, Size: int64(len(text)),
		Content: strings.NewReader(text)}
	etc := ext4.NewFile{Path: "etc", Dir: true, Mode: 0o755, Modified: made}
	if err := ext4.Make(b, o, []ext4.NewFile{etc, issue}); err != nil {
		t.Fatal(err)
	}
	s := disk.NewSparse(size)
	if err := s.Put(0, bytes.NewReader(b), size); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestForeign is the life of a guest of another system, whose image comes as an OVA: it runs on an overlay, is healthy
// by what was declared, and what it has written to its disk and behind its files' back is named, and gone when it has
// been put back on the image; which is as it came through all of it.
func TestForeign(t *testing.T) {
	if os.Getpid() == 1 {
		liveInside(t)
		return
	}
	t.Parallel()
	f := newFamily(t)
	raw := filepath.Join(f.dir, "other.raw")
	foreignImage(t, raw)
	f.do(t, 0, "", "convert", raw, "other.ova")
	store := f.dir + "/masters"
	t.Cleanup(func() { f.command("stop", "web", "--now").Run() })
	create := []string{"create", "web", "--store", store, "--image", "other.ova", "--accel", "tcg", "--memory", "512M"}
	f.do(t, 2, "healthy by TCP", append(create, "--healthy-tcp", "no port")...)
	f.do(t, 1, "bios or uefi", append(create, "--firmware", "direct")...)
	f.do(t, 2, "what this master was built of", "create", "web", "--store", store, "--master", "fw-1", "--nic", "net0")
	f.do(t, 0, "made from other", append(create, "--state-size", "1G", "--healthy-line", "^other login: $",
		"--healthy-tcp", fmt.Sprint(foreignPort), "--nic", "lan0")...)
	f.do(t, 0, "identical to master other", "verify", "--master", "other", "--store", store, raw)
	f.do(t, 0, "0 differences", "verify", "web")
	taken := f.status(t, "web").Master
	f.do(t, 0, taken[:12]+", and boots by bios or uefi", "master", "image", raw, "--store", store) // the same bytes
	f.do(t, 1, "in use by a guest", "master", "rm", "other", "--store", store)
	before := f.do(t, 0, "", "master", "verify", "other", "--store", store, "--allow-unsigned")

	f.do(t, 0, "is READY", "start", "web")
	if s := f.status(t, "web"); s.Phase != "ready" || s.SSH != "" {
		t.Errorf("status of one that is healthy = %+v; want it ready, and no SSH of rempart's", s)
	}
	for _, refused := range [][]string{{"ctl", "web", "status"}, {"ssh", "web"}, {"diff", "web"}, {"verify", "web"},
		{"backup", "web", "x"}, {"export", "web", "--to", "qemu"}, {"upgrade", "web", "--to", "other"},
		{"reprovision", "web", "--to", "fw-1"}, {"reprovision", "web", "--new-keys"},
		{"reprovision", "web", "--prove", "always"}, {"prepare", "web", "--new-keys"}} {
		f.do(t, 1, "web", refused...)
	}
	f.do(t, 0, "only it knows", "outdated", "web")
	f.do(t, 0, "overlay", "status", "web")
	f.do(t, 0, "stopped", "stop", "web")
	// The line of the console, the file, and the byte between the partitions are the guest's own work.
	f.do(t, 3, "4:/lives: [added]", "verify", "web")
	f.do(t, 3, "outside partitions within 5 bytes at 20480", "verify", "web")
	f.do(t, 3, "4:/etc/issue: [content]", "verify", "web", "--json=false")

	f.do(t, 0, "LOST to the guest is all it has written", "reprovision", "web", "--dry-run")
	f.do(t, 0, "bios -> uefi", "set", "web", "--firmware", "uefi")
	out := f.do(t, 0, "READY on master", "reprovision", "web")
	if !strings.Contains(out, "found: changed outside partitions") {
		t.Errorf("reprovision says\n%s\nwant it to tell what was found", out)
	}
	f.do(t, 0, "4:/lives: [added]", "quarantine", "show", "web", "0001")
	f.do(t, 0, "stopped", "stop", "web")
	overlay := filepath.Join(f.dir, "guests", "web", "root.qcow2")
	if got := f.do(t, 0, "", "disk", "cat", "--backing", overlay+":data", "/lives"); got != "a life\n" {
		t.Errorf("after it was put back it has lived %q; want one life", got)
	}
	f.byUEFI(t)
	f.do(t, 3, "4:/lives", "verify", "web")
	f.foreignMoves(t, store)
	if after := f.do(t, 0, "", "master", "verify", "other", "--store", store, "--allow-unsigned"); after != before {
		t.Errorf("the master was\n%s and is\n%s", before, after)
	}
	f.do(t, 0, "disks stay", "rm", "web")
	f.do(t, 1, "--adopt", create...)
	f.do(t, 0, "made from other", append(create, "--adopt", "--healthy-after", "1s")...)
	f.do(t, 3, "4:/lives", "verify", "web")
	f.do(t, 0, "are gone", "rm", "--data", "web")
	f.atOnce(t, store)
}

// atOnce has many commands begin at the same time, each a process of its own: of those that make one guest one does,
// and of those that put it back on its image each does it whole or says who is at it. What is left is a guest like any
// other.
func (f *family) atOnce(t *testing.T, store string) {
	t.Helper()
	const many = 6
	all := func(words ...string) (worked int) {
		t.Helper()
		begun := make([]*screen, many)
		programs := make([]*program, many)
		for i := range many {
			begun[i] = newScreen()
			cmd := f.command(words...)
			cmd.Stdout, cmd.Stderr = begun[i], begun[i]
			programs[i] = start(t, cmd)
		}
		for i, p := range programs {
			code, text := p.exit(t, begun[i]), begun[i].String()
			switch {
			case code == 0:
				worked++
			case code != 1 || !strings.Contains(text, "another command is at work") && !strings.Contains(text, "already"):
				t.Errorf("%q beside others like it = %d\n%s\nwant 0, or 1 and whose turn it is", words, code, text)
			}
		}
		return worked
	}
	if n := all("create", "twin", "--store", store, "--master", "other", "--accel", "tcg"); n != 1 {
		t.Errorf("%d of %d commands have made the guest; want one", n, many)
	}
	worked := all("reprovision", "twin", "--no-start")
	if worked == 0 {
		t.Error("none of the commands got its turn")
	}
	f.do(t, 0, fmt.Sprintf("%04d", worked), "quarantine", "list", "twin")
	f.do(t, 0, "stopped", "status", "twin")
	f.do(t, 0, "0 differences", "verify", "twin")
	f.do(t, 0, "are gone", "rm", "--data", "twin")
}

// foreignMoves moves the stopped guest to another home with another store, as one file each.
func (f *family) foreignMoves(t *testing.T, store string) {
	t.Helper()
	there := f.elsewhere(t)
	file, master := filepath.Join(f.dir, "web.backup"), filepath.Join(f.dir, "other.master")
	f.do(t, 0, "its master is", "backup", "web", file)
	f.do(t, 0, "", "master", "export", "other", master, "--store", store)
	theirs := there.dir + "/masters"
	there.do(t, 0, "nobody trusted", "master", "import", master, "--allow-unsigned", "--store", theirs)
	there.do(t, 0, "is back", "restore", file, "--store", theirs)
	there.do(t, 3, "4:/lives: [added]", "verify", "web")
	overlay := filepath.Join(there.dir, "guests", "web", "root.qcow2")
	here, err := os.ReadFile(filepath.Join(f.dir, "guests", "web", "root.qcow2.uefi-vars"))
	moved, errMoved := os.ReadFile(overlay + ".uefi-vars")
	if err := errors.Join(err, errMoved); err != nil || !bytes.Equal(here, moved) {
		t.Errorf("what the firmware remembers is another after the move: %d bytes, were %d, %v", len(moved), len(here), err)
	}
	there.do(t, 0, theirs+"/masters/", "disk", "stat", "--backing", overlay) // as everybody else finds it by its name
}
