package verify_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/disk/fat"
	"rempart/builder/disk/gpt"
	"rempart/builder/guest/verify"
	"rempart/builder/master"
)

// noise is n bytes that say where they came from.
func noise(n int, seed string) []byte {
	b := make([]byte, n)
	rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(b)
	return b
}

// system is a system disk like a master's: boot code, boot partition, and a root with two files; and its manifest.
func system(t testing.TB) ([]byte, *master.Manifest) {
	t.Helper()
	content := map[string][]byte{"boot/vmlinuz": noise(150_000, "kernel"), "boot/initrd": noise(70_001, "initrd"),
		"boot/grub/grub.cfg": []byte("menuentry\n"), "EFI/BOOT/BOOTX64.EFI": noise(9_000, "loader")}
	var files []fat.File
	for name, b := range content {
		files = append(files, fat.File{Path: name, Size: int64(len(b)), Content: bytes.NewReader(b)})
	}
	o := fat.Options{Label: "RMPBOOT", Serial: 1}
	espSize, err := fat.Size(files, o)
	if err != nil {
		t.Fatal(err)
	}
	parts := []disk.Partition{
		{Name: "bios", MinSize: 60_000, Type: gpt.TypeBIOSBoot, GUID: gpt.GUID{1, 15: 1}},
		{Name: "esp", MinSize: espSize, Type: gpt.TypeESP, GUID: gpt.GUID{1, 15: 2}},
		{Name: "root", MinSize: 1 << 20, Type: gpt.TypeRootAMD64, GUID: gpt.GUID{1, 15: 3}},
	}
	layout, err := disk.PlanLayout(parts, 0)
	if err != nil {
		t.Fatal(err)
	}
	o.HiddenSectors, o.Size = uint32(layout.Slots[1].LBA()), layout.Slots[1].Length
	if parts[1].Content, err = fat.Build(files, o); err != nil {
		t.Fatal(err)
	}
	root := noise(300_000, "root")
	for i, b := range map[int][]byte{0: noise(60_000, "core"), 2: root} {
		parts[i].Content = disk.NewSparse(int64(len(b)))
		if err := parts[i].Content.Put(0, bytes.NewReader(b), int64(len(b))); err != nil {
			t.Fatal(err)
		}
	}
	image, err := layout.Assemble(gpt.GUID{2, 15: 2}, noise(440, "boot code"), parts)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, image.Size())
	if _, err := io.ReadFull(io.NewSectionReader(image, 0, image.Size()), b); err != nil {
		t.Fatal(err)
	}
	m := &master.Manifest{Format: master.Format, Disk: master.Disk{Size: layout.Size, Block: master.BlockSize}}
	for _, r := range layout.Regions() {
		m.Disk.Regions = append(m.Disk.Regions, master.Region{Name: r.Name, Offset: r.Offset, Length: r.Length,
			SHA256: digest(b[r.Offset : r.Offset+r.Length])})
	}
	if m.Disk.Blocks, err = disk.BlockDigests(t.Context(), image, image.Size(), master.BlockSize); err != nil {
		t.Fatal(err)
	}
	esp := layout.Slots[1]
	volume, err := fat.OpenVolume(io.NewSectionReader(image, esp.Offset, esp.Length), esp.Length)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range content {
		runs, err := volume.Extents(name)
		if err != nil || len(runs) != 1 {
			t.Fatalf("%s lies at %v, %v", name, runs, err)
		}
		m.Boot = append(m.Boot, master.File{Path: "/" + name, Size: int64(len(b)), SHA256: digest(b), Origin: "test",
			Extents: []master.Extent{{Offset: esp.Offset + runs[0].Offset, Length: runs[0].Length}}})
	}
	at := layout.Slots[2].Offset
	for _, f := range []struct {
		name     string
		from, to int64
	}{{"/bin/a", 4096, 100_000}, {"/bin/b", 100_000, 250_000}, {"/etc/c", 260_000, 260_010}} {
		m.Root = append(m.Root, master.File{Path: f.name, Size: f.to - f.from, SHA256: digest(root[f.from:f.to]),
			Extents: []master.Extent{{Offset: at + f.from, Length: f.to - f.from}}})
	}
	encoded, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if m, err = master.ReadManifest(bytes.NewReader(encoded)); err != nil {
		t.Fatal(err)
	}
	return b, m
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// short names what was found: "changed partition esp /boot/vmlinuz".
func short(s *verify.System) (all []string) {
	for _, d := range s.Differences {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s", d.Kind, d.Region, d.Path)))
	}
	slices.Sort(all)
	return all
}

