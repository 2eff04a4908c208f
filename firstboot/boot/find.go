package main

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rempart/firstboot/block"
	"rempart/firstboot/contract"
	"rempart/firstboot/gpt"
)

// rootPart is where the root was found.
type rootPart struct {
	disk block.Disk
	node string // device node of the partition, or of the disk when it holds no table
}

// errNotFound means that no disk there is now holds the root.
var errNotFound = errors.New("the root is on none of the disks")

// findRoot looks for the root, and again each time a device comes, until the deadline.
func (s *stage) findRoot(v contract.Verity) (rootPart, error) {
	give := time.Now().Add(deadline)
	told := time.Now().Add(5 * time.Second) // a person at the console should learn what is being waited for
	for {
		found, err := search("/sys", "/dev", v)
		if err == nil || !errors.Is(err, errNotFound) {
			return found, err
		}
		now := time.Now()
		if now.After(give) {
			return rootPart{}, fmt.Errorf("waited %v: %w", deadline, err)
		}
		if now.After(told) {
			told = give.Add(time.Second)
			s.say("boot stage: still waiting for the system disk: " + err.Error())
			s.watchButtons()
		}
		s.obeyButtons(0)
		s.plug.wait()
		s.plug.coldplug()
	}
}

// search looks once at every disk.
func search(sys, dev string, v contract.Verity) (rootPart, error) {
	disks, err := block.Disks(sys)
	if err != nil {
		return rootPart{}, err
	}
	var notes []string
	var found []rootPart
	for _, d := range disks {
		node := filepath.Join(dev, d.Name)
		part, ok, err := look(node, d, v)
		if err != nil {
			notes = append(notes, d.Name+": "+err.Error())
		}
		if ok {
			found = append(found, part)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return rootPart{}, fmt.Errorf("%w (%s); wanted: a partition with GUID %s, or a volume with that root hash; %s",
			errNotFound, block.Describe(disks), v.PartitionGUID(), strings.Join(notes, "; "))
	}
	// Two copies of one master. The one the hypervisor calls the system disk is meant; else none, rather than a guess.
	var named []rootPart
	for _, f := range found {
		if f.disk.Serial == contract.SystemSerial {
			named = append(named, f)
		}
	}
	if len(named) == 1 {
		return named[0], nil
	}
	return rootPart{}, fmt.Errorf("%s and %s both hold the root with GUID %s; attach only one, or give one the serial %q",
		found[0].node, found[1].node, v.PartitionGUID(), contract.SystemSerial)
}

// look looks at one disk: for the partition in its table or, without a table, for a hash tree with the right root.
func look(node string, d block.Disk, v contract.Verity) (rootPart, bool, error) {
	f, err := os.Open(node)
	if err != nil {
		return rootPart{}, false, err
	}
	defer f.Close()
	table, err := gpt.Read(f, d.Size, d.LogicalBlock)
	if errors.Is(err, gpt.ErrNone) {
		if holdsRoot(f, d.Size, v) {
			return rootPart{disk: d, node: node}, true, nil
		}
		return rootPart{}, false, err
	}
	if err != nil {
		return rootPart{}, false, err
	}
	part, ok, err := table.Find(v.PartitionGUID())
	if err != nil || !ok {
		return rootPart{}, false, err
	}
	if part.Size < int64(v.DataBlocks+1)*contract.BlockSize {
		return rootPart{}, false, fmt.Errorf("partition %d is %d bytes, the root alone has %d blocks of %d",
			part.Number, part.Size, v.DataBlocks, contract.BlockSize)
	}
	node, err = partitionNode(f, node, d, part)
	if err != nil {
		return rootPart{}, false, err
	}
	return rootPart{disk: d, node: node}, true, nil
}

// partitionNode returns the device node of a partition. The kernel made one unless the primary table is broken, in
// which case it has read no table (block/partitions/efi.c uses the backup only when told to): then we add it.
func partitionNode(f *os.File, node string, d block.Disk, part gpt.Partition) (string, error) {
	dir := filepath.Dir(node)
	for _, p := range d.Partitions {
		if p.Start == part.Start && p.Size == part.Size {
			return filepath.Join(dir, p.Name), nil
		}
	}
	if len(d.Partitions) > 0 {
		return "", fmt.Errorf("partition %d at byte %d is in the table, but the kernel sees other partitions",
			part.Number, part.Start)
	}
	if err := addPartition(f, part); err != nil {
		return "", fmt.Errorf("adding partition %d of the backup table: %w", part.Number, err)
	}
	name := node
	if c := d.Name[len(d.Name)-1]; c >= '0' && c <= '9' {
		name += "p" // nvme0n1 -> nvme0n1p3
	}
	return fmt.Sprintf("%s%d", name, part.Number), nil
}

// Layout of the block between data and hash tree; Documentation/admin-guide/device-mapper/verity.rst and
// cryptsetup's docs/on-disk-format-verity.
const (
	superblockSignature = "verity\x00\x00"
	superblockVersion   = 1
	offsetVersion       = 8
	offsetDataBlock     = 64
	offsetHashBlock     = 68
	offsetDataBlocks    = 72
)

// holdsRoot tells whether a volume without a partition table is the root: the verity superblock stands where it
// must, and the top block of the hash tree has the root hash, which nothing else can have.
func holdsRoot(r io.ReaderAt, size int64, v contract.Verity) bool {
	if v.DataBlocks < 2 || v.DataBlocks > uint64(size/contract.BlockSize) ||
		int64(v.DataBlocks+2)*contract.BlockSize > size {
		return false
	}
	b := make([]byte, 2*contract.BlockSize)
	if _, err := r.ReadAt(b, int64(v.DataBlocks)*contract.BlockSize); err != nil {
		return false
	}
	le := binary.LittleEndian
	if string(b[:8]) != superblockSignature || le.Uint32(b[offsetVersion:]) != superblockVersion ||
		le.Uint32(b[offsetDataBlock:]) != contract.BlockSize || le.Uint32(b[offsetHashBlock:]) != contract.BlockSize ||
		le.Uint64(b[offsetDataBlocks:]) != v.DataBlocks {
		return false
	}
	return sha256.Sum256(b[contract.BlockSize:]) == v.RootHash
}
