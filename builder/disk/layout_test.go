package disk_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/disk/fat"
	"rempart/builder/disk/gpt"
	"rempart/builder/disk/internal/judge"
	guestgpt "rempart/firstboot/gpt"
)

// random is n bytes that say where they came from.
func random(n int, seed string) []byte {
	b := make([]byte, n)
	rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(b)
	return b
}

// holding is an image of size bytes that starts with b.
func holding(t testing.TB, size int64, b []byte) *disk.Sparse {
	t.Helper()
	s := disk.NewSparse(size)
	if err := s.Put(0, bytes.NewReader(b), int64(len(b))); err != nil {
		t.Fatal(err)
	}
	return s
}

var diskGUID = gpt.MustParseGUID("0a0b0c0d-0e0f-4011-8213-141516171819")

// system is a disk as a master has it: its FAT knows where it lies.
func system(t testing.TB, size int64) (*disk.Layout, []disk.Partition, *disk.Sparse) {
	t.Helper()
	files := []fat.File{{Path: "boot/vmlinuz", Size: 2 << 20, Content: bytes.NewReader(random(2<<20, "kernel"))}}
	o := fat.Options{Label: "RMPBOOT", Serial: 1}
	fatSize, err := fat.Size(files, o)
	if err != nil {
		t.Fatal(err)
	}
	root := random(3<<20+4096, "root")
	parts := []disk.Partition{
		{Name: "bios", MinSize: 150_000},
		{Name: "esp", MinSize: fatSize},
		{Name: "root", MinSize: int64(len(root))},
	}
	layout, err := disk.PlanLayout(parts, size)
	if err != nil {
		t.Fatal(err)
	}
	esp, _ := layout.Slot("esp")
	o.HiddenSectors, o.Size = uint32(esp.LBA()), esp.Length
	boot, err := fat.Build(files, o)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range []struct {
		typ     gpt.GUID
		content *disk.Sparse
	}{
		{gpt.TypeBIOSBoot, holding(t, 150_000, random(150_000, "core"))},
		{gpt.TypeESP, boot},
		{gpt.TypeRootAMD64, holding(t, int64(len(root)), root)},
	} {
		parts[i].Type, parts[i].Content, parts[i].GUID = p.typ, p.content, gpt.GUID{0xA0, 15: byte(i + 1)}
	}
	image, err := layout.Assemble(diskGUID, random(512, "boot.img"), parts)
	if err != nil {
		t.Fatal(err)
	}
	return layout, parts, image
}

func TestForeignReaders(t *testing.T) {
	for _, size := range []int64{0, 48 << 20, 1<<30 + 512} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			layout, parts, image := system(t, size)
			if size == 0 && image.Size()%disk.SizeUnit != 0 || size != 0 && image.Size() != size {
				t.Errorf("size %d for %d asked", image.Size(), size)
			}
			raw := judge.Raw(t, image)
			out := judge.Run(t, "gdisk", "sgdisk", "-v", raw)
			if !strings.Contains(out, "No problems found.") || strings.Contains(out, "aution") ||
				strings.Contains(out, "arning") {
				t.Errorf("sgdisk -v:\n%s", out)
			}
			var table struct {
				PartitionTable struct {
					ID         string
					Partitions []struct {
						Start, Size      int64
						Type, UUID, Name string
					}
				}
			}
			if err := json.Unmarshal(judge.Stdout(t, "fdisk", "sfdisk", "--json", raw), &table); err != nil {
				t.Fatal(err)
			}
			pt := table.PartitionTable
			if !strings.EqualFold(pt.ID, diskGUID.String()) || len(pt.Partitions) != len(parts) {
				t.Fatalf("sfdisk reads %+v", pt)
			}
			for i, p := range pt.Partitions {
				slot, want := layout.Slots[i], parts[i]
				if p.Start*512 != slot.Offset || p.Size*512 != slot.Length || p.Name != want.Name ||
					!strings.EqualFold(p.Type, want.Type.String()) || !strings.EqualFold(p.UUID, want.GUID.String()) {
					t.Errorf("sfdisk reads %+v; want %+v", p, slot)
				}
				b := make([]byte, min(want.Content.Size(), 4<<20))
				got := make([]byte, len(b))
				if _, err := want.Content.ReadAt(b, 0); err != nil {
					t.Fatal(err)
				}
				if _, err := image.ReadAt(got, slot.Offset); err != nil || !bytes.Equal(got, b) {
					t.Errorf("partition %s does not hold its content: %v", want.Name, err)
				}
			}
			// The FAT inside the disk, where its partition says it is.
			esp, _ := layout.Slot("esp")
			kernel := judge.Stdout(t, "mtools", "mtype", "-i", fmt.Sprintf("%s@@%d", raw, esp.Offset), "::boot/vmlinuz")
			if !bytes.Equal(kernel, random(2<<20, "kernel")) {
				t.Error("mtype reads another kernel from the boot partition")
			}
			got := judge.Stdout(t, "grub-common", "grub-fstest", raw, "cat", "(loop0,gpt2)/boot/vmlinuz")
			if !bytes.Equal(got, kernel) {
				t.Error("grub reads another kernel from the boot partition")
			}
		})
	}
}

