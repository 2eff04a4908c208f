package ext4

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// contents writes what directories and files hold.
func (m *maker) contents() error {
	for _, f := range m.files {
		f.seed = m.f.inodeSeed(&Inode{Number: f.inode, raw: make([]byte, makeInodeSize)})
		in := f.Content
		if f.Dir {
			f.Size = int64(len(f.entries))
			for b := f.entries; len(b) > 0; b = b[makeBlock:] {
				sum := crc32c(f.seed, b[:makeBlock-tailSize])
				binary.LittleEndian.PutUint32(b[makeBlock-4:], sum)
			}
			in = bytes.NewReader(f.entries)
		}
		var err error
		if f.runs, err = m.allocate(uint64(f.Size+makeBlock-1) / makeBlock); err != nil {
			return fmt.Errorf("ext4: %q, %d bytes: %w", f.Path, f.Size, err)
		}
		left := f.Size
		for _, r := range f.runs {
			n := min(left, int64(r.count)*makeBlock)
			if err := m.copy(int64(r.first)*makeBlock, in, n); err != nil {
				return fmt.Errorf("ext4: %q: %w", f.Path, err)
			}
			left -= n
		}
		if f.Dir {
			m.dirs[0]++ // all inodes are in the first group
		}
	}
	return nil
}

// copy writes n bytes of a content, but for pieces that are zero.
func (m *maker) copy(at int64, in io.Reader, n int64) error {
	piece, zero := make([]byte, min(n, 256<<10)), make([]byte, min(n, 256<<10))
	for n > 0 {
		b := piece[:min(n, int64(len(piece)))]
		if _, err := io.ReadFull(in, b); err != nil {
			return err
		}
		if !bytes.Equal(b, zero[:len(b)]) {
			if _, err := m.image.WriteAt(b, at); err != nil {
				return err
			}
		}
		at, n = at+int64(len(b)), n-int64(len(b))
	}
	return nil
}

// journal writes the journal's superblock (journal.rst): an empty one, which the kernel begins.
func (m *maker) journal() error {
	b := make([]byte, 1024)
	be := binary.BigEndian
	be.PutUint32(b, 0xc03b3998)
	be.PutUint32(b[4:], 4) // superblock, version 2
	be.PutUint32(b[0xc:], makeBlock)
	be.PutUint32(b[0x10:], uint32(m.journalBlocks()))
	be.PutUint32(b[0x14:], 1) // the first block of the log
	be.PutUint32(b[0x18:], 1) // the first commit to expect
	copy(b[0x30:], m.UUID[:])
	be.PutUint32(b[0x40:], 1) // users
	_, err := m.image.WriteAt(b, int64(m.journalRuns[0].first)*makeBlock)
	return err
}

// blockMap is the content of i_block: extents, all in the inode (ifork.rst).
func blockMap(runs []span) []byte {
	b := make([]byte, blockAreaLen)
	le := binary.LittleEndian
	le.PutUint16(b, 0xf30a)
	le.PutUint16(b[2:], uint16(len(runs)))
	le.PutUint16(b[4:], inodeExtents)
	var logical uint64
	for i, r := range runs {
		e := b[12*(i+1):]
		le.PutUint32(e, uint32(logical))
		le.PutUint16(e[4:], uint16(r.count))
		le.PutUint16(e[6:], uint16(r.first>>32))
		le.PutUint32(e[8:], uint32(r.first))
		logical += r.count
	}
	return b
}

// inode is an inode's bytes (inodes.rst).
func (m *maker) inode(f *made, kind uint16) []byte {
	b := make([]byte, makeInodeSize)
	le := binary.LittleEndian
	var blocks uint64
	for _, r := range f.runs {
		blocks += r.count
	}
	le.PutUint16(b, kind|f.Mode)
	le.PutUint16(b[0x2:], uint16(f.UID))
	le.PutUint32(b[0x4:], uint32(f.Size))
	le.PutUint16(b[0x18:], uint16(f.GID))
	le.PutUint16(b[0x1a:], f.links)
	le.PutUint32(b[0x1c:], uint32(blocks*makeBlock/512))
	le.PutUint32(b[0x20:], flagExtents)
	copy(b[blockArea:], blockMap(f.runs))
	le.PutUint32(b[0x6c:], uint32(f.Size>>32))
	le.PutUint16(b[0x78:], uint16(f.UID>>16))
	le.PutUint16(b[0x7a:], uint16(f.GID>>16))
	le.PutUint16(b[isizeAt:], makeExtra)
	put := func(at, rest int, t time.Time) {
		if t.IsZero() {
			return // as it is read
		}
		le.PutUint32(b[at:], uint32(t.Unix()))
		// The two bits are what the 32 of the seconds, which have a sign, leave out.
		epoch := uint32((t.Unix()-int64(int32(t.Unix())))>>32) & 3
		le.PutUint32(b[rest:], uint32(t.Nanosecond())<<2|epoch)
	}
	put(0x8, 0x8c, f.Modified)
	put(0xc, 0x84, m.Time)
	put(0x10, 0x88, f.Modified)
	put(0x90, 0x94, m.Time)
	sum := m.f.inodeSum(&Inode{Number: f.inode, raw: b})
	le.PutUint16(b[0x7c:], uint16(sum))
	le.PutUint16(b[0x82:], uint16(sum>>16))
	return b
}

