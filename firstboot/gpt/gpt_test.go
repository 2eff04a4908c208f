package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const rootGUID = "fe185a3a-f48b-5891-b74e-88fe44f3e250"

// disk makes a 6 MiB disk with three partitions by sgdisk, which is the judge of what a table looks like.
func disk(t testing.TB) []byte {
	t.Helper()
	sgdisk, err := exec.LookPath("sgdisk")
	if err != nil {
		t.Fatal("sgdisk is missing; install the package gdisk")
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 6<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(sgdisk, "-n", "1:2048:+512K", "-t", "1:ef02", "-n", "2:4096:+512K", "-t", "2:ef00",
		"-n", "5:6144:+1M", "-u", "5:"+rootGUID, "-U", "11111111-2222-3333-4444-555555555555", file).CombinedOutput()
	if err != nil {
		t.Fatalf("sgdisk: %v\n%s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadAsSgdiskWrote(t *testing.T) {
	b := disk(t)
	table, err := Read(bytes.NewReader(b), int64(len(b)), 512)
	if err != nil {
		t.Fatal(err)
	}
	if table.Backup || table.DiskGUID != "11111111-2222-3333-4444-555555555555" || len(table.Partitions) != 3 {
		t.Errorf("Read = %+v; want the primary table of 3 partitions", table)
	}
	want := Partition{Number: 5, Type: "0fc63daf-8483-4772-8e79-3d69d8477de4", GUID: rootGUID, Start: 6144 * 512,
		Size: 1 << 20}
	if got, ok, err := table.Find(rootGUID); got != want || !ok || err != nil {
		t.Errorf("Find = %+v, %v, %v; want %+v", got, ok, err, want)
	}
	if _, ok, err := table.Find("00000000-0000-0000-0000-000000000001"); ok || err != nil {
		t.Errorf("Find of a GUID that is not there = %v, %v; want false, nil", ok, err)
	}
}

// reseal makes the header at lba and its entries consistent again after a change.
func reseal(b []byte, lba int) {
	h := b[lba*512:]
	le := binary.LittleEndian
	at, n := int(le.Uint64(h[72:]))*512, int(le.Uint32(h[80:])*le.Uint32(h[84:]))
	if at >= 0 && n >= 0 && at+n <= len(b) {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(b[at:at+n]))
	}
	le.PutUint32(h[16:], 0)
	size := le.Uint32(h[12:])
	if size <= 512 {
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:size]))
	}
}

func TestBrokenPrimary(t *testing.T) {
	whole := disk(t)
	le := binary.LittleEndian
	for name, spoil := range map[string]func(b []byte){
		"signature":          func(b []byte) { b[512] = 0 },
		"revision":           func(b []byte) { b[512+9]++; reseal(b, 1) },
		"header bit":         func(b []byte) { b[512+60] ^= 1 },
		"entry bit":          func(b []byte) { b[1024+3] ^= 1 },
		"header size 0":      func(b []byte) { le.PutUint32(b[512+12:], 0) },
		"header size huge":   func(b []byte) { le.PutUint32(b[512+12:], 1<<31) },
		"wrong place":        func(b []byte) { le.PutUint64(b[512+24:], 7); reseal(b, 1) },
		"usable beyond disk": func(b []byte) { le.PutUint64(b[512+48:], 1<<40); reseal(b, 1) },
		"usable reversed":    func(b []byte) { le.PutUint64(b[512+40:], 9000); le.PutUint64(b[512+48:], 8000); reseal(b, 1) },
		"entries beyond":     func(b []byte) { le.PutUint64(b[512+72:], 1<<62); reseal(b, 1) },
		"entries in header":  func(b []byte) { le.PutUint64(b[512+72:], 1); reseal(b, 1) },
		"no entries":         func(b []byte) { le.PutUint32(b[512+80:], 0); reseal(b, 1) },
		"many entries":       func(b []byte) { le.PutUint32(b[512+80:], 1<<20); reseal(b, 1) },
		"entry size odd":     func(b []byte) { le.PutUint32(b[512+84:], 129); reseal(b, 1) },
		"entry size zero":    func(b []byte) { le.PutUint32(b[512+84:], 0); reseal(b, 1) },
		"partition beyond":   func(b []byte) { le.PutUint64(b[1024+40:], 1<<50); reseal(b, 1) },
		"partition reversed": func(b []byte) { le.PutUint64(b[1024+32:], 6000); reseal(b, 1) },
		"partition on table": func(b []byte) { le.PutUint64(b[1024+32:], 1); reseal(b, 1) },
	} {
		b := bytes.Clone(whole)
		spoil(b)
		table, err := Read(bytes.NewReader(b), int64(len(b)), 512)
		if err != nil {
			t.Errorf("%s: Read = %v; want the backup table", name, err)
			continue
		}
		if _, ok, _ := table.Find(rootGUID); !table.Backup || table.Primary == nil || !ok {
			t.Errorf("%s: Read = %+v; want the backup table with the root", name, table)
		}
		b[len(b)-512] = 0
		if _, err := Read(bytes.NewReader(b), int64(len(b)), 512); !errors.Is(err, ErrNone) {
			t.Errorf("%s and no backup: Read = %v; want ErrNone", name, err)
		}
	}
}

func TestFindTwice(t *testing.T) {
	b := disk(t)
	copy(b[1024+16:1024+32], b[1024+4*128+16:1024+4*128+32])
	reseal(b, 1)
	table, err := Read(bytes.NewReader(b), int64(len(b)), 512)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := table.Find(rootGUID); ok || err == nil {
		t.Errorf("Find of a GUID on two partitions = %v, %v; want an error", ok, err)
	}
}

func TestNoTable(t *testing.T) {
	for _, n := range []int{0, 511, 512, 2048, 1 << 20} {
		if _, err := Read(bytes.NewReader(make([]byte, n)), int64(n), 512); !errors.Is(err, ErrNone) {
			t.Errorf("Read of %d zeros = %v; want ErrNone", n, err)
		}
	}
	if _, err := Read(bytes.NewReader(nil), 1<<40, 512); !errors.Is(err, ErrNone) {
		t.Errorf("Read of a disk shorter than it says = %v; want ErrNone", err)
	}
	if _, err := Read(bytes.NewReader(nil), 1<<20, 513); err == nil {
		t.Error("Read with sectors of 513 bytes = nil; want an error")
	}
}

func FuzzGPT(f *testing.F) {
	b := disk(f)
	head := b[:34*512]
	f.Add(head, true)
	f.Add(head[:1024], false)
	f.Fuzz(func(t *testing.T, head []byte, seal bool) {
		const size = 1 << 20
		b := make([]byte, size)
		copy(b, head)
		if seal && len(head) >= 1024 {
			reseal(b, 1)
		}
		table, err := Read(bytes.NewReader(b), size, 512)
		if err != nil {
			return
		}
		for _, p := range table.Partitions {
			if p.Start < 0 || p.Size <= 0 || p.Start+p.Size > size {
				t.Errorf("partition %+v leaves a disk of %d bytes", p, size)
			}
		}
	})
}
