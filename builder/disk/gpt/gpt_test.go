package gpt

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rempart/firstboot/gpt"
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

// TestOwnReader reads the table as the guest does, and the backup when the primary is gone.
func TestOwnReader(t *testing.T) {
	table := testTable()
	disk := lay(t, table, nil)
	for _, primary := range []bool{true, false} {
		if !primary {
			clear(disk[headerLBA*SectorSize:][:SectorSize])
		}
		got, err := gpt.Read(bytes.NewReader(disk), int64(len(disk)), SectorSize)
		if err != nil || got.Backup == primary || got.DiskGUID != table.Disk.String() || len(got.Partitions) != 3 {
			t.Fatalf("gpt.Read = %+v, %v; want the table, from the primary copy: %v", got, err, primary)
		}
		for i, number := range []int{1, 2, 4} {
			p := table.Partitions[number-1]
			want := gpt.Partition{Number: number, Type: p.Type.String(), GUID: p.GUID.String(), Name: p.Name,
				Start: int64(p.First) * SectorSize, Size: int64(p.Last-p.First+1) * SectorSize}
			if got.Partitions[i] != want {
				t.Errorf("partition %d reads as %+v; want %+v", number, got.Partitions[i], want)
			}
		}
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
