package fat

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
)

// First bytes of an entry with a meaning (section "FAT Directory Structure").
const (
	entryLast    = 0x00
	entryDeleted = 0xE5
	entryKanji   = 0x05 // stands for 0xE5 in a name

	attrReadOnly = 0x01
	// Bits of DIR_NTRes, which Windows NT and Linux use for names of one case (fs/fat: CASE_LOWER_BASE, CASE_LOWER_EXT).
	lowerBase = 0x08
	lowerExt  = 0x10
)

// longName gathers the entries of a long name, which stand before the short one, last part first.
type longName struct {
	units []uint16
	next  byte // the number of the entry that has to come; 0: the name is whole
	sum   byte
	valid bool
}

func (l *longName) add(b []byte) {
	number := b[0] &^ lastLong
	switch {
	case b[0]&lastLong != 0 && number >= 1 && number <= (maxLong+unitsPerLong-1)/unitsPerLong:
		*l = longName{units: make([]uint16, int(number)*unitsPerLong), sum: b[13], valid: true}
	case !l.valid || number != l.next || b[13] != l.sum || number == 0:
		*l = longName{}
		return
	}
	for i, at := range longOffsets {
		l.units[(int(number)-1)*unitsPerLong+i] = binary.LittleEndian.Uint16(b[at:])
	}
	l.next = number - 1
}

// name is the long name that belongs to a short one; empty: none does.
func (l *longName) name(short string) string {
	if !l.valid || l.next != 0 || l.sum != checksum(short) {
		return ""
	}
	end := len(l.units)
	for i, u := range l.units {
		if u == 0 {
			end = i
			break
		}
	}
	return string(utf16.Decode(l.units[:end]))
}

// shortName is a short name as it is shown.
func shortName(b []byte) string {
	raw := [shortLength]byte(b)
	if raw[0] == entryKanji {
		raw[0] = entryDeleted
	}
	base, ext := strings.TrimRight(string(raw[:baseLength]), " "), strings.TrimRight(string(raw[baseLength:]), " ")
	if b[12]&lowerBase != 0 {
		base = strings.ToLower(base)
	}
	if b[12]&lowerExt != 0 {
		ext = strings.ToLower(ext)
	}
	if ext != "" {
		base += "." + ext
	}
	return latin1(base)
}

// latin1 shows bytes of a code page that nobody names as those of ISO 8859-1, so that different names stay different.
func latin1(s string) string {
	r := make([]rune, 0, len(s))
	for i := range len(s) {
		r = append(r, rune(s[i]))
	}
	return string(r)
}

// entries reads the entries of a directory into its children.
func (t *treeReader) entries(n *entryNode, b []byte) (damaged error) {
	var long longName
	for ; len(b) >= dirEntrySize; b = b[dirEntrySize:] {
		attr := b[11]
		switch {
		case b[0] == entryLast:
			return damaged
		case b[0] == entryDeleted:
			long = longName{}
			continue
		case attr&0x3F == attrLong:
			long.add(b)
			continue
		case attr&attrVolume != 0:
			if n == t.v.root {
				t.v.label = strings.TrimRight(latin1(string(b[:shortLength])), " ")
			}
			long = longName{}
			continue
		}
		name := long.name(string(b[:shortLength]))
		if name == "" {
			name = shortName(b)
		}
		long = longName{}
		if name == "." || name == ".." {
			continue
		}
		if name == "" || strings.ContainsAny(name, "/\x00") {
			damaged = fmt.Errorf("%w: the name %.40q", ErrDamaged, name)
			continue
		}
		if t.names++; t.names > maxVolumeNames {
			return fmt.Errorf("%w: more than %d names", ErrDamaged, maxVolumeNames)
		}
		le := binary.LittleEndian
		c := &entryNode{name: name, dir: attr&attrDirectory != 0, readOnly: attr&attrReadOnly != 0,
			size: int64(le.Uint32(b[28:])), cluster: uint32(le.Uint16(b[26:])),
			modified: when(le.Uint16(b[24:]), le.Uint16(b[22:]))}
		if t.v.bits == 32 {
			c.cluster |= uint32(le.Uint16(b[20:])) << 16
		}
		if c.dir {
			c.size = 0
		}
		n.children = append(n.children, c)
	}
	return damaged
}

// when is a date and time of an entry, which are local time of nobody knows where; taken for UTC.
func when(date, clock uint16) time.Time {
	return time.Date(1980+int(date>>9), time.Month(max(1, date>>5&15)), max(1, int(date&31)), int(clock>>11),
		int(clock>>5&63), int(clock&31)*2, 0, time.UTC)
}
