// Package zonefile reads zone files as RFC 1035 section 5 has them ($ORIGIN, $TTL, $INCLUDE, $GENERATE) and tells
// everything that is wrong with a zone at once, each with its file and line: what cannot be read, and what a name
// server would refuse or answer wrongly.
//
// What it deliberately does not do: ask the network whether names outside the zone exist, sign, or serve. It keeps no
// comments and no layout: a zone that was read is its records.
package zonefile

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Bounds of a zone. A guest keeps it in memory, at some 300 bytes a record.
const (
	MaxRecords  = 20_000
	MaxBytes    = 2 << 20 // of all files of a zone together
	maxIncludes = 64
	maxDepth    = 7 // of files including files
)

// Record is a record and where it stands. File is empty and Line 0 for one that stands nowhere.
type Record struct {
	dns.RR
	File string
	Line int
}

// Finding is one thing wrong with a zone, or worth knowing.
type Finding struct {
	File    string
	Line    int // from 1; 0: the zone as a whole
	Warning bool
	What    string // what was found and what was expected
	Hint    string // what to write instead; may be empty
}

// String is one line: file:line: what; hint.
func (f Finding) String() string {
	s := f.What
	if f.Line > 0 {
		s = fmt.Sprintf("%s:%d: %s", f.File, f.Line, s)
	}
	if f.Hint != "" {
		s += "; " + f.Hint
	}
	return s
}

// maxFindings is how many a zone is told.
const maxFindings = 50

// Read reads the zone of an origin, an absolute name, from a file of a file system; nothing outside of it can be
// included. Records come in the order of the file. Where there are findings that are no warnings the zone is not to be
// used, though what could be read is returned.
func Read(fsys fs.FS, file, origin string) ([]Record, []Finding) {
	p := newParser(fsys, origin)
	p.include(file, origin, Record{}, 0)
	return p.records, p.findings
}

// ReadText reads the zone of an origin from a text, which can include nothing.
func ReadText(text, origin string) ([]Record, []Finding) {
	p := newParser(nil, origin)
	p.text("", text, origin, 0)
	return p.records, p.findings
}

// Text is the zone in the one way that ReadText reads back as the same records: a record a line, names absolute.
func Text(records []Record) string {
	var s strings.Builder
	for _, r := range records {
		s.WriteString(r.RR.String())
		s.WriteByte('\n')
	}
	return s.String()
}

// parser reads the files of one zone.
type parser struct {
	fsys     fs.FS
	zone     string
	records  []Record
	findings []Finding
	bytes    int
	includes int
	ttl      uint32 // of records that state none
	hasTTL   bool   // ttl is known
	fixed    bool   // by $TTL: what a record states does not change it
	owner    string // of the last record, as it was written or made absolute
	buffer   []byte
	full     bool // a bound was met: what follows is not read
}

func newParser(fsys fs.FS, origin string) *parser {
	return &parser{fsys: fsys, zone: dns.CanonicalName(origin)}
}

func (p *parser) tell(file string, line int, warning bool, hint, format string, args ...any) {
	if len(p.findings) >= maxFindings {
		p.full = true
		return
	}
	p.findings = append(p.findings, Finding{file, line, warning, fmt.Sprintf(format, args...), hint})
}

// stop tells of a bound: nothing after it is read.
func (p *parser) stop(file string, line int, format string, args ...any) {
	p.tell(file, line, false, "", format, args...)
	p.full = true
}

// include reads a file; from is the entry that includes it.
func (p *parser) include(file, origin string, from Record, depth int) {
	if p.fsys == nil || !fs.ValidPath(file) {
		what, hint := "$INCLUDE %q leads out of the folder of the zone file", "name a file beside the zone file, or below it"
		if from.Line == 0 {
			what, hint = "zone file %q is in another folder", "name a file beside the profile, or below it"
		}
		p.tell(from.File, from.Line, false, hint, what, clip(file))
		return
	}
	if p.includes++; depth > maxDepth || p.includes > maxIncludes {
		p.stop(from.File, from.Line, "$INCLUDE: more than %d files, or more than %d deep; does one include itself?",
			maxIncludes, maxDepth)
		return
	}
	text, err := readFile(p.fsys, file, MaxBytes-p.bytes)
	if err != nil {
		p.tell(from.File, from.Line, false, "", "%v", err)
		return
	}
	p.text(file, string(text), origin, depth)
}

var errTooLarge = fmt.Errorf("the files of the zone have more than %d KiB together", MaxBytes>>10)

