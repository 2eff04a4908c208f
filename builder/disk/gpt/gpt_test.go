package gpt

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const testSectors = 8 << 20 / SectorSize

func testTable() *Table {
	return &Table{
		Disk:    MustParseGUID("01234567-89ab-cdef-0123-456789abcdef"),
		Sectors: testSectors,
		Partitions: []Partition{
			{Type: TypeBIOSBoot, GUID: MustParseGUID("11111111-2222-3333-4444-555555555555"),
				First: 2048, Last: 4095, Name: "bios"},
			{Type: TypeESP, GUID: MustParseGUID("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"), First: 4096, Last: 8191,
				Attributes: AttributeRequired, Name: "esp Grüße 😀"},
			{},
			{Type: TypeRootAMD64, GUID: MustParseGUID("deadbeef-0000-1111-2222-333333333333"), First: 8192, Last: 10239,
				Attributes: AttributeReadOnly, Name: strings.Repeat("n", NameUnits)},
		},
	}
}

// lay writes an encoded table on a blank disk.
func lay(t testing.TB, table *Table, bootCode []byte) []byte {
	t.Helper()
	e, err := table.Encode(bootCode)
	if err != nil {
		t.Fatal(err)
	}
	disk := make([]byte, table.Sectors*SectorSize)
	copy(disk, e.MBR)
	copy(disk[SectorSize:], e.Header)
	copy(disk[entriesLBA*SectorSize:], e.Entries)
	copy(disk[e.BackupEntries*SectorSize:], e.Entries)
	copy(disk[(table.Sectors-1)*SectorSize:], e.BackupHeader)
	return disk
}

func TestForeignReaders(t *testing.T) {
	table := testTable()
	bootCode := bytes.Repeat([]byte{0x90}, BootCode)
	disk := lay(t, table, bootCode)
	if !bytes.Equal(disk[:BootCode], bootCode) {
		t.Error("the boot code is not at the start of the disk")
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "gdisk", "sgdisk", "-v", path); !strings.Contains(out, "No problems found.") ||
		strings.Contains(out, "Caution") || strings.Contains(out, "Warning") {
		t.Errorf("sgdisk -v:\n%s", out)
	}
	var got struct {
		PartitionTable struct {
			Label, ID         string
			FirstLBA, LastLBA uint64
			Partitions        []struct {
				Start, Size             uint64
				Type, UUID, Name, Attrs string
			}
		}
	}
	if err := json.Unmarshal([]byte(run(t, "fdisk", "sfdisk", "--json", path)), &got); err != nil {
		t.Fatal(err)
	}
	pt := got.PartitionTable
	if pt.Label != "gpt" || !strings.EqualFold(pt.ID, table.Disk.String()) || pt.FirstLBA != FirstUsableLBA ||
		pt.LastLBA != table.LastUsableLBA() || len(pt.Partitions) != 3 {
		t.Fatalf("sfdisk reads %+v", pt)
	}
	attrs := []string{"", "RequiredPartition", "GUID:60"}
	for i, p := range []Partition{table.Partitions[0], table.Partitions[1], table.Partitions[3]} {
		q := pt.Partitions[i]
		if q.Start != p.First || q.Size != p.Last-p.First+1 || !strings.EqualFold(q.Type, p.Type.String()) ||
			!strings.EqualFold(q.UUID, p.GUID.String()) || q.Name != p.Name || q.Attrs != attrs[i] {
			t.Errorf("sfdisk reads %+v; want %+v", q, p)
		}
	}
}

