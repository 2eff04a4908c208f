package run

import (
	"bytes"
	endian "encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"rempart/builder/debian"
	"rempart/builder/disk/gpt"
	"rempart/builder/rootfs/tree"
	"rempart/test/rig"
)

// What the other system has its firmware remember: the number of a boot entry, and what that starts.
const (
	ownEntry  = 0x99
	ownLoader = "EFI/other/start.efi"
)

// espPartition is the number of its boot partition, whose GUID is all zeros but for that at its end.
const espPartition = 2

// efivars is the module of the filesystem of firmware's variables, in the initramfs.
const efivars = "efivarfs.ko"

// withEfivars is what the initramfs has beside what boots: the module, which no guest of rempart needs.
func withEfivars(t *testing.T) *tree.Tree {
	t.Helper()
	roots, err := debian.Roots("amd64")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range rig.Entries(t, filepath.Join(rig.Top(), "builder", "debian", "bookworm-amd64.lock"), roots) {
		if path.Base(e.Path) != efivars || !strings.Contains(e.Path, "-cloud-") {
			continue
		}
		in, err := e.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(in)
		found := &tree.Tree{}
		if err := errors.Join(err, in.Close(), found.Add(tree.Bytes(efivars, 0o644, b, "test"))); err != nil {
			t.Fatal(err)
		}
		return found
	}
	t.Fatalf("no kernel among the packages of guests has %s", efivars)
	return nil
}

// efivarsInside is where the variables are, and how each name ends: the GUID of those the specification knows (UEFI
// 2.10, 3.3).
const (
	efivarsInside = "/sys/firmware/efi/efivars"
	efiGlobal     = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"
)

// bootedInside tells by which entry of its firmware the other system was booted, and makes one of its own that comes
// before all others from then on, as an installer does.
func bootedInside() (string, error) {
	if _, err := os.Stat(filepath.Dir(efivarsInside)); errors.Is(err, fs.ErrNotExist) {
		return "bios", nil
	}
	module, err := os.Open("/" + efivars)
	if err != nil {
		return "", err
	}
	defer module.Close()
	if err := unix.FinitModule(int(module.Fd()), "", 0); err != nil {
		return "", fmt.Errorf("module %s: %w", efivars, err)
	}
	if err := unix.Mount("efivarfs", efivarsInside, "efivarfs", 0, ""); err != nil {
		return "", fmt.Errorf("mount %s: %w", efivarsInside, err)
	}
	variable := func(name string) string { return filepath.Join(efivarsInside, name+efiGlobal) }
	const attributes = 4 // bytes of a variable's file before its value (efivarfs.rst)
	current, err := os.ReadFile(variable("BootCurrent"))
	if err != nil || len(current) != attributes+2 {
		return "", fmt.Errorf("BootCurrent is % x: %w", current, err)
	}
	by := endian.LittleEndian.Uint16(current[attributes:])
	if by != ownEntry {
		err = enterInside(variable(entryName(ownEntry)), variable("BootOrder"))
	}
	return entryName(by), err
}

func entryName(n uint16) string { return fmt.Sprintf("Boot%04X", n) }

// enterInside makes the boot entry and puts it before the others.
func enterInside(entry, order string) error {
	// EFI_VARIABLE_NON_VOLATILE, BOOTSERVICE_ACCESS, RUNTIME_ACCESS (UEFI 2.10, 8.2.1).
	const kept = 1 | 2 | 4
	part := fmt.Sprintf("/sys/class/block/vda%d/", espPartition)
	var place [2]uint64 // of the partition, in sectors
	for i, name := range []string{"start", "size"} {
		text, err := os.ReadFile(part + name)
		if err == nil {
			place[i], err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		}
		if err != nil {
			return err
		}
	}
	var guid gpt.GUID
	guid[len(guid)-1] = espPartition
	le := endian.LittleEndian
	// A hard drive, a file and the end (10.3.5.1, 10.3.5.4, 10.3.1); the length of each stands in it.
	disk := le.AppendUint32([]byte{4, 1, 42, 0}, espPartition)
	disk = append(append(le.AppendUint64(le.AppendUint64(disk, place[0]), place[1]), guid[:]...), 2, 2) // GPT, GUID
	name := text16(`\` + strings.ReplaceAll(ownLoader, "/", `\`))
	file := append(le.AppendUint16([]byte{4, 4}, uint16(4+len(name))), name...)
	where := append(append(disk, file...), 0x7f, 0xff, 4, 0)
	// EFI_LOAD_OPTION (3.1.3), active.
	option := le.AppendUint16(le.AppendUint32(le.AppendUint32(nil, kept), 1), uint16(len(where)))
	option = append(append(option, text16("the other system")...), where...)
	before, err := os.ReadFile(order)
	if err != nil || len(before) < 4 {
		return fmt.Errorf("BootOrder is % x: %w", before, err)
	}
	first := append(le.AppendUint16(le.AppendUint32(nil, kept), ownEntry), before[4:]...)
	return errors.Join(os.WriteFile(entry, option, 0o644), os.WriteFile(order, first, 0o644))
}

// text16 is a text as UEFI has it.
func text16(s string) (b []byte) {
	for _, c := range utf16.Encode([]rune(s + "\x00")) {
		b = endian.LittleEndian.AppendUint16(b, c)
	}
	return b
}

// byUEFI has the guest, which was booted by UEFI once, boot from an entry that it made itself, and looks where what the
// firmware remembers goes: nowhere, of a guest that is not trusted, but to quarantine. The guest could write to it, and
// whoever broke in may have it start anything: none of it is carried over, and the new overlay begins with what the
// firmware comes with.
func (f *family) byUEFI(t *testing.T) {
	t.Helper()
	home := filepath.Join(f.dir, "guests", "web")
	overlay, vars := filepath.Join(home, "root.qcow2"), filepath.Join(home, "root.qcow2.uefi-vars")
	booted := func(want func(by []string) bool) {
		t.Helper()
		by := strings.Fields(f.do(t, 0, "", "disk", "cat", "--backing", overlay+":data", "/booted"))
		if !want(by) {
			t.Errorf("the guest was booted by %q", by)
		}
	}
	remembers := func(file string) bool {
		t.Helper()
		b, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		return bytes.Contains(b, text16(entryName(ownEntry))) &&
			bytes.Contains(b, text16(`\`+strings.ReplaceAll(ownLoader, "/", `\`)))
	}
	own := entryName(ownEntry)
	booted(func(by []string) bool { return len(by) == 1 && by[0] != own && by[0] != "bios" }) // as it came
	if !remembers(vars) {
		t.Errorf("%s does not have the entry that the guest made", vars)
	}
	f.do(t, 0, "is READY", "start", "web")
	f.do(t, 0, "stopped", "stop", "web")
	booted(func(by []string) bool { return len(by) == 2 && by[1] == own })
	f.do(t, 0, "not started", "reprovision", "web", "--no-start")
	if aside := filepath.Join(home, "quarantine", "0002", filepath.Base(vars)); remembers(vars) || !remembers(aside) {
		t.Errorf("after a reprovision the entry is beside the new overlay %v, in %s %v; want it only there", remembers(vars),
			aside, remembers(aside))
	}
	f.do(t, 0, "not started", "rollback", "web", "--no-start")
	if !remembers(vars) {
		t.Errorf("after the rollback %s does not have the entry of the guest", vars)
	}
}
