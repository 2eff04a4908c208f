package ext4

import (
	"encoding/binary"
	"fmt"
)

// Flags of a group's descriptor (group_descr.rst).
const groupInodesUnused = 0x1 // EXT4_BG_INODE_UNINIT

// Inodes calls each for every inode that is in use, in order, whether a name leads to it or not, and with an error for
// those in use that cannot be read. The filesystem's own (the journal, the resize inode) are left out, but the root and
// lost+found are there. An error of each ends it and is returned.
func (f *FS) Inodes(each func(i *Inode, number uint32, err error) error) error {
	le := binary.LittleEndian
	size := uint32(f.s.inodeSize)
	perBlock := uint32(f.s.blockSize) / size
	for group := range f.s.groups {
		first := group*f.s.inodesPerGroup + 1
		if first > f.s.inodes {
			break
		}
		descriptor := make([]byte, f.s.descriptorSize)
		if err := f.readAt(descriptor, f.s.descriptorAt(group)); err != nil {
			return fmt.Errorf("descriptor of group %d: %w", group, err)
		}
		count := min(f.s.inodesPerGroup, f.s.inodes-first+1)
		if f.s.ro&(roCompatMetaCsum|roCompatGDTCsum) != 0 {
			if le.Uint16(descriptor[0x12:])&groupInodesUnused != 0 {
				continue
			}
			// What was never used need not be zero.
			unused := uint32(le.Uint16(descriptor[0x1c:]))
			if f.s.descriptorSize >= 64 {
				unused |= uint32(le.Uint16(descriptor[0x32:])) << 16
			}
			count -= min(count, unused)
		}
		table, err := f.inodeTable(group)
		if err != nil {
			if err := each(nil, first, err); err != nil {
				return err
			}
			continue
		}
		for at := uint32(0); at < count; at += perBlock {
			b, err := f.block(table + uint64(at/perBlock))
			if err != nil {
				if err := each(nil, first+at, err); err != nil {
					return err
				}
				break
			}
			for n := at; n < min(count, at+perBlock); n++ {
				raw, number := b[(n-at)*size:][:size], first+n
				if le.Uint16(raw) == 0 || le.Uint16(raw[0x1a:]) == 0 || f.reserved(number) {
					continue
				}
				i := parseInode(number, raw)
				if i.Flags&flagEAInode != 0 {
					continue
				}
				var bad error
				if f.s.csum && i.sum() != f.inodeSum(i) {
					i, bad = nil, fmt.Errorf("inode %d: %w: its checksum is wrong", number, ErrDamaged)
				}
				if err := each(i, number, bad); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// reserved tells of inodes of the filesystem itself.
func (f *FS) reserved(number uint32) bool {
	return number < f.s.firstInode && number != RootInode || number == f.s.journalInode || number == f.s.orphanInode
}
