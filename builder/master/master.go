// Package master describes a finished master: the manifest that names every byte of the system disk and every file of
// the root, and the software bill of materials. Both are pure functions of what was built: no clock, no random, no
// host name, so that they are as reproducible as the disk itself.
//
// What it deliberately does not do: build masters (package image does), or compare disks with a manifest.
package master

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

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
const Format = 1

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

// ReadManifest reads what Encode wrote. It refuses unknown fields, other formats, and disks whose regions leave holes.
func ReadManifest(r io.Reader) (*Manifest, error) {
	d := json.NewDecoder(io.LimitReader(r, maxManifest))
	d.DisallowUnknownFields()
	var m Manifest
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestFile, err)
	}
	if m.Format != Format {
		return nil, fmt.Errorf("%s: format %d; this rempart reads format %d", ManifestFile, m.Format, Format)
	}
	var at int64
	for _, r := range m.Disk.Regions {
		if r.Offset != at || r.Length <= 0 || r.Length > m.Disk.Size-at {
			return nil, fmt.Errorf("%s: region %q has %d bytes at %d; want it to continue at %d of %d",
				ManifestFile, r.Name, r.Length, r.Offset, at, m.Disk.Size)
		}
		at += r.Length
	}
	if at != m.Disk.Size {
		return nil, fmt.Errorf("%s: the regions end at %d; the disk ends at %d", ManifestFile, at, m.Disk.Size)
	}
	return &m, nil
}
