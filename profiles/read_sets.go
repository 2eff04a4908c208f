//go:build !guest

package profiles

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"gopkg.in/yaml.v3"
)

// setDraft is a set as written in the long form.
type setDraft struct{ ranges []AddrRange }

// setFields are the keys of a set that is a file.
func setFields() table[setDraft] {
	return table[setDraft]{
		{name: "file", doc: "File below the profile's directory with an address, prefix or range a line; # begins a " +
			"comment." +
			" It is read when the profile is.", kind: schema{"type": "string"}, required: true, decode: readSetFile},
	}
}

func setSchema() schema {
	return eitherOf(oneOrMore(textLike(rangePattern)), setFields().schema())
}

func readSets(r *reader, v value, p *Profile) {
	const what = "a mapping such as office: [203.0.113.0/24], or office: {file: office.txt}"
	for _, entry := range r.entries(v, what, maxSets) {
		var d setDraft
		before := len(r.findings)
		if entry.node.Kind == yaml.MappingNode {
			setFields().read(r, entry, &d)
		} else {
			const what = "an address, a prefix, a range such as 10.0.0.1-10.0.0.9, or a list of these"
			for _, item := range r.items(entry, what, maxPrefixes) {
				text, ok := r.dotted(item, what)
				if !ok {
					continue
				}
				s, problem, hint := parseRange(text)
				if problem != "" {
					r.rejectAt(item.pos(), hint, "%s: %s", item.name, problem)
					continue
				}
				d.ranges = append(d.ranges, s)
			}
		}
		if len(r.findings) > before {
			r.places.spoil("sets.%s", entry.key.Value)
		}
		p.Sets = append(p.Sets, Set{Name: entry.key.Value, Ranges: mergeRanges(d.ranges), At: entry.keyPos()})
	}
}

// parseRange reads an address, a prefix or a range.
func parseRange(text string) (s AddrRange, problem, hint string) {
	low, high, ranged := strings.Cut(text, "-")
	if !ranged {
		p, problem, hint := parsePrefix(text)
		if problem != "" {
			return s, problem, hint
		}
		return rangeOf(p), "", ""
	}
	first, err1 := netip.ParseAddr(low)
	last, err2 := netip.ParseAddr(high)
	switch {
	case err1 != nil || err2 != nil || first.Zone()+last.Zone() != "" || first.Is4In6() || last.Is4In6():
		return s, "expected a range such as 10.0.0.1-10.0.0.9, found " + quote(text), ""
	case first.Is4() != last.Is4():
		return s, "the range " + quote(text) + " joins two address families", ""
	case last.Less(first):
		return s, "the range " + quote(text) + " is upside down", ""
	}
	return AddrRange{first, last}, "", ""
}

// maxSetFile is how large a file of addresses may be, in bytes: maxSetRanges of the longest lines have less.
const maxSetFile = 16 << 20

func readSetFile(r *reader, v value, d *setDraft) {
	name, ok := r.word(v, "the name of a file")
	if !ok {
		return
	}
	src, err := r.beside(name)
	if err != nil {
		r.rejectAt(v.pos(), "name a file below the directory of the profile", "%s: %v", v.name, err)
		return
	}
	lines := bufio.NewScanner(bytes.NewReader(src))
	const maxWrong = 5 // past that it is another kind of file
	for n, wrong := 1, 0; lines.Scan() && wrong < maxWrong; n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		s, problem, hint := parseRange(text)
		if problem != "" {
			r.rejectAt(v.pos(), hint, "%s: line %d of %s: %s", v.name, n, clip(name), problem)
			wrong++
			continue
		}
		d.ranges = append(d.ranges, s)
	}
	if err := lines.Err(); err != nil {
		r.rejectAt(v.pos(), "", "%s: %s: %v", v.name, clip(name), err)
	}
}

// beside reads a file of addresses below the directory of the profile.
func (r *reader) beside(name string) ([]byte, error) {
	src, err := r.below(name, maxSetFile)
	if err == nil && len(src) > maxSetFile {
		err = fmt.Errorf("%s is larger than %d MiB", clip(name), maxSetFile>>20)
	}
	return src, err
}

// below reads at most so many bytes and one more of a file below the directory of the profile, and nothing that a link
// leads to elsewhere.
func (r *reader) below(name string, most int) ([]byte, error) {
	root, err := os.OpenRoot(filepath.Dir(r.file))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not make us wait
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", clip(name))
	}
	return io.ReadAll(io.LimitReader(f, int64(most)+1))
}