// readFile reads at most so many bytes.
func readFile(fsys fs.FS, file string, most int) ([]byte, error) {
	f, err := fsys.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: file, Err: errors.New("it is no regular file")}
	}
	text := make([]byte, most+1)
	n := 0
	for n < len(text) {
		m, err := f.Read(text[n:])
		n += m
		if m == 0 || err != nil {
			break
		}
	}
	if n > most {
		return nil, &fs.PathError{Op: "read", Path: file, Err: errTooLarge}
	}
	return text[:n], nil
}

// text reads the entries of one file.
func (p *parser) text(file, text, origin string, depth int) {
	if p.bytes += len(text); p.bytes > MaxBytes {
		p.stop(file, 1, "%v", errTooLarge)
		return
	}
	e := entries{rest: text, line: 1}
	for !p.full {
		entry, ok := e.next()
		if !ok {
			break
		}
		if entry.problem != "" {
			p.tell(file, entry.line, false, "", "%s", entry.problem)
			continue
		}
		if strings.HasPrefix(entry.text, "$") {
			origin = p.directive(file, entry, origin, depth)
			continue
		}
		p.record(file, entry, origin)
	}
}

// directive carries out a control entry and returns the origin that holds after it.
func (p *parser) directive(file string, e entry, origin string, depth int) string {
	words := e.words()
	bad := func(want string) string {
		p.tell(file, e.line, false, "", "expected %s, found %q", want, clip(strings.Join(words, " ")))
		return origin
	}
	switch name := strings.ToUpper(words[0]); {
	case name == "$ORIGIN":
		if len(words) != 2 {
			return bad("$ORIGIN NAME")
		}
		absolute, ok := join(words[1], origin)
		if !ok {
			return bad("$ORIGIN and a domain name")
		}
		return absolute
	case name == "$TTL":
		if len(words) != 2 {
			return bad("$TTL SECONDS")
		}
		ttl, ok := parseTTL(words[1])
		if !ok {
			return bad("$TTL and a time such as 3600 or 1h30m, at most 2147483647 seconds")
		}
		p.ttl, p.hasTTL, p.fixed = ttl, true, true
	case name == "$INCLUDE":
		if len(words) != 2 && len(words) != 3 {
			return bad("$INCLUDE FILE [ORIGIN]")
		}
		inner, ok := origin, true
		if len(words) == 3 {
			if inner, ok = join(words[2], origin); !ok {
				return bad("$INCLUDE FILE and a domain name")
			}
		}
		owner := p.owner
		name := path.Join(path.Dir(file), words[1])
		if path.IsAbs(words[1]) {
			name = words[1]
		}
		p.include(name, inner, Record{File: file, Line: e.line}, depth+1)
		p.owner = owner // RFC 1035 section 5.1: what is included changes nothing outside
	case name == "$GENERATE":
		p.records = append(p.records, p.generate(file, e, origin)...)
	default:
		p.tell(file, e.line, false, "one of $ORIGIN, $TTL, $INCLUDE, $GENERATE", "unknown directive %q", clip(words[0]))
	}
	return origin
}

// generate expands $GENERATE.
func (p *parser) generate(file string, e entry, origin string) []Record {
	if !p.hasTTL {
		p.tell(file, e.line, false, "write $TTL 3600 above it", "$GENERATE: there is no TTL yet")
		return nil
	}
	zp := dns.NewZoneParser(strings.NewReader(e.text+"\n"), origin, "")
	zp.SetDefaultTTL(p.ttl)
	var made []Record
	for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
		if len(p.records)+len(made) >= MaxRecords {
			p.stop(file, e.line, "$GENERATE makes more than the %d records a zone may have", MaxRecords)
			return nil
		}
		if problem := p.onWire(rr); problem != "" {
			p.tell(file, e.line, false, "", "$GENERATE: %s: %s", nameOf(rr), problem)
			return nil
		}
		made = append(made, Record{rr, file, e.line})
	}
	if err := zp.Err(); err != nil {
		p.tell(file, e.line, false, "for example $GENERATE 10-99 host-$ A 192.0.2.$", "$GENERATE: %s", problemOf(err))
		return nil
	}
	return made
}

