// Package master describes a finished master: the manifest that names every byte of the system disk and every file of
// the root, and the software bill of materials. Both are pure functions of what was built: no clock, no random, no
// host name, so that they are as reproducible as the disk itself.
//
// What it deliberately does not do: build masters (package image does), or compare disks with a manifest.
package master

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"rempart/firstboot/contract"
)

// Files of a master's folder.
const (
	RawFile      = "system.raw"
	Qcow2File    = "system.qcow2"
	KernelFile   = "vmlinuz"
	InitrdFile   = "initrd"
	CmdlineFile  = "cmdline"
	ManifestFile = "manifest.json"
	SBOMFile     = "sbom.cdx.json"
)

// Format is the version of the manifest's own form.
const Format = 2

// Manifest says what a master is, down to each byte. Digests are SHA-256 in lower-case hex, sizes and offsets bytes.
type Manifest struct {
	Format   int             `json:"format"`
	Master   contract.Master `json:"master"`
	Lock     string          `json:"lock"`   // digest of the lock's packages as used
	Memory   int64           `json:"memory"` // RAM the profile gives a guest
	State    int64           `json:"state"`  // size of the state disk; 0: none
	Links    []string        `json:"links"`  // in NIC order
	Cmdline  string          `json:"cmdline"`
	Verity   Verity          `json:"verity"`
	Disk     Disk            `json:"disk"`
	Outputs  []Output        `json:"outputs"`
	Boot     []File          `json:"boot"` // files of the boot partition
	Root     []File          `json:"root"` // files of the root
	Packages []Package       `json:"packages"`
	// Image says that this is the disk of another system, not built here: of it nothing is known but its bytes, and a
	// guest of it writes to an overlay. nil: a master that was built.
	Image *Image `json:"image,omitempty"`
}

// Image is what is known of the disk of another system.
type Image struct {
	Firmware []string `json:"firmware"` // ways to boot, the first by default: "bios", "uefi"
}

// Verity is the root's protection.
type Verity struct {
	RootHash   string `json:"root_hash"`
	DataBlocks uint64 `json:"data_blocks"`
	BlockSize  int    `json:"block_size"`
	Partition  string `json:"partition"` // GUID
}

// Disk is the system disk as a guest sees it.
type Disk struct {
	Size    int64    `json:"size"`
	SHA256  string   `json:"sha256"`
	Regions []Region `json:"regions"` // tile the disk from 0 to Size without holes
	// Block and Blocks narrow down where a changed disk changed: the SHA-256 of each Block bytes, one after the other;
	// the last block may be shorter.
	Block  int64  `json:"block"`
	Blocks []byte `json:"blocks"`
}

// BlockSize is the block of the manifests made: of 64 KiB, so that all digests together take 1/2048 of the disk.
const BlockSize = 64 << 10

// Extent is a run of bytes of the disk.
type Extent struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// Region is a named run of bytes: a partition, a table, or a gap that must stay as it is.
type Region struct {
	Name   string `json:"name"`
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"`
}

// Output is a file of the master's folder, other than the manifest itself.
type Output struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// File is a file of the root or of the boot partition.
type File struct {
	Path   string `json:"path"`
	Mode   string `json:"mode"` // as ls writes it: "-rwxr-xr-x"
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256,omitempty"` // of a regular file
	Link   string `json:"link,omitempty"`   // of a symbolic link
	Origin string `json:"origin"`           // who put it there
	// Extents are where the content of a regular file lies on the disk, in order; together they have Size bytes.
	Extents []Extent `json:"extents,omitempty"`
}

// Package is a Debian package of which at least one file is in the master.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	SHA256  string `json:"sha256"` // of the .deb
}

// rootRegion is the name of the region that holds the root and its hash tree.
const rootRegion = "partition root"

// RootRegion is where on the disk the root lies.
func (m *Manifest) RootRegion() (Region, error) {
	for _, r := range m.Disk.Regions {
		if r.Name == rootRegion {
			return r, nil
		}
	}
	return Region{}, fmt.Errorf("%s: no region is named %q", ManifestFile, rootRegion)
}

// maxManifest bounds what ReadManifest takes: a root of 100,000 files needs about a quarter of it.
const maxManifest = 128 << 20

// Encode returns the manifest as a file holds it.
func (m *Manifest) Encode() ([]byte, error) { return encode(m) }

func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetIndent("", " ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// ReadManifest reads what Encode wrote. It refuses unknown fields, other formats, disks whose regions or
// blocks leave holes, and files that lie beyond the disk.
func ReadManifest(r io.Reader) (*Manifest, error) {
	d := json.NewDecoder(io.LimitReader(r, maxManifest))
	d.DisallowUnknownFields()
	var m Manifest
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestFile, err)
	}
	if m.Format != Format {
		return nil, fmt.Errorf("%s: format %d; this rempart reads format %d: build the master again with this rempart",
			ManifestFile, m.Format, Format)
	}
	if err := m.Disk.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestFile, err)
	}
	for _, f := range slices.Concat(m.Boot, m.Root) {
		if err := f.check(m.Disk.Size); err != nil {
			return nil, fmt.Errorf("%s: file %q: %w", ManifestFile, f.Path, err)
		}
	}
	return &m, nil
}

// check tells of regions and blocks that do not cover the disk.
func (d *Disk) check() error {
	var at int64
	for _, r := range d.Regions {
		if r.Offset != at || r.Length <= 0 || r.Length > d.Size-at {
			return fmt.Errorf("region %q has %d bytes at %d; want it to continue at %d of %d", r.Name, r.Length, r.Offset, at,
				d.Size)
		}
		at += r.Length
	}
	if at != d.Size {
		return fmt.Errorf("the regions end at %d; the disk ends at %d", at, d.Size)
	}
	if d.Block < 1 || d.Block > maxBlock || int64(len(d.Blocks)) != (d.Size+d.Block-1)/d.Block*sha256.Size {
		return fmt.Errorf("%d bytes of digests of blocks of %d bytes; want all of the disk's %d bytes, in blocks of 1 to %d",
			len(d.Blocks), d.Block, d.Size, maxBlock)
	}
	return nil
}

// check tells of extents that are not the file's.
func (f *File) check(disk int64) error {
	var total int64
	for _, e := range f.Extents {
		if e.Offset < 0 || e.Length <= 0 || e.Length > disk-e.Offset {
			return fmt.Errorf("%d bytes at %d of a disk of %d", e.Length, e.Offset, disk)
		}
		total += e.Length
		if total > f.Size {
			break
		}
	}
	if len(f.Extents) > 0 && total != f.Size {
		return fmt.Errorf("extents of %d bytes, a size of %d", total, f.Size)
	}
	return nil
}

// maxBlock bounds Disk.Block, which is read at once.
const maxBlock = 16 << 20
