// Package rootfs builds the root of an appliance: base overlay, firstboot, kernel modules, the few foreign programs
// firstboot calls, and what the profile says; as an EROFS image followed by its hash tree, the content of the root
// partition (firstboot/contract.Verity has the layout).
//
// The sources are laid on each other in this order, a later one replacing an earlier one: base overlay, packages,
// kernel modules, firstboot, generated files, further overlays. Of the packages only the programs of package data
// below and the libraries they need are taken: no documentation, no locales, no maintainer scripts.
//
// What it deliberately does not do: get packages, choose kernel modules, lay out the disk, touch any disk.
package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"rempart/builder/disk"
	"rempart/builder/kernel"
	"rempart/builder/rootfs/erofs"
	"rempart/builder/rootfs/tree"
	"rempart/builder/rootfs/verity"
	"rempart/firstboot/contract"
	"rempart/overlays"
	"rempart/profiles"
)

// Inputs are all that a root depends on.
type Inputs struct {
	Profile   *profiles.Profile
	Master    contract.Master
	Firstboot []byte // the guest program, static
	Shell     []byte // the shell, static; empty: the profile allows none
	Kernel    *kernel.Kernel
	Packages  []Package // at least e2fsprogs and what it depends on; others do no harm
	// Overlays are laid last, in order; Overlay and other sources make their entries.
	Overlays [][]tree.Entry
}

// Root is a finished root.
type Root struct {
	Image        *disk.Sparse // content of the root partition, a multiple of contract.BlockSize
	Verity       contract.Verity
	Files        []File   // everything below the root, in the order of paths
	UsedPackages []string // names of those of Inputs.Packages of which something is in the root, sorted
}

// File is an entry of the root, for the manifest.
type File struct {
	Path   string // with the leading slash
	Mode   fs.FileMode
	UID    int
	GID    int
	Size   int64    // of a regular file
	SHA256 [32]byte // of a regular file
	Link   string   // of a symbolic link
	Origin string   // who put it there: "package libc6", "overlay base", "rempart"
}

// baseOverlay is the overlay every root starts with.
const baseOverlay = "base"

// Build makes a root. All of it is in memory: about the size of the image, once for the files and once for the image.
func Build(ctx context.Context, in Inputs) (*Root, error) {
	t, err := Tree(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	files, err := load(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	image, err := erofs.Write(t)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	r := &Root{Files: files, UsedPackages: usedPackages(in.Packages, files)}
	if r.Image, r.Verity, err = seal(ctx, image); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	return r, nil
}

// seal puts the hash tree behind an image of whole blocks.
func seal(ctx context.Context, image []byte) (*disk.Sparse, contract.Verity, error) {
	v := contract.Verity{DataBlocks: uint64(len(image) / contract.BlockSize)}
	root, hashes, err := verity.Tree(ctx, bytes.NewReader(image), v.DataBlocks)
	if err != nil {
		return nil, v, err
	}
	v.RootHash = root
	superblock := verity.Superblock(v)
	sealed := disk.NewSparse(int64(len(image)) + contract.BlockSize + int64(len(hashes)))
	offset := int64(0)
	for _, part := range []struct {
		content []byte
		room    int
	}{{image, len(image)}, {superblock, contract.BlockSize}, {hashes, len(hashes)}} {
		if err := sealed.Put(offset, bytes.NewReader(part.content), int64(len(part.content))); err != nil {
			return nil, v, err
		}
		offset += int64(part.room)
	}
	return sealed, v, nil
}

// Tree lays all sources on each other.
func Tree(ctx context.Context, in Inputs) (*tree.Tree, error) {
	if len(in.Firstboot) == 0 {
		return nil, errors.New("the guest program is empty")
	}
	if in.Profile.Admin.Shell != (len(in.Shell) > 0) {
		return nil, errors.New("a shell is in the root when the profile allows one, and only then")
	}
	base, err := Overlay(overlays.FS, baseOverlay)
	if err != nil {
		return nil, err
	}
	programs, err := foreign(in.Packages)
	if err != nil {
		return nil, err
	}
	modules, err := in.Kernel.RootSet(ctx, in.Profile.Kernel == profiles.KernelFull)
	if err != nil {
		return nil, err
	}
	generated, err := generate(in, modules)
	if err != nil {
		return nil, err
	}
	vouching, err := authorities(in)
	if err != nil {
		return nil, err
	}
	sources := [][]tree.Entry{base, programs, vouching,
		modules.Entries(relative(contract.ModulesDir) + "/" + in.Kernel.Release), own(in.Firstboot),
		shell(in.Shell), generated}
	t := new(tree.Tree)
	for _, entries := range append(sources, in.Overlays...) {
		for _, e := range entries {
			e.Path = merged(e.Path)
			if err := t.Add(e); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

// relative is an absolute path as trees write it.
func relative(p string) string { return strings.TrimPrefix(p, "/") }

// usedPackages names the packages from which a file came. Entries carry an origin and not the name of their package.
func usedPackages(packages []Package, files []File) []string {
	used := make(map[string]bool)
	for _, f := range files {
		used[f.Origin] = true
	}
	var names []string
	for _, p := range packages {
		if slices.ContainsFunc(p.Entries, func(e tree.Entry) bool { return used[e.Origin] }) {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
