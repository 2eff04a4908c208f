package boot

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"rempart/builder/hypervisor"
	"rempart/builder/master"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// withCmdline returns the master with another command line, as a host that supplies the kernel could give it.
func withCmdline(m *rig.Master, change func(string) string) *rig.Master {
	other, manifest := *m, *m.Manifest
	manifest.Cmdline = change(manifest.Cmdline)
	other.Manifest = &manifest
	return &other
}

// otherHash changes one digit of the root hash on a command line.
func otherHash(t *testing.T, m *rig.Master, digit int) *rig.Master {
	hash := m.Manifest.Verity.RootHash
	wrong := []byte(hash)
	wrong[digit] = "123456789abcdef0"[strings.IndexByte("0123456789abcdef", wrong[digit])]
	return withCmdline(m, func(s string) string {
		changed := strings.Replace(s, hash, string(wrong), 1)
		if changed == s {
			t.Fatalf("the command line %q does not hold the root hash %s", s, hash)
		}
		return changed
	})
}

// TestNoRoot shows what a guest does whose root is not there: it says what it looked for and what it found, and waits,
// without a restart, until somebody switches it off.
func TestNoRoot(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	for _, tt := range []struct {
		name  string
		boot  func() (*rig.Master, rig.Options)
		words []string // on the console
	}{
		{"hash of another root", func() (*rig.Master, rig.Options) { return otherHash(t, m, 0), rig.Options{} },
			[]string{`vda (`, `serial "system", read-only`, "wanted: a partition with GUID "}},
		{"truncated disk", func() (*rig.Master, rig.Options) {
			disk := copyDisk(t, m)
			if err := os.Truncate(disk, rootOffset(t, m)+(2<<20)); err != nil {
				t.Fatal(err)
			}
			return m, rig.Options{System: disk}
		}, []string{`vda (`, "wanted: a partition with GUID ", "vda: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wrong, options := tt.boot()
			g := wrong.Boot(t, options)
			g.AwaitConsole("boot stage: still waiting for the system disk")
			g.PowerOff()
			console := g.ConsoleText()
			for _, word := range append(tt.words, "power button: switching off") {
				if !strings.Contains(console, word) {
					t.Errorf("the console does not say %q:\n%s", word, console)
				}
			}
			if strings.Contains(console, "Kernel panic") {
				t.Errorf("the kernel panicked:\n%s", console)
			}
		})
	}
}

// TestHashOfAnotherTree has the right partition found, by the half of the root hash that names it, and its content not
// be what the other half says.
func TestHashOfAnotherTree(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	awaitPanic(t, otherHash(t, m, len(m.Manifest.Verity.RootHash)-1).Boot(t, rig.Options{}))
}

// TestHarmlessDamage spoils what the guest does not trust: the primary partition table, of which there is a copy, and
// the verity superblock, whose content is on the command line.
func TestHarmlessDamage(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := copyDisk(t, m)
	const header = 512 // the GPT's primary header is the second sector (UEFI 2.10, section 5.3.2)
	for i := range int64(92) {
		flip(t, disk, header+i)
	}
	superblock := rootOffset(t, m) + int64(m.Manifest.Verity.DataBlocks)*contract.BlockSize
	for i := range int64(512) {
		flip(t, disk, superblock+i)
	}
	g := m.Boot(t, rig.Options{System: disk})
	r := g.AwaitReady()
	checkReport(t, m, r)
	g.Await("the scrub", func(r contract.Report) bool { return r.Root.Scrubbed })
	g.PowerOff()
}

// TestDamageWithoutPvpanic shows the sign of a corrupt root on a machine that has no pvpanic: the console.
func TestDamageWithoutPvpanic(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := copyDisk(t, m)
	flip(t, disk, rootOffset(t, m)+1024)
	g := m.Boot(t, rig.Options{System: disk, Firmware: hypervisor.MicroVM})
	g.AwaitConsole("Kernel panic - not syncing: dm-verity device corrupted")
	if _, heard := g.Report(); heard {
		t.Error("a guest without a root reported")
	}
}

// TestDamageInBootPartition documents what nothing in the guest can catch: what comes before the kernel's command line
// is verified by the host only. A spoilt initrd is unpacked as far as it goes, and there is no init in it.
func TestDamageInBootPartition(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := copyDisk(t, m)
	image, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := os.ReadFile(filepath.Join(m.Dir, master.InitrdFile))
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(image, initrd[:4096])
	if at < 0 {
		t.Fatal("the initrd is not on the disk as it is")
	}
	for i := range int64(64) { // its first frames: the archive begins there
		flip(t, disk, int64(at)+16+i)
	}
	g := m.Boot(t, rig.Options{System: disk, Firmware: hypervisor.BIOS})
	g.AwaitConsole("Kernel panic - not syncing")
	t.Log(regexp.MustCompile(`(?m)^.*(Initramfs unpacking failed|Kernel panic).*$`).FindAllString(g.ConsoleText(), -1))
	if strings.Contains(g.ConsoleText(), contract.ReadyPrefix+" ") {
		t.Error("READY with a spoilt initrd")
	}
}

// TestWritableSystemDisk attaches the system disk writable: the guest says so, locks it from inside and writes nothing.
func TestWritableSystemDisk(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := copyDisk(t, m)
	before := digest(t, disk)
	g := m.Boot(t, rig.Options{System: disk, Sed: "/node-name=system/s/read-only=on/read-only=off/g"})
	r := g.AwaitReady()
	if r.Root.ReadOnlyDisk || !r.Root.Verified || !strings.Contains(strings.Join(r.Warnings, "\n"), "attached writable") {
		t.Errorf("root %+v, warnings %q; want a verified root and a warning that its disk is writable", r.Root, r.Warnings)
	}
	g.AwaitConsole("the system disk vda is attached writable")
	g.PowerOff()
	if console := g.ConsoleText(); strings.Contains(console, "making /dev/") {
		t.Errorf("the disk could not be locked from inside:\n%s", console)
	}
	if digest(t, disk) != before {
		t.Error("the system disk was written to")
	}
}