func run(t *testing.T, pkg, program string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if path = filepath.Join("/usr/sbin", program); !exists(path) {
			t.Fatalf("%s is missing: apt-get install %s", program, pkg)
		}
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return string(out)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestReadsSgdisk reads what another program wrote.
func TestReadsSgdisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "gdisk", "sgdisk", "-U", "01234567-89ab-cdef-0123-456789abcdef",
		"-n", "1:2048:4095", "-t", "1:ef02", "-c", "1:bios", "-u", "1:11111111-2222-3333-4444-555555555555",
		"-n", "3:4096:+1M", "-t", "3:8300", "-c", "3:ümläut", "-A", "3:set:60", path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if f.Primary != nil || f.Backup != nil || f.Differ || f.Disk.String() != "01234567-89ab-cdef-0123-456789abcdef" ||
		len(f.Partitions) != 3 {
		t.Fatalf("Read = %+v", f)
	}
	one := Partition{Type: TypeBIOSBoot, GUID: MustParseGUID("11111111-2222-3333-4444-555555555555"),
		First: 2048, Last: 4095, Name: "bios"}
	if f.Partitions[0] != one || f.Partitions[1] != (Partition{}) {
		t.Errorf("partitions 1 and 2 = %+v; want %+v and none", f.Partitions[:2], one)
	}
	if p := f.Partitions[2]; p.Type != TypeLinux || p.Name != "ümläut" || p.Attributes != AttributeReadOnly ||
		p.Offset() != 2<<20 || p.Size() != 1<<20 {
		t.Errorf("partition 3 = %+v", p)
	}
}

func TestReadsItself(t *testing.T) {
	table := testTable()
	f, err := Read(bytes.NewReader(lay(t, table, nil)), testSectors*SectorSize)
	if err != nil {
		t.Fatal(err)
	}
	if !same(&f.Table, table) || f.Primary != nil || f.Backup != nil || f.Differ {
		t.Errorf("Read = %+v; want %+v", f, table)
	}
}

// seal makes the checksum of the header at an offset right again.
func seal(disk []byte, header int) {
	h := disk[header:][:SectorSize]
	clear(h[atHeaderCRC:][:4])
	binary.LittleEndian.PutUint32(h[atHeaderCRC:], crc32.ChecksumIEEE(h[:headerSize]))
}

// sealEntries does so for the primary entries and header.
func sealEntries(disk []byte) {
	sum := crc32.ChecksumIEEE(disk[entriesLBA*SectorSize:][:EntriesSize])
	binary.LittleEndian.PutUint32(disk[SectorSize+atEntriesCRC:], sum)
	seal(disk, SectorSize)
}

func TestDamage(t *testing.T) {
	const backup = (testSectors - 1) * SectorSize
	entry := entriesLBA * SectorSize
	u32 := func(at int, v uint32) func([]byte) {
		return func(d []byte) { binary.LittleEndian.PutUint32(d[SectorSize+at:], v); seal(d, SectorSize) }
	}
	u64 := func(at int, v uint64) func([]byte) {
		return func(d []byte) { binary.LittleEndian.PutUint64(d[SectorSize+at:], v); seal(d, SectorSize) }
	}
	for _, c := range []struct {
		name   string
		damage func([]byte)
		want   string // in the error of the primary copy
	}{
		{"signature", func(d []byte) { d[SectorSize] ^= 1 }, "no signature"},
		{"header checksum", func(d []byte) { d[SectorSize+atDiskGUID] ^= 1 }, "header checksum"},
		{"entries checksum", func(d []byte) { d[entry+atName] ^= 1 }, "checksum of the entries"},
		{"revision", u32(atRevision, 0x20000), "revision"},
		{"header too small", u32(atHeaderSize, 91), "header of 91"},
		{"header too large", u32(atHeaderSize, 513), "header of 513"},
		{"other place", u64(atMyLBA, 2), "says it is at sector 2"},
		{"usable reversed", u64(atFirstUsable, testSectors-40), "usable sectors"},
		{"usable beyond the disk", u64(atLastUsable, testSectors), "usable sectors"},
		{"entry size", u32(atEntrySize, 130), "entries of 130"},
		{"entry size of 2 GiB", u32(atEntrySize, 1<<31), "entries of"},
		{"4 billion entries", u32(atEntryCount, 0xFFFFFFFF), "entries, at most"},
		{"entries beyond the disk", u64(atEntriesLBA, 1<<63), "entries at sector"},
		{"entries in the header", u64(atEntriesLBA, 1), "entries at sector"},
		{"entries in the data", u64(atEntriesLBA, 5000), "lie in the usable"},
		{"partition reversed", func(d []byte) {
			binary.LittleEndian.PutUint64(d[entry+atLast:], 2047)
			sealEntries(d)
		}, ErrOutside.Error()},
		{"partition over the table", func(d []byte) {
			binary.LittleEndian.PutUint64(d[entry+atFirst:], 1)
			sealEntries(d)
		}, ErrOutside.Error()},
		{"overlap", func(d []byte) {
			binary.LittleEndian.PutUint64(d[entry+atLast:], 5000)
			sealEntries(d)
		}, ErrOverlap.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := testTable()
			disk := lay(t, table, nil)
			c.damage(disk)
			f, err := Read(bytes.NewReader(disk), int64(len(disk)))
			if err != nil {
				t.Fatal(err)
			}
			if !errors.Is(f.Primary, ErrDamaged) || !strings.Contains(f.Primary.Error(), c.want) {
				t.Errorf("primary: %v; want %v with %q", f.Primary, ErrDamaged, c.want)
			}
			if f.Backup != nil || !same(&f.Table, table) {
				t.Errorf("the backup does not stand in: %v, %+v", f.Backup, f.Table)
			}
			disk[backup+atHeaderCRC] ^= 1
			if _, err := Read(bytes.NewReader(disk), int64(len(disk))); !errors.Is(err, ErrDamaged) {
				t.Errorf("both damaged: %v; want %v", err, ErrDamaged)
			}
		})
	}
}

