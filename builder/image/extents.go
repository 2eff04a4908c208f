package image

import (
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/erofs/go-erofs"

	"rempart/builder/disk"
	"rempart/builder/disk/fat"
	"rempart/builder/master"
)

// locate says where on the finished disk the content of each file lies. It is read from the disk, not from the plan:
// the libraries that lay files out tell nobody where.
func locate(image io.ReaderAt, m *master.Manifest) error {
	places := map[string]master.Region{}
	for _, r := range m.Disk.Regions {
		places[r.Name] = r
	}
	section := func(partition string) (master.Region, *io.SectionReader) {
		r := places[disk.RegionPartition+partition]
		return r, io.NewSectionReader(image, r.Offset, r.Length)
	}
	region, reader := section(partitionRoot)
	root, err := erofs.Open(reader)
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	err = locateAll(m.Root, region.Offset, func(name string) (all []master.Extent, err error) {
		info, err := fs.Stat(root, name)
		if err != nil {
			return nil, err
		}
		ranger, ok := info.(interface{ DataRange() []erofs.DataRange })
		if !ok {
			return nil, fmt.Errorf("the library does not tell where %T lies", info)
		}
		for _, r := range ranger.DataRange() {
			all = append(all, master.Extent{Offset: r.Offset, Length: r.Size})
		}
		return all, nil
	})
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	region, reader = section(partitionESP)
	boot, err := fat.OpenVolume(reader, region.Length)
	if err != nil {
		return fmt.Errorf("boot partition: %w", err)
	}
	err = locateAll(m.Boot, region.Offset, func(name string) (all []master.Extent, err error) {
		runs, err := boot.Extents(name)
		for _, r := range runs {
			all = append(all, master.Extent(r))
		}
		return all, err
	})
	if err != nil {
		return fmt.Errorf("boot partition: %w", err)
	}
	return nil
}

// locateAll asks find for the extents of the regular files in a partition that begins at base.
func locateAll(files []master.File, base int64, find func(name string) ([]master.Extent, error)) error {
	for i := range files {
		f := &files[i]
		if f.SHA256 == "" || f.Size == 0 {
			continue
		}
		runs, err := find(strings.TrimPrefix(f.Path, "/"))
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		var total int64
		for _, r := range runs {
			if r.Length == 0 {
				continue
			}
			total += r.Length
			f.Extents = append(f.Extents, master.Extent{Offset: base + r.Offset, Length: r.Length})
		}
		if total != f.Size {
			return fmt.Errorf("%s: %d bytes of its %d have a place", f.Path, total, f.Size)
		}
	}
	return nil
}
