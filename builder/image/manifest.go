package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"rempart/builder/disk"
	"rempart/builder/disk/fat"
	"rempart/builder/master"
	"rempart/firstboot/contract"
)

// bootMode is what a file of a FAT volume has instead of permissions: everybody may read it.
const bootMode = fs.FileMode(0o444)

// manifest describes the plan, without the digests that need the finished disk.
func (p *planner) manifest(layout *disk.Layout) (*master.Manifest, error) {
	v := p.root.Verity
	m := &master.Manifest{
		Format: master.Format, Master: p.master, Lock: p.lockDigest(),
		Memory: p.in.Profile.Memory, State: p.in.Profile.State.Size, Cmdline: p.plan.Cmdline,
		Verity: master.Verity{
			RootHash: hex.EncodeToString(v.RootHash[:]), DataBlocks: v.DataBlocks,
			BlockSize: contract.BlockSize, Partition: v.PartitionGUID(),
		},
		Disk: master.Disk{Size: layout.Size},
	}
	for _, l := range p.in.Profile.NICs() {
		m.Links = append(m.Links, l.Name)
	}
	for _, r := range layout.Regions() {
		m.Disk.Regions = append(m.Disk.Regions, master.Region{Name: r.Name, Offset: r.Offset, Length: r.Length})
	}
	for _, f := range p.root.Files {
		file := master.File{
			Path: f.Path, Mode: f.Mode.String(), UID: f.UID, GID: f.GID, Size: f.Size, Link: f.Link, Origin: f.Origin,
		}
		if f.Mode.IsRegular() {
			file.SHA256 = hex.EncodeToString(f.SHA256[:])
		}
		m.Root = append(m.Root, file)
	}
	for _, f := range p.esp {
		sum, err := digestContent(f)
		if err != nil {
			return nil, err
		}
		m.Boot = append(m.Boot, master.File{
			Path: "/" + f.Path, Mode: bootMode.String(), Size: f.Size, SHA256: sum, Origin: p.bootOrigin(f.Path),
		})
	}
	used := slices.Concat(p.root.UsedPackages, p.used)
	for _, pkg := range p.in.Packages {
		if slices.Contains(used, pkg.Name) {
			m.Packages = append(m.Packages, master.Package{
				Name: pkg.Name, Version: pkg.Version, Arch: pkg.Arch, SHA256: pkg.SHA256,
			})
		}
	}
	slices.SortFunc(m.Packages, func(a, b master.Package) int { return strings.Compare(a.Name, b.Name) })
	return m, nil
}

// lockDigest stands for what the lock names: every package with its digest, in the order of their names.
func (p *planner) lockDigest() string {
	var lines []string
	for _, pkg := range p.in.Packages {
		lines = append(lines, fmt.Sprintf("%s %s %s %s\n", pkg.Name, pkg.Version, pkg.Arch, pkg.SHA256))
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "")))
	return hex.EncodeToString(sum[:])
}

func (p *planner) bootOrigin(path string) string {
	if pkg, ok := p.origins[path]; ok {
		return "package " + pkg
	}
	return "rempart"
}

func digestContent(f fat.File) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f.Content, 0, f.Size)); err != nil {
		return "", fmt.Errorf("/%s: %w", f.Path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
