// Package foreign makes a master of the disk of another system, one that rempart did not build: its bytes as they are,
// kept as qcow2, with a manifest that names each of them, and the ways to boot that are found on it.
//
// What it deliberately does not do: change a byte of it, know what packages it is made of, or believe that it does no
// harm: whoever made the image decides what runs in the guest, and nothing on it reaches further.
package foreign

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rempart/builder/disk"
	"rempart/builder/disk/inside"
	"rempart/builder/disk/qcow2"
	"rempart/builder/hypervisor"
	"rempart/builder/master"
	"rempart/firstboot/contract"
)

// sector is the unit of a guest's disk in bytes (virtio-blk); an image that does not end with one is filled with zeros.
const sector = 512

// maxSize bounds the disk in bytes, so that the digests of its blocks stay what a manifest may hold.
const maxSize = 16 << 40

// mostBlocks bounds how many blocks the manifest has digests of: 8 MiB of digests.
const mostBlocks = 256 << 10

// ErrNoBoot is returned for a disk that nothing can be found on to boot it by.
var ErrNoBoot = errors.New("no way to boot was found on it")

// Write writes the master of a disk into a folder that is there and empty. name is what the master is called, arch the
// Debian architecture of its processor. The same disk gives the same bytes. It returns ErrNoBoot for a disk that is not
// one of a system: ways, when there are any, says how it boots, and nothing is looked for.
func Write(ctx context.Context, folder, name, arch string, content *disk.Sparse, ways []hypervisor.Firmware) error {
	size := (content.Size() + sector - 1) / sector * sector
	if size == 0 || size > maxSize {
		return fmt.Errorf("a disk of %d bytes: want 1 to %d", content.Size(), int64(maxSize))
	}
	whole := disk.NewSparse(size)
	if err := whole.PutSparse(0, content); err != nil {
		return err
	}
	_, parts, _, err := inside.Partitions(whole, size)
	if err != nil {
		return err
	}
	if len(ways) == 0 {
		if ways, err = Ways(whole, parts); err != nil {
			return err
		}
	}
	m := &master.Manifest{Format: master.Format, Master: contract.Master{Name: name, Arch: arch},
		Image: &master.Image{}, Disk: master.Disk{Size: size, Regions: regions(parts, size)}}
	for _, w := range ways {
		m.Image.Firmware = append(m.Image.Firmware, string(w))
	}
	block := int64(master.BlockSize)
	for size/block >= mostBlocks {
		block *= 2
	}
	if err := m.Disk.Fill(ctx, whole, block); err != nil {
		return err
	}
	if err := writeDisk(ctx, filepath.Join(folder, master.Qcow2File), whole, m); err != nil {
		return err
	}
	b, err := m.Encode()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, master.ManifestFile), b, 0o600)
}

func writeDisk(ctx context.Context, path string, content *disk.Sparse, m *master.Manifest) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := qcow2.Write(ctx, f, content, qcow2.Options{}); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	sum, err := disk.Digest(ctx, f, 0, info.Size())
	if err != nil {
		return err
	}
	m.Outputs = []master.Output{{Name: filepath.Base(path), Size: info.Size(), SHA256: fmt.Sprintf("%x", sum)}}
	return f.Close()
}

// regions names every byte of a disk once: its partitions, and what is between them. Of partitions that overlap the
// first counts.
func regions(parts []inside.Partition, size int64) []master.Region {
	var all []master.Region
	var taken []master.Extent
	at := int64(0)
	sorted := slices.SortedFunc(slices.Values(parts), func(a, b inside.Partition) int {
		return cmp.Compare(a.Offset, b.Offset)
	})
	for _, p := range sorted {
		if p.Offset < at || p.Size <= 0 || p.Size > size-p.Offset {
			continue
		}
		all = append(all, master.Region{Name: fmt.Sprintf("partition %d", p.Number), Offset: p.Offset, Length: p.Size})
		taken = append(taken, master.Extent{Offset: p.Offset, Length: p.Size})
		at = p.Offset + p.Size
	}
	for i, gap := range master.Around(taken, size) {
		all = append(all, master.Region{Name: fmt.Sprintf("outside partitions %d", i+1), Offset: gap.Offset,
			Length: gap.Length})
	}
	slices.SortFunc(all, func(a, b master.Region) int { return cmp.Compare(a.Offset, b.Offset) })
	return all
}

// Places of a master boot record (UEFI 2.10, 5.2.1): boot code, then the table, then a signature.
const (
	bootCode      = 440 // bytes
	bootSignature = 510
	signature     = 0xaa55
)

// loaders are what UEFI firmware starts from a disk it knows nothing else of (UEFI 2.10, 3.5.1.1).
var loaders = map[string]bool{"bootx64.efi": true, "bootaa64.efi": true}

// Ways are the ways in which a disk can boot, as far as what each firmware looks for is there: BIOS boots what stands
// in the boot sector, UEFI the loader of removable media on a FAT partition. It returns ErrNoBoot when there is none.
func Ways(r io.ReaderAt, parts []inside.Partition) ([]hypervisor.Firmware, error) {
	var ways []hypervisor.Firmware
	b := make([]byte, sector)
	if err := disk.ReadFull(r, b, 0); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint16(b[bootSignature:]) == signature &&
		slices.ContainsFunc(b[:bootCode], func(c byte) bool { return c != 0 }) {
		ways = append(ways, hypervisor.BIOS)
	}
	for _, p := range parts {
		if hasLoader(p.Part(r), p.Size) {
			ways = append(ways, hypervisor.UEFI)
			break
		}
	}
	if len(ways) == 0 {
		return nil, fmt.Errorf("%w: neither boot code in its first sector nor EFI/BOOT/BOOTX64.EFI on a FAT partition; say "+
			"how it boots by --firmware if you know", ErrNoBoot)
	}
	return ways, nil
}

// hasLoader tells whether a partition is FAT with a loader; what cannot be read has none.
func hasLoader(r io.ReaderAt, size int64) bool {
	v, err := inside.OpenVolume(r, size)
	if err != nil || !strings.HasPrefix(v.Kind, "fat") {
		return false
	}
	at := "."
	for _, want := range []string{"efi", "boot"} {
		if at = entry(v, at, func(name string) bool { return name == want }); at == "" {
			return false
		}
	}
	return entry(v, at, func(name string) bool { return loaders[name] }) != ""
}

// entry is the path of the entry of a folder whose name, in lower case, is wanted; empty: there is none.
func entry(v *inside.Volume, folder string, wanted func(name string) bool) string {
	all, err := v.ReadDir(folder)
	if err != nil {
		return ""
	}
	i := slices.IndexFunc(all, func(e fs.DirEntry) bool { return wanted(strings.ToLower(e.Name())) })
	if i < 0 {
		return ""
	}
	return strings.TrimPrefix(folder+"/"+all[i].Name(), "./")
}
