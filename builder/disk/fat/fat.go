// Package fat writes a FAT32 filesystem as a sparse image: the EFI system partition of a master, which UEFI firmware,
// GRUB, pygrub and Linux all read. It also reads FAT12, FAT16 and FAT32, as anybody made them. It follows Microsoft's
// "FAT32 File System Specification" 1.03 (2000), which the UEFI Specification names as its reference, with VFAT long
// names.
//
// The image depends on the arguments alone: the serial number is given, every time is the FAT epoch, files lie in the
// order of their paths whatever the order they are given in. Each file is one contiguous run.
//
// What it deliberately does not do: change a filesystem, write FAT12 and FAT16, sectors other than 512 bytes,
// attributes or times, repair, and code pages (a name that is not plain ASCII has a long name to say so).
package fat

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"

	"rempart/builder/disk"
)

const (
	sectorSize = 512
	// reservedSectors is what mkfs.fat and Windows both take for FAT32: boot sector, FSInfo, their backups, room.
	reservedSectors = 32
	fatCount        = 2
	entrySize       = 4 // bytes of one FAT entry

	// minClusters is the fewest clusters at which a driver takes a volume for FAT32 (section "FAT Type
	// Determination"), plus the 16 the same section advises to stay away from the limit: some drivers are off by one.
	minClusters = 65525 + 16
	// maxClusters: the highest cluster number is 0x0FFFFFF6, the first is 2.
	maxClusters = 0x0FFFFFF6 - 1

	firstCluster = 2
	maxFileSize  = math.MaxUint32 // DIR_FileSize is 32 bits
	maxSectors   = math.MaxUint32 // BPB_TotSec32 is 32 bits

	// sizeUnit divides the size of a volume whose size is ours to choose: the page size.
	sizeUnit = 4096
)

// File is one file, or directory, of the volume.
type File struct {
	Path    string // slash-separated, relative: "EFI/BOOT/BOOTX64.EFI"; directories on the way are made as needed
	Dir     bool   // an (empty) directory: Size and Content do not matter
	Size    int64  // bytes, 0 to 4 GiB - 1
	Content io.ReaderAt
}

// Options are what a volume needs besides files.
type Options struct {
	Label  string // volume label: 1 to 11 bytes of printable upper-case ASCII
	Serial uint32 // volume serial number
	// HiddenSectors is the first sector of the partition on its disk. Planning may leave it 0.
	HiddenSectors uint32
	// Size is the size of the volume in bytes, a multiple of 512. 0 is the smallest that holds the files and is
	// still FAT32 (about 33 MiB).
	Size int64
}

// Size is the size in bytes that Build gives the volume: that of the options, or the smallest. It needs no contents,
// so that the partition can be placed before they are final.
func Size(files []File, o Options) (int64, error) {
	root, err := buildTree(files)
	if err != nil {
		return 0, fmt.Errorf("fat: %w", err)
	}
	g, err := plan(root, o)
	if err != nil {
		return 0, fmt.Errorf("fat: %w", err)
	}
	return int64(g.sectors) * sectorSize, nil
}

// Build returns the volume as an image. Contents are not read before the image is. It fails on a path, name, label
// or size FAT cannot hold, on names that differ by case only, and when the files do not fit the size asked for.
func Build(files []File, o Options) (*disk.Sparse, error) {
	label, err := checkLabel(o.Label)
	if err != nil {
		return nil, fmt.Errorf("fat: %w", err)
	}
	root, err := buildTree(files)
	if err != nil {
		return nil, fmt.Errorf("fat: %w", err)
	}
	g, err := plan(root, o)
	if err != nil {
		return nil, fmt.Errorf("fat: %w", err)
	}
	image, err := write(root, g, label, o)
	if err != nil {
		return nil, fmt.Errorf("fat: %w", err)
	}
	return image, nil
}

// checkLabel returns the label as the 11 bytes on disk.
func checkLabel(label string) (string, error) {
	if label == "" || len(label) > shortLength || strings.TrimSpace(label) != label {
		return "", fmt.Errorf("volume label %q: want 1 to %d characters and no space at the ends", label, shortLength)
	}
	for _, c := range []byte(label) {
		if c != ' ' && !shortByte(c) {
			return "", fmt.Errorf("volume label %q: %q is not allowed; use upper-case letters, digits, - and _", label, c)
		}
	}
	return label + strings.Repeat(" ", shortLength-len(label)), nil
}

// geometry is how a volume is divided.
type geometry struct {
	sectors           uint32
	sectorsPerCluster uint32
	fatSectors        uint32 // of one FAT
	clusters          uint32
	used              uint32 // clusters taken by files and directories
}

func (g geometry) clusterSize() int64 { return int64(g.sectorsPerCluster) * sectorSize }

func (g geometry) dataSector() uint32 { return reservedSectors + fatCount*g.fatSectors }

// offset is where a cluster starts, in bytes.
func (g geometry) offset(cluster uint32) int64 {
	return int64(g.dataSector())*sectorSize + int64(cluster-firstCluster)*g.clusterSize()
}

