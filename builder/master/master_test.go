package master

import (
	"bytes"
	"os"
	"reflect"
	"strings"
	"testing"

	"rempart/firstboot/contract"
)

func example() *Manifest {
	return &Manifest{
		Format: Format,
		Master: contract.Master{Name: "fw-1", Version: contract.Version, Arch: "amd64", Kernel: "6.1.0-1-cloud-amd64"},
		Memory: 128 << 20, Links: []string{"lan0"}, Cmdline: "quiet",
		Disk: Disk{Size: 1024, SHA256: "aa", Regions: []Region{
			{Name: "mbr", Offset: 0, Length: 512, SHA256: "bb"}, {Name: "rest", Offset: 512, Length: 512, SHA256: "cc"},
		}, Block: 600, Blocks: make([]byte, 64)},
		Root: []File{{Path: "etc/hosts", Mode: "-rw-r--r--", Size: 3, SHA256: "dd", Origin: "rempart",
			Extents: []Extent{{Offset: 700, Length: 2}, {Offset: 1023, Length: 1}}}},
		Packages: []Package{{Name: "libc6", Version: "2.36-9+deb12u1~x", Arch: "amd64", SHA256: "ee"}},
	}
}

func TestManifestRoundTrip(t *testing.T) {
	m := example()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadManifest(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, m) {
		t.Errorf("ReadManifest(Encode(m)) = %+v; want %+v", got, m)
	}
}

func TestReadManifestRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(m *Manifest)
		want   string
	}{
		{"another format", func(m *Manifest) { m.Format = 1 }, "format 1"},
		{"a hole", func(m *Manifest) { m.Disk.Regions[1].Offset = 600 }, `region "rest"`},
		{"an overlap", func(m *Manifest) { m.Disk.Regions[1].Offset = 500 }, `region "rest"`},
		{"past the end", func(m *Manifest) { m.Disk.Regions[1].Length = 1 << 40 }, `region "rest"`},
		{"negative length", func(m *Manifest) { m.Disk.Regions[0].Length = -1 }, `region "mbr"`},
		{"too short", func(m *Manifest) { m.Disk.Regions = m.Disk.Regions[:1] }, "the regions end at 512"},
		{"blocks of no bytes", func(m *Manifest) { m.Disk.Block = 0 }, "in blocks of 1 to"},
		{"a block too few", func(m *Manifest) { m.Disk.Block = 1024; m.Disk.Blocks = nil }, "0 bytes of digests"},
		{"half a digest", func(m *Manifest) { m.Disk.Blocks = m.Disk.Blocks[1:] }, "63 bytes of digests"},
		{"a file beyond the disk", func(m *Manifest) { m.Root[0].Extents[0].Offset = 1023 },
			`file "etc/hosts": 2 bytes at 1023`},
		{"a file before the disk", func(m *Manifest) { m.Root[0].Extents[0].Offset = -1 }, "2 bytes at -1"},
		{"a file that is larger", func(m *Manifest) { m.Root[0].Size = 4 }, "extents of 3 bytes, a size of 4"},
	} {
		m := example()
		tt.change(m)
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadManifest(bytes.NewReader(b)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: ReadManifest = %v; want an error with %q", tt.name, err, tt.want)
		}
	}
	if _, err := ReadManifest(strings.NewReader(`{"format":1,"mystery":2}`)); err == nil {
		t.Error("ReadManifest took an unknown field")
	}
}

func FuzzReadManifest(f *testing.F) {
	b, err := example().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ReadManifest(bytes.NewReader(b))
		if err == nil && m.Disk.Size < 0 {
			t.Errorf("ReadManifest accepted a disk of %d bytes", m.Disk.Size)
		}
	})
}

func TestSBOM(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	first, err := SBOM(example(), map[string][]byte{"firstboot": program})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"pkg:deb/debian/libc6@2.36-9%2Bdeb12u1%7Ex?arch=amd64"`, `"pkg:golang/stdlib@`,
		`"name": "fw-1"`} {
		if !bytes.Contains(first, []byte(want)) {
			t.Errorf("the bill of materials lacks %s:\n%.2000s", want, first)
		}
	}
	second, err := SBOM(example(), map[string][]byte{"firstboot": program})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("SBOM gives different bytes for the same manifest")
	}
	if _, err := SBOM(example(), map[string][]byte{"firstboot": []byte("not a program")}); err == nil {
		t.Error("SBOM took a program that is none")
	}
}
