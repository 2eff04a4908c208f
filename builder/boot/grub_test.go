package boot

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ulikunitz/xz/lzma"
)

// debianGrub reads the files that the package grub-pc-bin installs.
func debianGrub(t *testing.T) GrubFiles {
	t.Helper()
	dir := "/" + GrubDir
	if _, err := os.Stat(filepath.Join(dir, "kernel.img")); err != nil {
		t.Fatalf("this test judges by GRUB itself: apt-get install grub-pc-bin grub-common: %v", err)
	}
	return func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) }
}

// unpack returns the uncompressed payload of a core image.
func unpack(t *testing.T, core []byte, stubSize int) []byte {
	t.Helper()
	stub := core[sector:]
	packed := binary.LittleEndian.Uint32(stub[decompressorCompressedSize:])
	size := binary.LittleEndian.Uint32(stub[decompressorUncompressedSize:])
	header := []byte{0x5d, 0, 0, 1, 0}
	header = binary.LittleEndian.AppendUint64(header, uint64(size))
	r, err := lzma.NewReader(bytes.NewReader(append(header, stub[stubSize:stubSize+int(packed)]...)))
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, size)
	if n, err := r.Read(out); n != len(out) {
		t.Fatalf("unpacking %d bytes: got %d, %v", size, n, err)
	}
	return out
}

// TestCoreEqualsMkimage compares what we link with what grub-mkimage links, before compression: every byte.
func TestCoreEqualsMkimage(t *testing.T) {
	files := debianGrub(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "early.cfg")
	if err := os.WriteFile(config, []byte(earlyConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(dir, "core.img")
	args := append([]string{"-O", "i386-pc", "-o", theirs, "-p", "/boot/grub", "-c", config}, grubModules...)
	if out, err := exec.Command("grub-mkimage", args...).CombinedOutput(); err != nil {
		t.Fatalf("grub-mkimage: %v\n%s", err, out)
	}
	want, err := os.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	stub, err := files("lzma_decompress.img")
	if err != nil {
		t.Fatal(err)
	}
	g, err := LinkGrub(files)
	if err != nil {
		t.Fatal(err)
	}
	const lba = 2048
	code, core := g.Place(lba)
	a, b := unpack(t, core, len(stub)), unpack(t, want, len(stub))
	if !bytes.Equal(a, b) {
		at := 0
		for at < min(len(a), len(b)) && a[at] == b[at] {
			at++
		}
		t.Errorf("payload has %d bytes, grub-mkimage's %d; they differ first at %#x", len(a), len(b), at)
	}
	if len(core) > len(want)*6/5 {
		t.Errorf("core image has %d bytes; grub-mkimage's has %d", len(core), len(want))
	}
	if got := binary.LittleEndian.Uint64(code[bootKernelSector:]); got != lba {
		t.Errorf("boot code loads LBA %d; want %d", got, lba)
	}
	if got := binary.LittleEndian.Uint64(core[blocklist:]); got != lba+1 {
		t.Errorf("core image continues at LBA %d; want %d", got, lba+1)
	}
	if got := int(binary.LittleEndian.Uint16(core[blocklist+8:])); got != len(core)/sector-1 {
		t.Errorf("core image continues for %d sectors; want %d", got, len(core)/sector-1)
	}
	if got := binary.LittleEndian.Uint16(core[blocklist+10:]); got != 0x820 {
		t.Errorf("core image continues at segment %#x; want 0x820", got)
	}
}

func TestLinkGrubRefusesBrokenFiles(t *testing.T) {
	files := debianGrub(t)
	change := func(name string, with func([]byte) []byte) GrubFiles {
		return func(n string) ([]byte, error) {
			b, err := files(n)
			if n == name && err == nil {
				b = with(b)
			}
			return b, err
		}
	}
	for _, tt := range []struct {
		name string
		with func([]byte) []byte
		want string
	}{
		{"kernel.img", func(b []byte) []byte { return b[:600] }, "kernel.img"},
		{"kernel.img", func([]byte) []byte { return nil }, "kernel.img has 0 bytes"},
		{"moddep.lst", func([]byte) []byte { return []byte("normal: normal\n") }, "there is no module biosdisk"},
		{"moddep.lst", func(b []byte) []byte { return append(b, "biosdisk: fat\nfat: biosdisk\n"...) }, "needs itself"},
		{"boot.img", func(b []byte) []byte { return append(b, 0) }, "boot.img has 513 bytes"},
		{"fat.mod", func([]byte) []byte { return make([]byte, maxGrubFile+1) }, "fat.mod has 1048577 bytes"},
	} {
		_, err := LinkGrub(change(tt.name, tt.with))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("LinkGrub with a broken %s = %v; want an error with %q", tt.name, err, tt.want)
		}
	}
}