// tables writes inodes, bitmaps, descriptors and superblocks, the first superblock last.
func (m *maker) tables() error {
	journal := &made{NewFile: NewFile{Mode: 0o600, Size: int64(m.journalBlocks()) * makeBlock, Modified: m.Time},
		inode: journalInode, links: 1, runs: m.journalRuns}
	table := int64(m.bitmaps(0)+2) * makeBlock
	for _, f := range append(m.files, journal) {
		kind := uint16(typeFile)
		if f.Dir {
			kind = typeDir
		}
		if _, err := m.image.WriteAt(m.inode(f, kind), table+int64(f.inode-1)*makeInodeSize); err != nil {
			return err
		}
	}
	descriptors, err := m.groupTables()
	if err != nil {
		return err
	}
	first := super{ro: makeROCompat}
	for g := int64(m.groups) - 1; g >= 0; g-- {
		if !first.hasBackup(uint32(g)) {
			continue
		}
		at := g * makeGroup * makeBlock
		if _, err := m.image.WriteAt(descriptors, at+makeBlock); err != nil {
			return err
		}
		if g == 0 {
			at = superOffset
		}
		if _, err := m.image.WriteAt(m.super(uint16(g), blockMap(m.journalRuns), journal.Size), at); err != nil {
			return err
		}
	}
	return nil
}

// usedInodes is how many inodes of the first group are taken: those that are reserved, and one for each file.
func (m *maker) usedInodes() uint32 { return makeFirst - 1 + uint32(len(m.files)) - 2 }

// groupTables writes the bitmaps and returns the descriptors of all groups (group_descr.rst).
func (m *maker) groupTables() ([]byte, error) {
	le := binary.LittleEndian
	all := make([]byte, m.groups*makeDescriptor)
	for g := range m.groups {
		blocks := min(m.blocks-uint64(g)*makeGroup, makeGroup)
		bitmap := make([]byte, makeBlock)
		mark(bitmap, 0, m.taken[g]) // files are laid one after the other
		mark(bitmap, blocks, makeGroup)
		inodes := make([]byte, makeBlock)
		used := uint32(0)
		if g == 0 {
			used = m.usedInodes()
		}
		mark(inodes, 0, uint64(used))
		mark(inodes, uint64(m.inodesPerGroup), makeGroup)
		at := m.bitmaps(g)
		if _, err := m.image.WriteAt(append(bitmap, inodes...), int64(at)*makeBlock); err != nil {
			return nil, err
		}
		d := all[g*makeDescriptor:][:makeDescriptor]
		le.PutUint32(d, uint32(at))
		le.PutUint32(d[0x4:], uint32(at+1))
		le.PutUint32(d[0x8:], uint32(at+2))
		le.PutUint16(d[0xc:], uint16(blocks-m.taken[g]))
		le.PutUint16(d[0xe:], uint16(m.inodesPerGroup-used))
		le.PutUint16(d[0x10:], m.dirs[g])
		le.PutUint16(d[0x12:], 0x4) // EXT4_BG_INODE_ZEROED
		le.PutUint16(d[0x18:], uint16(crc32c(m.f.s.seed, bitmap[:makeGroup/8])))
		le.PutUint16(d[0x1a:], uint16(crc32c(m.f.s.seed, inodes[:m.inodesPerGroup/8])))
		le.PutUint16(d[0x1c:], uint16(m.inodesPerGroup-used))
		le.PutUint16(d[0x1e:], m.f.descriptorSum(g, d))
	}
	return all, nil
}

// mark sets the bits from one to before another.
func mark(bitmap []byte, from, to uint64) {
	for ; from < to; from++ {
		bitmap[from/8] |= 1 << (from % 8)
	}
}

// super is a superblock (super.rst), of a group that has a copy of it.
func (m *maker) super(group uint16, journal []byte, journalSize int64) []byte {
	b := make([]byte, superSize)
	le := binary.LittleEndian
	free := m.blocks
	for _, n := range m.taken {
		free -= n
	}
	now := uint32(m.Time.Unix())
	for at, v := range map[int]uint32{0x0: m.inodesPerGroup * m.groups, 0x4: uint32(m.blocks), 0x8: uint32(m.blocks / 100),
		0xc: uint32(free), 0x10: m.inodesPerGroup*m.groups - m.usedInodes(), 0x18: 2, 0x1c: 2, 0x20: makeGroup,
		0x24: makeGroup, 0x28: m.inodesPerGroup, 0x30: now, 0x40: now, 0x4c: 1, 0x54: lostFoundInode, 0x5c: makeCompat,
		0x60: makeIncompat, 0x64: makeROCompat, 0xe0: journalInode, 0x100: 0xc /* user_xattr, acl */, 0x108: now,
		0x160: 1 /* signed directory hashes */} {
		le.PutUint32(b[at:], v)
	}
	for at, v := range map[int]uint16{0x36: 0xffff, 0x38: magic, 0x3a: 1 /* clean */, 0x3c: 1, /* on errors: go on */
		0x58: makeInodeSize, 0x5a: group, 0x15c: makeExtra, 0x15e: makeExtra} {
		le.PutUint16(b[at:], v)
	}
	copy(b[0x68:], m.UUID[:])
	copy(b[0x78:0x88], m.Label)
	copy(b[0xec:], m.HashSeed[:])
	b[0xfc], b[0xfd] = 1, 1 // half MD4; the journal's inode is backed up here
	copy(b[0x10c:], journal)
	le.PutUint32(b[0x10c+blockAreaLen:], uint32(journalSize>>32))
	le.PutUint32(b[0x10c+blockAreaLen+4:], uint32(journalSize))
	b[0x175] = 1 // crc32c
	le.PutUint32(b[0x3fc:], crc32c(^uint32(0), b[:0x3fc]))
	return b
}
