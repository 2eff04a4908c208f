package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/disk/fat"
	"rempart/builder/disk/gpt"
	"rempart/builder/master"
)

// small is a disk with a boot partition of three files and a root of noise, and the manifest that goes with it.
func small(t *testing.T) (*disk.Sparse, *master.Manifest) {
	t.Helper()
	kernel := make([]byte, 100_000)
	rand.NewChaCha8([32]byte{1}).Read(kernel)
	files := []fat.File{}
	m := &master.Manifest{}
	for path, content := range map[string][]byte{"boot/vmlinuz": kernel, "EFI/BOOT/BOOTX64.EFI": kernel[:5000],
		"loader/entries/rempart.conf": []byte("title x\n"), "empty": {}} {
		files = append(files, fat.File{Path: path, Size: int64(len(content)), Content: bytes.NewReader(content)})
		sum := sha256.Sum256(content)
		m.Boot = append(m.Boot, master.File{Path: "/" + path, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])})
	}
	o := fat.Options{Label: "RMPBOOT", Serial: 1}
	size, err := fat.Size(files, o)
	if err != nil {
		t.Fatal(err)
	}
	m.Verity.Partition = "0a0b0c0d-0e0f-4011-8213-141516171819"
	parts := []disk.Partition{
		{Name: partitionESP, MinSize: size, Type: gpt.TypeESP, GUID: gpt.MustParseGUID(guidESP)},
		{Name: partitionRoot, MinSize: 1 << 20, Type: gpt.TypeRootAMD64, GUID: gpt.MustParseGUID(m.Verity.Partition)},
	}
	layout, err := disk.PlanLayout(parts, 0)
	if err != nil {
		t.Fatal(err)
	}
	o.HiddenSectors, o.Size = uint32(layout.Slots[0].LBA()), layout.Slots[0].Length
	if parts[0].Content, err = fat.Build(files, o); err != nil {
		t.Fatal(err)
	}
	image, err := layout.Assemble(gpt.MustParseGUID(guidDisk), nil, parts)
	if err != nil {
		t.Fatal(err)
	}
	m.Disk.Size = layout.Size
	for _, r := range layout.Regions() {
		m.Disk.Regions = append(m.Disk.Regions, master.Region{Name: r.Name, Offset: r.Offset, Length: r.Length})
	}
	return image, m
}

func TestReadBack(t *testing.T) {
	image, m := small(t)
	if err := readBack(image, m); err != nil {
		t.Errorf("readBack of a sound disk = %v; want nil", err)
	}
}

// TestReadBackFinds changes a byte of the disk, or a word of the manifest, and wants to hear of it.
func TestReadBackFinds(t *testing.T) {
	region := func(m *master.Manifest, name string) *master.Region {
		for i := range m.Disk.Regions {
			if m.Disk.Regions[i].Name == name {
				return &m.Disk.Regions[i]
			}
		}
		t.Fatalf("no region %q", name)
		return nil
	}
	for _, tt := range []struct {
		name string
		// damage changes the bytes of the disk or its manifest.
		damage func(b []byte, m *master.Manifest)
		want   string
	}{
		{"primary header", func(b []byte, _ *master.Manifest) { b[512+60] ^= 1 }, "primary partition table"},
		{"backup header", func(b []byte, _ *master.Manifest) { b[len(b)-512+60] ^= 1 }, "backup partition table"},
		{"no protective MBR", func(b []byte, _ *master.Manifest) { b[450] = 0x83 }, "not protected"},
		{"a partition elsewhere", func(_ []byte, m *master.Manifest) {
			region(m, "partition esp").Offset += 512
		}, `partition "esp"`},
		{"a partition too many", func(_ []byte, m *master.Manifest) {
			region(m, "gap 1").Name = "partition x"
		}, "2 partitions"},
		{"another root", func(_ []byte, m *master.Manifest) { m.Verity.Partition = guidDisk }, "the root's GUID"},
		{"a root of another name", func(_ []byte, m *master.Manifest) {
			region(m, "partition root").Name = "partition ROOT"
		}, `partition "root"`},
		{"a byte of a file", func(b []byte, _ *master.Manifest) {
			b[bytes.Index(b, []byte("title x\n"))] ^= 1
		}, "has the SHA-256"},
		{"the boot sector", func(b []byte, m *master.Manifest) {
			b[region(m, "partition esp").Offset+510] ^= 1
		}, "boot partition"},
		{"a file missing", func(_ []byte, m *master.Manifest) {
			m.Boot = append(m.Boot, master.File{Path: "/loader/other"})
		}, "/loader/other is missing"},
		{"a file too many", func(_ []byte, m *master.Manifest) { m.Boot = m.Boot[:3] }, "is not in the manifest"},
		{"a shorter file", func(_ []byte, m *master.Manifest) {
			for i := range m.Boot {
				m.Boot[i].Size++
			}
		}, "the manifest says"},
	} {
		image, m := small(t)
		b := make([]byte, image.Size())
		if _, err := image.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		tt.damage(b, m)
		damaged := disk.NewSparse(image.Size())
		if err := damaged.Put(0, bytes.NewReader(b), int64(len(b))); err != nil {
			t.Fatal(err)
		}
		if err := readBack(damaged, m); !errors.Is(err, ErrReadBack) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: readBack = %v; want %v with %q", tt.name, err, ErrReadBack, tt.want)
		}
	}
}