func TestDiffer(t *testing.T) {
	disk := lay(t, testTable(), nil)
	disk[entriesLBA*SectorSize+atName] = 'X'
	sealEntries(disk)
	f, err := Read(bytes.NewReader(disk), int64(len(disk)))
	if err != nil || !f.Differ || f.Partitions[0].Name != "Xios" {
		t.Errorf("Read = %+v, %v; want the primary copy and Differ", f, err)
	}
}

func TestNoTable(t *testing.T) {
	for _, size := range []int{0, 100, MinSectors*SectorSize - 1, MinSectors * SectorSize, 1 << 20} {
		if _, err := Read(bytes.NewReader(make([]byte, size)), int64(size)); !errors.Is(err, ErrNoTable) {
			t.Errorf("Read of %d zeros: %v; want %v", size, err, ErrNoTable)
		}
	}
	// A disk that is shorter than it says is an error of the disk, not a damaged table.
	if _, err := Read(bytes.NewReader(make([]byte, 100)), 1<<20); err == nil || errors.Is(err, ErrNoTable) {
		t.Errorf("Read of a short disk: %v", err)
	}
}

func TestEncodeRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Table)
		want   string
	}{
		{"no disk GUID", func(t *Table) { t.Disk = GUID{} }, "no GUID"},
		{"no GUID", func(t *Table) { t.Partitions[0].GUID = GUID{} }, "no GUID"},
		{"same GUID", func(t *Table) { t.Partitions[0].GUID = t.Partitions[1].GUID }, "same GUID"},
		{"long name", func(t *Table) { t.Partitions[0].Name = strings.Repeat("😀", 19) }, "UTF-16 units"},
		{"bad name", func(t *Table) { t.Partitions[0].Name = "\xff" }, "not text"},
		{"overlap", func(t *Table) { t.Partitions[0].Last = 4096 }, "overlap"},
		{"before the data", func(t *Table) { t.Partitions[0].First = 33 }, "outside"},
		{"in the backup", func(t *Table) { t.Partitions[3].Last = t.Sectors - 33 }, "outside"},
		{"small disk", func(t *Table) { t.Sectors = MinSectors - 1 }, "want"},
		{"large disk", func(t *Table) { t.Sectors = MaxSectors + 1 }, "want"},
		{"129 partitions", func(t *Table) { t.Partitions = make([]Partition, 129) }, "at most 128"},
	} {
		table := testTable()
		c.change(table)
		if _, err := table.Encode(nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want an error with %q", c.name, err, c.want)
		}
	}
	if _, err := testTable().Encode(make([]byte, BootCode+1)); err == nil {
		t.Error("boot code of 441 bytes was taken: it would run over the disk signature")
	}
}