// TestFlips changes one byte in each of the regions of a disk, 1,000 times, which makes 10,000: each is found, at its
// place, in its region, and nothing else is.
func TestFlips(t *testing.T) {
	whole, m := system(t)
	original := bytes.Clone(whole)
	if n := len(m.Disk.Regions); n != 10 {
		t.Fatalf("the disk has %d regions; want 10, to make 10,000 flips", n)
	}
	r := rand.New(rand.NewPCG(5, 3))
	for i := range 1000 {
		flips := map[string]int64{}
		for _, region := range m.Disk.Regions {
			at := region.Offset + r.Int64N(region.Length)
			if i%3 == 0 { // where data is, not only the zeros around it
				at = region.Offset + r.Int64N(min(region.Length, 400_000))
			}
			flips[region.Name] = at
			whole[at] ^= byte(1) << r.IntN(8)
		}
		var own io.ReaderAt
		if i%2 == 0 {
			own = bytes.NewReader(original)
		}
		s, err := verify.CompareSystem(t.Context(), bytes.NewReader(whole), int64(len(whole)), m, own)
		for _, at := range flips {
			whole[at] = original[at]
		}
		if err != nil {
			t.Fatal(err)
		}
		checkFlips(t, m, flips, s)
		if t.Failed() {
			t.FailNow()
		}
	}
	if s, err := verify.CompareSystem(t.Context(), bytes.NewReader(whole), int64(len(whole)), m, nil); err != nil ||
		!s.IsClean() {
		t.Errorf("the disk as it was: %q, %v; want nothing", short(s), err)
	}
}

// checkFlips wants each flip to be found once, by its region.
func checkFlips(t *testing.T, m *master.Manifest, flips map[string]int64, s *verify.System) {
	t.Helper()
	found := map[string]int{}
	for _, d := range s.Differences {
		if d.Kind != verify.Changed {
			continue // a changed directory may hide and show names
		}
		found[d.Region]++
		at := flips[d.Region]
		var path string
		for _, f := range slices.Concat(m.Boot, m.Root) {
			for _, e := range f.Extents {
				if at >= e.Offset && at < e.Offset+e.Length {
					path = f.Path
				}
			}
		}
		placed := slices.ContainsFunc(d.Ranges, func(g verify.Range) bool {
			return at >= g.Offset && at < g.Offset+g.Length && (!s.Exact || g == verify.Range{Offset: at, Length: 1})
		})
		if d.Path != path || !placed {
			t.Errorf("the flip at %d of %q, file %q, was found as %+v", at, d.Region, path, d)
		}
	}
	for name, at := range flips {
		if found[name] != 1 {
			t.Errorf("the flip at %d of %q was found %d times: %q", at, name, found[name], short(s))
		}
	}
}

// TestImplants does what somebody who can write to a system disk would.
func TestImplants(t *testing.T) {
	whole, m := system(t)
	region := func(name string) master.Region {
		i := slices.IndexFunc(m.Disk.Regions, func(r master.Region) bool { return r.Name == name })
		return m.Disk.Regions[i]
	}
	put := func(b []byte, at int64, what string) { copy(b[at:], what) }
	for _, tt := range []struct {
		name  string
		plant func(b []byte) []byte
		want  []string
	}{
		{"nothing", func(b []byte) []byte { return b }, nil},
		{"boot code", func(b []byte) []byte { put(b, 10, "evil"); return b }, []string{"changed mbr"}},
		{"both tables", func(b []byte) []byte {
			put(b, 1100, "evil")
			put(b, int64(len(b))-512-16000, "evil")
			return b
		}, []string{"changed backup entries", "changed gpt entries"}},
		{"a gap", func(b []byte) []byte { put(b, 500_000, "evil"); return b }, []string{"changed gap 1"}},
		{"the slack", func(b []byte) []byte { put(b, region("slack").Offset+9, "evil"); return b },
			[]string{"changed slack"}},
		{"GRUB's core and its menu", func(b []byte) []byte {
			put(b, region("partition bios").Offset+70, "evil")
			at := bytes.Index(b, []byte("menuentry\n"))
			put(b, int64(at), "evil")
			return b
		}, []string{"changed partition bios", "changed partition esp /boot/grub/grub.cfg"}},
		{"two files beside each other", func(b []byte) []byte {
			put(b, region("partition root").Offset+99_990, "evil")
			put(b, region("partition root").Offset+100_010, "evil")
			return b
		}, []string{"changed partition root /bin/a", "changed partition root /bin/b"}},
		{"a disk with a tail", func(b []byte) []byte { return append(b, "\x00\x00evil"...) }, []string{"past the end"}},
		{"a disk with a blank tail", func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) }, nil},
		{"a disk cut off", func(b []byte) []byte { return b[:len(b)-16000] }, []string{"short"}},
		{"nothing but zeros", func(b []byte) []byte { return make([]byte, len(b)) }, []string{
			"changed backup entries", "changed backup header", "changed gpt entries", "changed gpt header", "changed mbr",
			"changed partition bios", "changed partition esp", "changed partition esp /EFI/BOOT/BOOTX64.EFI",
			"changed partition esp /boot/grub/grub.cfg", "changed partition esp /boot/initrd",
			"changed partition esp /boot/vmlinuz", "changed partition root", "changed partition root /bin/a",
			"changed partition root /bin/b", "changed partition root /etc/c"}},
	} {
		b := tt.plant(bytes.Clone(whole))
		s, err := verify.CompareSystem(t.Context(), bytes.NewReader(b), int64(len(b)), m, bytes.NewReader(whole))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		} else if got := short(s); !slices.Equal(got, tt.want) {
			t.Errorf("%s: found %q; want %q", tt.name, got, tt.want)
		}
		rough, err := verify.CompareSystem(t.Context(), bytes.NewReader(b), int64(len(b)), m, nil)
		if err != nil || rough.IsClean() != (tt.want == nil) {
			t.Errorf("%s, without the master's disk: found %q, %v; want %q", tt.name, short(rough), err, tt.want)
		}
	}
}