func TestBootCodeLeavesTheProtectivePartition(t *testing.T) {
	_, _, image := system(t, 0)
	b := make([]byte, 512)
	if _, err := image.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if code := random(512, "boot.img"); !bytes.Equal(b[:440], code[:440]) {
		t.Error("the boot code is not in the first 440 bytes")
	}
	want := make([]byte, 72)
	copy(want[6:], []byte{0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0})
	sectors := uint32(image.Size()/512 - 1)
	copy(want[18:], []byte{byte(sectors), byte(sectors >> 8), byte(sectors >> 16), byte(sectors >> 24)})
	copy(want[70:], []byte{0x55, 0xAA})
	if !bytes.Equal(b[440:], want) {
		t.Errorf("end of sector 0:\n%x; want\n%x", b[440:], want)
	}
}

func TestOwnReader(t *testing.T) {
	layout, parts, image := system(t, 0)
	table, err := guestgpt.Read(image, image.Size(), gpt.SectorSize)
	if err != nil || table.Backup || len(table.Partitions) != len(parts) {
		t.Fatalf("the guest's reader = %+v, %v", table, err)
	}
	for i, p := range table.Partitions {
		if p.Start != layout.Slots[i].Offset || p.Size != layout.Slots[i].Length || p.GUID != parts[i].GUID.String() {
			t.Errorf("partition %d = %+v; want %+v", i+1, p, layout.Slots[i])
		}
	}
}

// TestRegionsTile proves that every byte of a disk belongs to one region, and each region to what it is named after.
func TestRegionsTile(t *testing.T) {
	for _, size := range []int64{0, 44 << 20, 100<<20 + 512} {
		layout, _, image := system(t, size)
		end := int64(0)
		names := map[string]disk.Region{}
		for _, r := range layout.Regions() {
			if r.Offset != end || r.Length <= 0 {
				t.Errorf("region %+v; want it to start at %d and hold something", r, end)
			}
			if _, ok := names[r.Name]; ok {
				t.Errorf("two regions are named %q", r.Name)
			}
			names[r.Name] = r
			end = r.Offset + r.Length
		}
		if end != image.Size() {
			t.Errorf("regions end at %d of %d", end, image.Size())
		}
		for _, name := range []string{disk.RegionMBR, disk.RegionHeader, disk.RegionEntries, "gap 1", "partition bios",
			"partition esp", "partition root", disk.RegionSlack, disk.RegionBackupEntries, disk.RegionBackupHeader} {
			if _, ok := names[name]; !ok {
				t.Errorf("no region %q in %v", name, layout.Regions())
			}
		}
		at := func(name string, n int) []byte {
			b := make([]byte, n)
			if _, err := image.ReadAt(b, names[name].Offset); err != nil {
				t.Fatal(err)
			}
			return b
		}
		if string(at(disk.RegionHeader, 8)) != "EFI PART" || string(at(disk.RegionBackupHeader, 8)) != "EFI PART" ||
			!bytes.Equal(at(disk.RegionEntries, gpt.EntriesSize), at(disk.RegionBackupEntries, gpt.EntriesSize)) ||
			!bytes.Equal(at("partition root", 4096), random(3<<20, "root")[:4096]) {
			t.Error("a region does not hold what its name says")
		}
		for _, empty := range []string{"gap 1", disk.RegionSlack} {
			if r := names[empty]; !disk.AllZero(at(empty, int(r.Length))) {
				t.Errorf("%s is not all zero", empty)
			}
		}
	}
}

func TestPlanRefusals(t *testing.T) {
	ok := disk.Partition{Name: "a", MinSize: 5 << 20}
	for _, c := range []struct {
		name  string
		parts []disk.Partition
		size  int64
		want  string
	}{
		{"too small", []disk.Partition{ok}, 4 << 20, "need 8388608 bytes (8 MiB)"},
		{"negative", []disk.Partition{ok}, -512, "too small"},
		{"half a sector", []disk.Partition{ok}, 16<<20 + 1, "multiple of the 512-byte sector"},
		{"no size", []disk.Partition{{Name: "a"}}, 0, "has no size"},
		{"no name", []disk.Partition{{MinSize: 1}}, 0, "want a name"},
		{"same name", []disk.Partition{ok, ok}, 0, "want a name no other has"},
		{"too large", []disk.Partition{{Name: "a", MinSize: 1 << 62}}, 0, "too large"},
		{"many", make([]disk.Partition, 129), 0, "at most 128"},
	} {
		if _, err := disk.PlanLayout(c.parts, c.size); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want an error with %q", c.name, err, c.want)
		}
	}
}

func TestAssembleRefusals(t *testing.T) {
	plan := []disk.Partition{{Name: "a", MinSize: 1 << 20}}
	layout, err := disk.PlanLayout(plan, 0)
	if err != nil {
		t.Fatal(err)
	}
	good := disk.Partition{Name: "a", Type: gpt.TypeESP, GUID: gpt.GUID{1}}
	for _, c := range []struct {
		name   string
		change func(*disk.Partition)
		want   string
	}{
		{"other name", func(p *disk.Partition) { p.Name = "b" }, `planned as "a"`},
		{"no type", func(p *disk.Partition) { p.Type = gpt.GUID{} }, "no type"},
		{"no GUID", func(p *disk.Partition) { p.GUID = gpt.GUID{} }, "no GUID"},
		{"grown", func(p *disk.Partition) { p.Content = disk.NewSparse(1<<20 + 1) }, "has grown to 1048577"},
	} {
		p := good
		c.change(&p)
		_, err := layout.Assemble(diskGUID, nil, []disk.Partition{p})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want an error with %q", c.name, err, c.want)
		}
	}
	if _, err := layout.Assemble(diskGUID, nil, nil); err == nil {
		t.Error("a layout of one partition was assembled from none")
	}
	if _, err := layout.Assemble(diskGUID, nil, []disk.Partition{good}); err != nil {
		t.Error(err)
	}
}