func TestGUID(t *testing.T) {
	const text = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	g, err := ParseGUID(strings.ToUpper(text))
	if err != nil || g.String() != text {
		t.Errorf("ParseGUID(%s) = %s, %v", text, g, err)
	}
	// UEFI 2.10 appendix A gives the bytes of the ESP type on disk.
	disk := g.swapped()
	if got, want := hex.EncodeToString(disk[:]), "28732ac11ff8d211ba4b00a0c93ec93b"; got != want {
		t.Errorf("on disk %s; want %s", got, want)
	}
	for _, bad := range []string{"", text[1:], text + "0", "x" + text[1:], strings.Replace(text, "-", "x", 1)} {
		if g, err := ParseGUID(bad); err == nil {
			t.Errorf("ParseGUID(%q) = %s; want an error", bad, g)
		}
	}
}

// FuzzGPT lays any header and any entries on a small disk, with checksums made right so that what lies behind them is
// reached. Whatever is accepted must be sound, and must survive being written and read again.
func FuzzGPT(f *testing.F) {
	small := &Table{Disk: GUID{1}, Sectors: MinSectors + 10, Partitions: []Partition{
		{Type: GUID{1}, GUID: GUID{2}, First: FirstUsableLBA, Last: FirstUsableLBA + 3, Name: "a"},
		{Type: GUID{1}, GUID: GUID{3}, First: FirstUsableLBA + 4, Last: FirstUsableLBA + 5, Name: "b"}}}
	e, err := small.Encode(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.Header[:headerSize], e.Entries[:2*EntrySize], true)
	f.Add(e.Header[:headerSize], e.Entries[:2*EntrySize], false)
	f.Add([]byte{}, []byte{}, true)
	f.Fuzz(func(t *testing.T, header, entries []byte, fix bool) {
		b := make([]byte, small.Sectors*SectorSize)
		copy(b[SectorSize:2*SectorSize], header)
		copy(b[entriesLBA*SectorSize:], entries)
		if fix {
			h := b[SectorSize:]
			size := uint64(binary.LittleEndian.Uint32(h[atEntryCount:])) * uint64(binary.LittleEndian.Uint32(h[atEntrySize:]))
			at := binary.LittleEndian.Uint64(h[atEntriesLBA:])
			if at < uint64(len(b))/SectorSize && size <= uint64(len(b))-at*SectorSize {
				binary.LittleEndian.PutUint32(h[atEntriesCRC:], crc32.ChecksumIEEE(b[at*SectorSize:][:size]))
			}
			seal(b, SectorSize)
		}
		found, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		if found.Primary != nil && found.Backup != nil {
			t.Fatal("a table from two damaged copies")
		}
		for _, p := range found.Partitions {
			if p.Type != (GUID{}) && (p.Offset() < 0 || p.Size() <= 0 || p.Offset()+p.Size() > int64(len(b))) {
				t.Fatalf("partition outside the disk: %+v", p)
			}
		}
		e, err := found.Table.Encode(nil)
		if err != nil {
			return // sound but not to be written: a zero GUID, more than 128 entries, other usable sectors
		}
		disk := make([]byte, len(b))
		copy(disk[SectorSize:], e.Header)
		copy(disk[entriesLBA*SectorSize:], e.Entries)
		back, err := Read(bytes.NewReader(disk), int64(len(disk)))
		if err != nil || back.Primary != nil {
			t.Fatalf("cannot read what was written: %v, %v", err, back)
		}
	})
}
