package ext4

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Attribute is an extended attribute.
type Attribute struct {
	Name  string // with its prefix: "security.capability"
	Value []byte
}

// Extended attributes (Documentation/filesystems/ext4/attributes.rst).
const (
	attrMagic      = 0xea020000
	attrEntry      = 16 // bytes before the name
	attrHeader     = 32 // of a block of them
	attrInode      = 4  // of those in the inode: the magic number only
	attrSystemData = "system.data"
	mostAttribute  = 1 << 16  // bytes of a value: XATTR_SIZE_MAX
	mostAttributes = 16 << 20 // bytes of all values of an inode that have inodes of their own
)

var attrPrefixes = map[byte]string{0: "", 1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default",
	4: "trusted.", 6: "security.", 7: "system.", 8: "system.richacl"}

// Attributes returns the extended attributes of an inode: those in it, then those in its block.
func (f *FS) Attributes(i *Inode) ([]Attribute, error) {
	all, err := f.inodeAttributes(i)
	if err != nil {
		return all, err
	}
	le := binary.LittleEndian
	block := uint64(le.Uint32(i.raw[0x68:])) | uint64(le.Uint16(i.raw[0x76:]))<<32
	if block == 0 {
		return all, nil
	}
	b, err := f.block(block)
	if err != nil {
		return all, fmt.Errorf("inode %d: attributes: %w", i.Number, err)
	}
	if le.Uint32(b) != attrMagic {
		return all, fmt.Errorf("inode %d: attributes: %w: block %d has none", i.Number, ErrDamaged, block)
	}
	more, err := f.attributes(b, attrHeader, 0)
	if err != nil {
		err = fmt.Errorf("inode %d: attributes in block %d: %w", i.Number, block, err)
	}
	return append(all, more...), err
}

// inodeAttributes are those between the inode's own fields and its end.
func (f *FS) inodeAttributes(i *Inode) ([]Attribute, error) {
	at := isizeAt + i.extra()
	if i.extra() == 0 || at+attrInode+attrEntry > len(i.raw) || binary.LittleEndian.Uint32(i.raw[at:]) != attrMagic {
		return nil, nil
	}
	all, err := f.attributes(i.raw[at:], attrInode, attrInode)
	if err != nil {
		err = fmt.Errorf("inode %d: attributes: %w", i.Number, err)
	}
	return all, err
}

// attributes reads a list that begins at first; offsets of values count from base.
func (f *FS) attributes(b []byte, first, base int) (all []Attribute, err error) {
	le := binary.LittleEndian
	var inside, outside int64 // bytes of values: none lies in another
	for off := first; ; {
		if off+4 > len(b) || le.Uint32(b[off:]) == 0 {
			return all, nil
		}
		if off+attrEntry > len(b) {
			return all, fmt.Errorf("%w: half an entry at %d", ErrDamaged, off)
		}
		length, prefix := int(b[off]), b[off+1]
		value, inode, size := int(le.Uint16(b[off+2:])), le.Uint32(b[off+4:]), int64(le.Uint32(b[off+8:]))
		if off+attrEntry+length > len(b) {
			return all, fmt.Errorf("%w: a name of %d bytes at %d", ErrDamaged, length, off)
		}
		start, known := attrPrefixes[prefix]
		if !known {
			start = fmt.Sprintf("%d.", prefix)
		}
		a := Attribute{Name: start + string(b[off+attrEntry:off+attrEntry+length])}
		switch {
		case size > mostAttribute:
			return all, fmt.Errorf("%w: %.40q has %d bytes", ErrDamaged, a.Name, size)
		case inode != 0:
			if outside += size; outside > mostAttributes {
				return all, fmt.Errorf("%w: more than %d bytes of attributes", ErrFeature, mostAttributes)
			}
			if a.Value, err = f.attributeInode(inode, size); err != nil {
				return all, fmt.Errorf("%.40q: %w", a.Name, err)
			}
		case size > 0 && int64(base+value)+size > int64(len(b)):
			return all, fmt.Errorf("%w: %.40q lies beyond the end", ErrDamaged, a.Name)
		case size > 0:
			if inside += size; inside > int64(len(b)) {
				return all, fmt.Errorf("%w: %.40q shares its value", ErrDamaged, a.Name)
			}
			a.Value = bytes.Clone(b[base+value : base+value+int(size)])
		}
		all = append(all, a)
		off += (attrEntry + length + 3) &^ 3
	}
}

// attributeInode reads a value that has an inode of its own.
func (f *FS) attributeInode(number uint32, size int64) ([]byte, error) {
	i, err := f.Inode(number)
	if err != nil {
		return nil, err
	}
	if i.Flags&flagEAInode == 0 || i.Size != size || i.Mode&typeMask != typeFile {
		return nil, fmt.Errorf("%w: inode %d holds no such value", ErrDamaged, number)
	}
	file, err := f.Open(i)
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	if n, err := file.ReadAt(b, 0); n < len(b) && err != nil {
		return nil, err
	}
	return b, nil
}

// inlineData is the content of a file that lies in its inode: where blocks would be listed, then in an attribute.
func (f *FS) inlineData(i *Inode) ([]byte, error) {
	b := bytes.Clone(i.raw[blockArea : blockArea+blockAreaLen])
	all, err := f.inodeAttributes(i)
	for _, a := range all {
		if a.Name == attrSystemData {
			b = append(b, a.Value...)
		}
	}
	if err == nil && i.Size > int64(len(b)) {
		err = fmt.Errorf("%w: %d bytes in the inode, which has room for %d", ErrDamaged, i.Size, len(b))
	}
	return b, err
}

// inlineDir reads a directory that lies in its inode: the number of its parent, names, and more names in the attribute.
func (f *FS) inlineDir(i *Inode) (entries []Entry, err error) {
	b, err := f.inlineData(i)
	if err != nil {
		return nil, err
	}
	const parent = 4
	entries, err = f.entries(b[parent:blockAreaLen], nil)
	if err == nil && len(b) > blockAreaLen {
		entries, err = f.entries(b[blockAreaLen:], entries)
	}
	if err != nil {
		err = fmt.Errorf("inode %d: directory: %w", i.Number, err)
	}
	return entries, err
}