// clusterSizes is DskTableFAT32 of section "FAT Volume Initialization": the sectors per cluster of volumes up to a
// number of sectors.
var clusterSizes = []struct{ sectors, perCluster int64 }{
	{532480, 1},      // 260 MiB: 512 bytes
	{16777216, 8},    // 8 GiB: 4 KiB
	{33554432, 16},   // 16 GiB: 8 KiB
	{67108864, 32},   // 32 GiB: 16 KiB
	{maxSectors, 64}, // more: 32 KiB
}

// plan chooses the size of the volume and divides it.
func plan(root *node, o Options) (geometry, error) {
	if o.Size < 0 || o.Size%sectorSize != 0 || o.Size/sectorSize > maxSectors {
		return geometry{}, fmt.Errorf("a volume of %d bytes: want a multiple of %d up to 2 TiB, or 0", o.Size, sectorSize)
	}
	smallest := geometry{}
	for _, row := range clusterSizes {
		used := root.clusters(row.perCluster * sectorSize)
		if used > maxClusters {
			continue
		}
		sectors := sectorsFor(max(used, minClusters), row.perCluster)
		if sectors > row.sectors {
			continue
		}
		smallest = divide(sectors, row.perCluster, used)
		break
	}
	if smallest.sectors == 0 {
		return geometry{}, fmt.Errorf("the files are too large for a FAT32 volume")
	}
	if o.Size == 0 {
		return smallest, nil
	}
	sectors := o.Size / sectorSize
	for _, row := range clusterSizes {
		if sectors > row.sectors {
			continue
		}
		g := divide(sectors, row.perCluster, root.clusters(row.perCluster*sectorSize))
		if g.clusters < max(g.used, minClusters) {
			break
		}
		return g, nil
	}
	return geometry{}, fmt.Errorf("a volume of %d bytes is too small, the files need %d",
		o.Size, int64(smallest.sectors)*sectorSize)
}

// sectorsFor is the smallest size in sectors, a multiple of sizeUnit, that has that many clusters.
func sectorsFor(clusters, perCluster int64) int64 {
	const unit = sizeUnit / sectorSize
	sectors := reservedSectors + fatCount*fatSectors(clusters) + clusters*perCluster
	sectors = (sectors + unit - 1) / unit * unit
	// Rounding up may add clusters that need another sector of FAT, and so leave one too few for data.
	for int64(divide(sectors, perCluster, 0).clusters) < clusters {
		sectors += unit
	}
	return sectors
}

// divide returns the geometry of a volume: the smallest FATs that cover the clusters left beside them.
func divide(sectors, perCluster, used int64) geometry {
	rest := max(sectors-reservedSectors, 0)
	// Each cluster costs its sectors and two FAT entries; start below and grow.
	fat := fatSectors(rest * sectorSize / (perCluster*sectorSize + fatCount*entrySize))
	clusters := func() int64 { return max(rest-fatCount*fat, 0) / perCluster }
	for fatSectors(clusters()) > fat {
		fat++
	}
	return geometry{sectors: uint32(sectors), sectorsPerCluster: uint32(perCluster), fatSectors: uint32(fat),
		clusters: uint32(clusters()), used: uint32(min(used, math.MaxUint32))}
}

// fatSectors is the size of a FAT for that many clusters, which are numbered from firstCluster.
func fatSectors(clusters int64) int64 {
	return ((clusters+firstCluster)*entrySize + sectorSize - 1) / sectorSize
}

// write lays out the whole volume.
func write(root *node, g geometry, label string, o Options) (*disk.Sparse, error) {
	image := disk.NewSparse(int64(g.sectors) * sectorSize)
	put := func(offset int64, b []byte) error {
		return image.Put(offset, bytes.NewReader(b), int64(len(b)))
	}
	next := uint32(firstCluster)
	root.allocate(&next, g.clusterSize())
	if next-firstCluster != g.used {
		return nil, fmt.Errorf("planned %d clusters, took %d", g.used, next-firstCluster)
	}
	table := newTable(next)
	err := root.walk(func(n *node) error {
		length := n.length(g.clusterSize())
		if length == 0 {
			return nil
		}
		table.chain(n.cluster, uint32((length+g.clusterSize()-1)/g.clusterSize()))
		if n.dir {
			return put(g.offset(n.cluster), n.encode(label))
		}
		return image.Put(g.offset(n.cluster), n.content, n.size)
	})
	if err != nil {
		return nil, err
	}
	for i := range int64(fatCount) {
		if err := put((reservedSectors+i*int64(g.fatSectors))*sectorSize, table); err != nil {
			return nil, err
		}
	}
	boot, info := bootSector(g, label, o), fsInfo(g)
	for _, at := range []int64{0, backupSector} {
		if err := put(at*sectorSize, boot); err != nil {
			return nil, err
		}
		if err := put((at+infoSector)*sectorSize, info); err != nil {
			return nil, err
		}
	}
	return image, nil
}
