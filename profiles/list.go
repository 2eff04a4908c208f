package profiles

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// Bounds of a list of addresses that comes from a file or a server.
const (
	// MaxList is how large a list may be, in bytes: as many of the longest lines as a set takes ranges have less.
	MaxList = 16 << 20
	// MaxListRanges is how many ranges all sets of a profile may have together, and so one list.
	MaxListRanges = maxSetRanges
	maxListLine   = 64 << 10 // bytes
)

// ErrNotAList is wrapped by the errors of ReadList.
var ErrNotAList = errors.New("not a list of addresses")

// maxStrange is how many lines of a list may be something else, in per cent: lists are made by people and programs that
// err now and then, and what has more of it is an error message of a server.
const maxStrange = 1

// ReadList reads a list of addresses of any form ListLine knows, of MaxList bytes and MaxListRanges ranges at most.
// Lines that are something else are left out and counted; more than one in a hundred is an error. The list may be
// empty.
func ReadList(src io.Reader) (list Ranges, strange int, err error) {
	in := bufio.NewScanner(io.LimitReader(src, MaxList+1))
	in.Buffer(make([]byte, 0, 4096), maxListLine)
	var ranges []AddrRange
	first, n, lines, size := "", 0, 0, 0
	for in.Scan() {
		n++
		if size += len(in.Bytes()) + 1; size > MaxList+1 {
			return nil, 0, fmt.Errorf("%w: more than %d MiB", ErrNotAList, MaxList>>20)
		}
		r, ok, problem, _ := listLine(in.Text())
		switch {
		case problem != "":
			if strange++; strange == 1 {
				first = fmt.Sprintf("line %d: %s", n, problem)
			}
		case ok:
			lines++
			if len(ranges) == MaxListRanges { // memory is bounded by what is kept, whatever the list repeats
				const worthwhile = MaxListRanges / 16
				if ranges = mergeRanges(ranges); len(ranges) > MaxListRanges-worthwhile {
					return nil, 0, fmt.Errorf("%w of a size that fits: more than %d ranges", ErrNotAList, len(ranges))
				}
			}
			ranges = append(ranges, r)
		}
	}
	if err := in.Err(); err != nil {
		return nil, 0, fmt.Errorf("line %d: %w", n+1, err)
	}
	if strange*100 > maxStrange*(strange+lines) {
		return nil, 0, fmt.Errorf("%w: %d of %d lines are none, the first is %s", ErrNotAList, strange, strange+lines, first)
	}
	return mergeRanges(ranges), strange, nil
}

// listLine reads one line of a list. These are known:
//
//	192.0.2.1                                an address
//	192.0.2.0/24 ; SBL1234                   a prefix (the text form of Spamhaus DROP)
//	192.0.2.1-192.0.2.9                      a range, also with blanks around the dash
//	192.0.2.0  192.0.2.255  24  ...          a range in columns (DShield)
//	add NAME 192.0.2.0/24 timeout 600        what `ipset save` writes
//	{"cidr":"192.0.2.0/24","sblid":"..."}    an object a line (the JSON form of Spamhaus DROP)
//
// What comes after #, ; or // is a comment, and so is whatever follows an address after a blank or a comma. Bits beyond
// the length of a prefix are ignored. Lines without an address that belong to a form (comments, `create ...`, other
// objects) are not ok and no problem.
func listLine(line string) (r AddrRange, ok bool, problem, hint string) {
	line = strings.TrimSpace(strings.TrimPrefix(line, "\ufeff")) // the mark at the beginning of what some editors save
	if strings.HasPrefix(line, "{") {
		var object struct {
			CIDR string `json:"cidr"`
		}
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			return r, false, "expected an object with a cidr on the line, found " + quote(line), ""
		}
		if line = object.CIDR; line == "" {
			return r, false, "", ""
		}
	}
	for _, mark := range []string{"#", ";", "//"} {
		line, _, _ = strings.Cut(line, mark)
	}
	words := strings.FieldsFunc(line, func(c rune) bool { return c == ' ' || c == '\t' || c == ',' || c == '\r' })
	switch {
	case len(words) == 0, words[0] == "create", words[0] == "flush":
		return r, false, "", ""
	case words[0] == "add" && len(words) >= 3:
		words = words[2:]
	}
	text := words[0]
	switch {
	case len(words) >= 3 && words[1] == "-":
		text += "-" + words[2]
	case len(words) >= 2 && isAddress(text) && isAddress(words[1]):
		text += "-" + words[1]
	}
	if p, err := netip.ParsePrefix(text); err == nil && !p.Addr().Is4In6() {
		return rangeOf(p), true, "", ""
	}
	r, problem, hint = parseRange(text)
	return r, problem == "", problem, hint
}

func isAddress(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
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