// record reads one record.
func (p *parser) record(file string, e entry, origin string) {
	text := e.text
	if e.blank {
		if p.owner == "" {
			p.tell(file, e.line, false, "begin the line with the name, or @ for the zone itself",
				"a record without a name, and none before it")
			return
		}
		text = p.owner + " " + text
	}
	if len(p.records) >= MaxRecords {
		p.stop(file, e.line, "more than %d records", MaxRecords)
		return
	}
	rr, err := parseRecord(text, origin, p.ttl, p.hasTTL)
	if err != nil && !p.hasTTL {
		// RFC 1035 has no default TTL; name servers take the SOA's minimum, and say so.
		if first, _ := parseRecord(text, origin, 0, true); first != nil {
			soa, ok := first.(*dns.SOA)
			if !ok {
				p.tell(file, e.line, false, "write $TTL 3600 at the top", "%s: no TTL, and none before it", nameOf(first))
				return
			}
			p.tell(file, e.line, true, "write $TTL 3600 at the top", "no TTL: the SOA's minimum is taken, %d s", soa.Minttl)
			soa.Hdr.Ttl = soa.Minttl
			rr, err = soa, nil
		}
	}
	switch {
	case err != nil:
		p.tell(file, e.line, false, "", "%s", problemOf(err))
		return
	case rr == nil:
		p.tell(file, e.line, false, "", "no record")
		return
	}
	if problem := p.onWire(rr); problem != "" {
		p.tell(file, e.line, false, "", "%s: %s", nameOf(rr), problem)
		return
	}
	p.owner = rr.Header().Name
	if !p.fixed { // RFC 1035 section 5.1: omitted values are the last stated ones; RFC 2308 section 4: unless $TTL
		p.ttl, p.hasTTL = rr.Header().Ttl, true
	}
	p.records = append(p.records, Record{rr, file, e.line})
}

// onWire tells why a record cannot be sent, empty if it can. The library takes a record without data for one of a
// dynamic update, and names that are too long once they are absolute.
func (p *parser) onWire(rr dns.RR) string {
	if p.buffer == nil {
		p.buffer = make([]byte, dns.MaxMsgSize)
	}
	n, err := dns.PackRR(rr, p.buffer, 0, nil, false)
	if err != nil {
		return clip(strings.TrimPrefix(err.Error(), "dns: "))
	}
	if _, _, err := dns.UnpackRR(p.buffer[:n], 0); err != nil {
		return clip(strings.TrimPrefix(err.Error(), "dns: "))
	}
	// Owner, then type, class, TTL and length of 10 bytes (RFC 1035 section 3.2.1).
	owner, err := dns.PackDomainName(rr.Header().Name, p.buffer, 0, nil, false)
	_, unknown := rr.(*dns.RFC3597)
	if err == nil && n == owner+10 && !unknown && rr.Header().Rrtype != dns.TypeAPL && rr.Header().Rrtype != dns.TypeNULL {
		return fmt.Sprintf("%s without data", dns.Type(rr.Header().Rrtype))
	}
	return ""
}

// errTwo is told for an entry that the library sees as two.
var errTwo = errors.New("more than one record")

// parseRecord reads the text of one record.
func parseRecord(text, origin string, ttl uint32, hasTTL bool) (dns.RR, error) {
	zp := dns.NewZoneParser(strings.NewReader(text+"\n"), origin, "")
	if hasTTL {
		zp.SetDefaultTTL(ttl)
	}
	rr, _ := zp.Next()
	if err := zp.Err(); err != nil {
		return nil, err
	}
	if second, _ := zp.Next(); second != nil {
		return nil, errTwo
	}
	return rr, zp.Err()
}

// problemOf is a parser's error without its own account of the place.
func problemOf(err error) string {
	s := strings.TrimPrefix(err.Error(), "dns: ")
	if i := strings.LastIndex(s, " at line: "); i >= 0 {
		s = s[:i]
	}
	return strings.TrimPrefix(clip(s), ": ")
}

// join makes a name absolute.
func join(name, origin string) (string, bool) {
	switch {
	case name == "@":
		name = origin
	case dns.IsFqdn(name):
	case origin == ".":
		name += "."
	default:
		name += "." + origin
	}
	_, ok := dns.IsDomainName(name)
	return dns.CanonicalName(name), ok
}

// maxTTL is of RFC 2181 section 8.
const maxTTL = 1<<31 - 1

// parseTTL reads seconds, or numbers with the units w, d, h, m, s (BIND 9 Administrator Reference Manual, "Setting
// TTLs").
func parseTTL(s string) (uint32, bool) {
	var sum, number uint64
	digits, units := 0, 0
	for _, c := range []byte(strings.ToLower(s)) {
		if c >= '0' && c <= '9' {
			if number = number*10 + uint64(c-'0'); number > maxTTL {
				return 0, false
			}
			digits++
			continue
		}
		i := slices.Index([]byte("smhdw"), c)
		if i < 0 || digits == 0 {
			return 0, false
		}
		sum += number * []uint64{1, 60, 3600, 86400, 604800}[i]
		number, digits, units = 0, 0, units+1
	}
	sum += number
	return uint32(sum), (digits > 0 || units > 0) && sum <= maxTTL
}

// clip makes somebody's text fit to repeat: short, and without what a terminal would obey.
func clip(s string) string {
	const most = 100
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

func nameOf(rr dns.RR) string { return clip(rr.Header().Name) }
