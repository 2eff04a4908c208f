package foreign_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/disk/fat"
	"rempart/builder/disk/gpt"
	"rempart/builder/disk/imagefile"
	"rempart/builder/disk/inside"
	"rempart/builder/guest/verify"
	"rempart/builder/hypervisor"
	"rempart/builder/image/foreign"
	"rempart/builder/master"
)

// with is an image with bytes at offsets.
func with(t *testing.T, size int64, pieces map[int64]string) *disk.Sparse {
	t.Helper()
	s := disk.NewSparse(size)
	for at, text := range pieces {
		if err := s.Put(at, strings.NewReader(text), int64(len(text))); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// bootSector is what a BIOS boots, as far as it looks.
var bootSector = map[int64]string{0: "\xeb\x63\x90", 510: "\x55\xaa"}

// withESP is a disk with a GPT and a FAT partition that holds a file.
func withESP(t *testing.T, file string) *disk.Sparse {
	t.Helper()
	esp, err := fat.Build([]fat.File{{Path: file, Size: 4, Content: strings.NewReader("MZ..")}}, fat.Options{Label: "ESP"})
	if err != nil {
		t.Fatal(err)
	}
	parts := []disk.Partition{{Name: "esp", Type: gpt.TypeESP, GUID: gpt.GUID{1}, Content: esp}}
	layout, err := disk.PlanLayout(parts, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := layout.Assemble(gpt.GUID{2}, nil, parts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWays(t *testing.T) {
	const bios, uefi = hypervisor.BIOS, hypervisor.UEFI
	for name, tt := range map[string]struct {
		image *disk.Sparse
		want  []hypervisor.Firmware
	}{
		"boot code":                   {with(t, 1<<20, bootSector), []hypervisor.Firmware{bios}},
		"a signature and no code":     {with(t, 1<<20, map[int64]string{510: "\x55\xaa"}), nil},
		"code and no signature":       {with(t, 1<<20, map[int64]string{0: "\xeb\x63\x90"}), nil},
		"nothing":                     {disk.NewSparse(1 << 20), nil},
		"a loader":                    {withESP(t, "EFI/BOOT/BOOTX64.EFI"), []hypervisor.Firmware{uefi}},
		"a loader in small letters":   {withESP(t, "efi/boot/bootx64.efi"), []hypervisor.Firmware{uefi}},
		"a loader where none is used": {withESP(t, "EFI/debian/BOOTX64.EFI"), nil},
	} {
		_, parts, _, err := inside.Partitions(tt.image, tt.image.Size())
		if err != nil {
			t.Fatal(err)
		}
		got, err := foreign.Ways(tt.image, parts)
		if !slices.Equal(got, tt.want) || (err == nil) == (tt.want == nil) {
			t.Errorf("Ways of %s = %v, %v; want %v", name, got, err, tt.want)
		}
		if err != nil && !errors.Is(err, foreign.ErrNoBoot) {
			t.Errorf("Ways of %s = %v; want %v", name, err, foreign.ErrNoBoot)
		}
	}
}

// TestWrite: the master of a disk is the same bytes each time, has the disk's own, as qemu-img says, and its manifest
// names each of them.
func TestWrite(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Fatalf("%v (apt package qemu-utils)", err)
	}
	image := withESP(t, "EFI/BOOT/BOOTX64.EFI")
	var manifests [2][]byte
	for n := range manifests {
		dir := t.TempDir()
		if err := foreign.Write(t.Context(), dir, "web", "amd64", image, nil); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, master.ManifestFile))
		if err != nil {
			t.Fatal(err)
		}
		manifests[n] = b
		m, err := master.ReadManifest(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if m.Image == nil || !slices.Equal(m.Image.Firmware, []string{"uefi"}) || m.Disk.Size != image.Size() {
			t.Errorf("the manifest has %+v, %d bytes; want uefi, %d", m.Image, m.Disk.Size, image.Size())
		}
		raw := filepath.Join(dir, "raw")
		f, err := os.Create(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(disk.WriteRaw(t.Context(), f, image), f.Close()); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, master.Qcow2File)
		compare := exec.Command("qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, raw)
		if out, err := compare.CombinedOutput(); err != nil {
			t.Errorf("qemu-img compare: %v\n%s", err, out)
		}
		changed(t, raw, m)
	}
	if !bytes.Equal(manifests[0], manifests[1]) {
		t.Error("two writes of one image differ")
	}
}

// changed has the manifest find one byte that is another, in a partition and outside.
func changed(t *testing.T, raw string, m *master.Manifest) {
	t.Helper()
	f, err := os.OpenFile(raw, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at, region := range map[int64]string{700_000: "outside partitions 1", 2 << 20: "partition 1"} {
		if _, err := f.WriteAt([]byte{1}, at); err != nil {
			t.Fatal(err)
		}
		s, err := verify.CompareSystem(context.Background(), f, m.Disk.Size, m, nil)
		if err != nil || len(s.Differences) != 1 || s.Differences[0].Region != region {
			t.Errorf("with another byte at %d: %+v, %v; want a difference in %s", at, s, err, region)
		}
		if _, err := f.WriteAt([]byte{0}, at); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWriteOdd: an image that ends within a sector is filled up, one that cannot boot is refused unless it is said how
// it does, and one of nothing is none.
func TestWriteOdd(t *testing.T) {
	odd := with(t, 1<<20+7, bootSector)
	dir := t.TempDir()
	if err := foreign.Write(t.Context(), dir, "odd", "amd64", odd, nil); err != nil {
		t.Fatal(err)
	}
	i, err := imagefile.Open(t.Context(), filepath.Join(dir, master.Qcow2File), imagefile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if i.Size() != 1<<20+512 {
		t.Errorf("an image of %d bytes has become one of %d; want %d", odd.Size(), i.Size(), 1<<20+512)
	}
	blank := disk.NewSparse(1 << 20)
	if err := foreign.Write(t.Context(), t.TempDir(), "x", "amd64", blank, nil); !errors.Is(err, foreign.ErrNoBoot) {
		t.Errorf("Write of a blank disk = %v; want %v", err, foreign.ErrNoBoot)
	}
	said := []hypervisor.Firmware{hypervisor.UEFI}
	if err := foreign.Write(t.Context(), t.TempDir(), "x", "amd64", blank, said); err != nil {
		t.Errorf("Write of a blank disk that is said to boot = %v", err)
	}
	if err := foreign.Write(t.Context(), t.TempDir(), "x", "amd64", disk.NewSparse(0), said); err == nil {
		t.Error("Write of no bytes = nil; want an error")
	}
}
