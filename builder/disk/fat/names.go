package fat

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	shortLength = 11 // 8 of name, 3 of extension
	baseLength  = 8
	maxLong     = 255 // UTF-16 units (section "FAT Long Directory Entries", as all of this file)
	maxTail     = 999999

	attrLong     = 0x0F // read-only, hidden, system and volume: old programs do not show it
	lastLong     = 0x40 // flag of the entry that comes first and holds the end of the name
	unitsPerLong = 13
)

// checkName says whether a long name is one.
func checkName(name string) error {
	switch {
	case !utf8.ValidString(name):
		return fmt.Errorf("name %q is not UTF-8", name)
	case len(units(name)) > maxLong:
		return fmt.Errorf("name %q is longer than %d UTF-16 units", name, maxLong)
	case strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") || strings.HasPrefix(name, " "):
		return fmt.Errorf("name %q begins with a space, or ends with one or a dot, which readers drop", name)
	}
	for _, c := range name {
		if c < ' ' || c == 0x7F || strings.ContainsRune(`"*/:<>?\|`, c) {
			return fmt.Errorf("name %q: FAT does not allow %q", name, c)
		}
	}
	return nil
}

// shortByte says whether a byte may stand in a short name (section "FAT Directory Structure").
func shortByte(c byte) bool {
	return 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("$%'-_@~`!(){}^#&", c) >= 0
}

// giveShortNames gives each name its 8.3 alias, and a long name where the alias does not say the whole. Names that
// are 8.3 but for their case come first, so that no made-up alias takes what is another's real name.
func giveShortNames(nodes []*node) error {
	taken := map[string]bool{}
	for _, n := range nodes {
		base, ext, lossy := shorten(n.name)
		if lossy {
			continue
		}
		n.short = pad(base, ext)
		if strings.ToUpper(n.name) != n.name {
			n.long = units(n.name)
		}
		if taken[n.short] {
			return fmt.Errorf("two files are named %q in capitals", n.short)
		}
		taken[n.short] = true
	}
	for _, n := range nodes {
		if n.short != "" {
			continue
		}
		base, ext, _ := shorten(n.name)
		for i := 1; n.short == ""; i++ {
			if i > maxTail {
				return fmt.Errorf("no short name is left for %q", n.name)
			}
			tail := fmt.Sprintf("~%d", i)
			if alias := pad(base[:min(len(base), baseLength-len(tail))]+tail, ext); !taken[alias] {
				n.short, taken[alias] = alias, true
			}
		}
		n.long = units(n.name)
	}
	return nil
}

// shorten is the basis-name algorithm of the specification. lossy says that the short form is not
// just the name in capitals.
func shorten(name string) (base, ext string, lossy bool) {
	trimmed := strings.TrimLeft(name, ".")
	lossy = trimmed != name
	if i := strings.LastIndexByte(trimmed, '.'); i >= 0 {
		trimmed, ext = trimmed[:i], trimmed[i+1:]
	}
	part := func(s string, limit int) string {
		var b []byte
		for _, c := range s {
			switch {
			case 'a' <= c && c <= 'z':
				b = append(b, byte(c)-'a'+'A')
			case c == ' ' || c == '.':
				lossy = true
			case c < utf8.RuneSelf && shortByte(byte(c)):
				b = append(b, byte(c))
			default:
				b, lossy = append(b, '_'), true
			}
		}
		if len(b) > limit {
			b, lossy = b[:limit], true
		}
		return string(b)
	}
	base, ext = part(trimmed, baseLength), part(ext, shortLength-baseLength)
	return base, ext, lossy || base == ""
}

func pad(base, ext string) string { return fmt.Sprintf("%-8s%-3s", base, ext) }

// longEntries is how many entries a long name takes.
func longEntries(long []uint16) int { return (len(long) + unitsPerLong - 1) / unitsPerLong }

// encodeLong returns the entries of a long name, last part first as they stand on disk. A name that does
// not fill its last entry ends with a zero, then 0xFFFF.
func encodeLong(long []uint16, short string) []byte {
	sum := checksum(short)
	var out []byte
	for part := longEntries(long); part > 0; part-- {
		b := make([]byte, dirEntrySize)
		b[0] = byte(part) // LDIR_Ord
		if part == longEntries(long) {
			b[0] |= lastLong
		}
		b[11] = attrLong // LDIR_Attr
		b[13] = sum      // LDIR_Chksum
		for i := range unitsPerLong {
			unit := uint16(0xFFFF)
			if at := (part-1)*unitsPerLong + i; at < len(long) {
				unit = long[at]
			} else if at == len(long) {
				unit = 0
			}
			binary.LittleEndian.PutUint16(b[longOffsets[i]:], unit)
		}
		out = append(out, b...)
	}
	return out
}

// longOffsets is where the units of LDIR_Name1, Name2 and Name3 lie in an entry.
var longOffsets = [unitsPerLong]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}

// checksum ties long-name entries to their short one.
func checksum(short string) byte {
	var sum byte
	for i := range len(short) {
		sum = sum>>1 | sum<<7
		sum += short[i]
	}
	return sum
}