// bootPartition is a copy of a disk, and the boot partition in it.
func bootPartition(whole []byte, m *master.Manifest) (b, volume []byte) {
	i := slices.IndexFunc(m.Disk.Regions, func(r master.Region) bool { return r.Name == "partition esp" })
	esp := m.Disk.Regions[i]
	b = bytes.Clone(whole)
	return b, b[esp.Offset : esp.Offset+esp.Length]
}

// TestAddedBootFile lays a file beside the master's into the boot partition, and takes one away.
func TestAddedBootFile(t *testing.T) {
	whole, m := system(t)
	b, volume := bootPartition(whole, m)
	at := bytes.Index(volume, []byte("BOOTX64 EFI"))
	copy(volume[at:], "BOOTIA32EFI") // a rename: one name gone, another there
	s, err := verify.CompareSystem(t.Context(), bytes.NewReader(b), int64(len(b)), m, bytes.NewReader(whole))
	want := []string{"added partition esp /EFI/BOOT/BOOTIA32.EFI", "changed partition esp",
		"missing partition esp /EFI/BOOT/BOOTX64.EFI"}
	if got := short(s); err != nil || !slices.Equal(got, want) {
		t.Errorf("found %q, %v; want %q", got, err, want)
	}
}

// TestAddedInPieces adds a boot file whose second cluster lies before its first.
func TestAddedInPieces(t *testing.T) {
	whole, m := system(t)
	b, volume := bootPartition(whole, m)
	entry := volume[bytes.Index(volume, []byte("BOOTX64 EFI")):]
	copy(entry, "BOOTIA32EFI")
	le := binary.LittleEndian
	table := volume[int(le.Uint16(volume[14:]))*int(le.Uint16(volume[11:])):]
	first := le.Uint16(entry[26:])
	le.PutUint16(entry[26:], first+1)
	le.PutUint32(table[4*(first+1):], uint32(first))
	le.PutUint32(table[4*first:], uint32(first)+2)
	s, err := verify.CompareSystem(t.Context(), bytes.NewReader(b), int64(len(b)), m, bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range s.Differences {
		if d.Kind != verify.Added {
			continue
		}
		var total int64
		for _, r := range d.Ranges {
			total += r.Length
		}
		if len(d.Ranges) != 3 || d.Ranges[1].Offset >= d.Ranges[0].Offset || total != 9000 {
			t.Errorf("the added file of 9000 bytes, in three pieces, lies at %+v", d.Ranges)
		}
		return
	}
	t.Errorf("found %q; want an added file", short(s))
}

// TestManyAdded fills the boot partition with names.
func TestManyAdded(t *testing.T) {
	whole, m := system(t)
	b, volume := bootPartition(whole, m)
	// A folder gets the clusters of a large file, whose content is names now.
	kernel := bytes.Index(volume, noise(150_000, "kernel"))
	file := volume[bytes.Index(volume, []byte("VMLINUZ    ")):]
	folder := volume[bytes.Index(volume, []byte("BOOT       \x10")):]
	copy(folder[26:28], file[26:28])
	const names = 150_000 / 32
	for n := range names {
		e := volume[kernel+32*n:][:32]
		clear(e)
		copy(e, fmt.Sprintf("%08dEFI", n))
	}
	volume[kernel+32*names] = 0 // the end
	s, err := verify.CompareSystem(t.Context(), bytes.NewReader(b), int64(len(b)), m, bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	added, more := 0, int64(0)
	for _, d := range s.Differences {
		if d.Kind == verify.Added {
			added, more = added+1, more+d.More
		}
	}
	if added != 1001 || more != names-1000 {
		t.Errorf("%d files added, %d more; want 1000 and one for the rest of %d", added, more, names)
	}
}

// TestWrongMaster gives as the master's own disk one that is not.
func TestWrongMaster(t *testing.T) {
	whole, m := system(t)
	b := bytes.Clone(whole)
	b[500_000]++
	_, err := verify.CompareSystem(t.Context(), bytes.NewReader(b), int64(len(b)), m, bytes.NewReader(b))
	if err == nil || !strings.Contains(err.Error(), "is not what the master's manifest says") {
		t.Errorf("a master whose own disk is changed: %v; want an error", err)
	}
}

func BenchmarkCompareSystem(b *testing.B) {
	whole, m := system(b)
	data := noise(len(whole), "full")
	reader := bytes.NewReader(data)
	var err error
	if m.Disk.Blocks, err = disk.BlockDigests(b.Context(), reader, reader.Size(), m.Disk.Block); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		s, err := verify.CompareSystem(b.Context(), reader, reader.Size(), m, nil)
		if err != nil || !s.IsClean() {
			b.Fatal(s, err)
		}
	}
}
