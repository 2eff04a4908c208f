// Package sources reads apt's list of sources (sources.list(5)): the file sources.list and the files of the directory
// sources.list.d, in the one-line and the deb822 format.
//
// A machine's list is made by many hands. A file or line that cannot be understood is reported and passed over: apt
// would refuse everything, but here only one mirror is sought.
//
// What it deliberately does not do: judge who an entry belongs to, expand $(ARCH), or read apt.conf and auth.conf
// (package aptconf does).
package sources

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rempart/builder/debian/control"
)

// Bounds: a sources file with inline keys has some KiB.
const (
	maxFile    = 1 << 20
	maxFiles   = 1000
	maxEntries = 10_000
)

// Entry is one suite of one archive of binary packages, enabled.
type Entry struct {
	File       string
	Line       int
	URI        string // as written, any scheme
	Suite      string // "bookworm", "bookworm/updates"; ends in / for archives without suites
	Components []string
	Archs      []string // empty for all
	SignedBy   string   // a path, fingerprints, an inline key, or empty
}

// Read returns the entries of an apt configuration directory, usually /etc/apt, in apt's order. The second value
// tells what could not be understood, each with its file and line; the error is of reading the directory. A directory
// that is not there has no entries.
func Read(dir string) (entries []Entry, problems []error, err error) {
	files := []string{filepath.Join(dir, "sources.list")}
	parts, err := os.ReadDir(filepath.Join(dir, "sources.list.d"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("reading apt's sources: %w", err)
	}
	if len(parts) > maxFiles {
		return nil, nil, fmt.Errorf("reading apt's sources: %s has more than %d files", dir, maxFiles)
	}
	for _, part := range parts {
		if isPartName(part.Name()) {
			files = append(files, filepath.Join(dir, "sources.list.d", part.Name()))
		}
	}
	for _, file := range files {
		text, err := readFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		var some []Entry
		var bad []error
		if strings.HasSuffix(file, ".sources") {
			some, bad = ParseDeb822(file, text)
		} else {
			some, bad = ParseList(file, text)
		}
		entries, problems = append(entries, some...), append(problems, bad...)
		if len(entries) > maxEntries {
			return nil, nil, fmt.Errorf("reading apt's sources: more than %d entries", maxEntries)
		}
	}
	return entries, problems, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: larger than %d bytes", name, maxFile)
	}
	return text, err
}

// isPartName says whether apt reads a file of sources.list.d: letters, digits, _ - . and one of the two endings.
func isPartName(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("_-.", c) {
			return false
		}
	}
	return strings.HasSuffix(name, ".list") || strings.HasSuffix(name, ".sources")
}

// ParseList reads the one-line format: "deb [option=value ...] URI suite [component ...]".
func ParseList(file string, text []byte) (entries []Entry, problems []error) {
	scan := bufio.NewScanner(bytes.NewReader(text))
	scan.Buffer(nil, maxFile+1)
	for n := 1; scan.Scan(); n++ {
		line, _, _ := strings.Cut(scan.Text(), "#")
		words, err := split(line)
		if err == nil && len(words) > 0 {
			var e Entry
			if e, err = parseWords(words); err == nil && e.URI != "" {
				e.File, e.Line = file, n
				entries = append(entries, e)
			}
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s:%d: %w", file, n, err))
		}
	}
	return entries, problems
}

// split cuts a line at blanks, but neither inside quotes nor inside brackets: "cdrom:[Debian 12 DVD]/" is one word,
// and so is "[arch=amd64 signed-by=/a/b]".
func split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inside := false
	var closing rune
	for _, c := range line {
		switch {
		case closing != 0:
			if c == closing {
				closing = 0
			}
			if c == '"' {
				continue
			}
		case c == '"':
			closing, inside = '"', true
			continue
		case c == '[':
			closing = ']'
		case c == ' ' || c == '\t' || c == '\r':
			if inside {
				words = append(words, word.String())
				word.Reset()
				inside = false
			}
			continue
		}
		inside = true
		word.WriteRune(c)
	}
	if closing != 0 {
		return nil, fmt.Errorf("%q is missing", closing)
	}
	if inside {
		words = append(words, word.String())
	}
	return words, nil
}

// parseWords returns an empty entry for a line of source packages.
func parseWords(words []string) (Entry, error) {
	var e Entry
	switch words[0] {
	case "deb":
	case "deb-src":
		return e, nil
	default:
		return e, fmt.Errorf("%.40q: expected deb or deb-src", words[0])
	}
	words = words[1:]
	if len(words) > 0 && strings.HasPrefix(words[0], "[") {
		for option := range strings.FieldsSeq(strings.Trim(words[0], "[]")) {
			key, value, _ := strings.Cut(option, "=")
			switch strings.ToLower(key) {
			case "arch":
				e.Archs = strings.Split(value, ",")
			case "signed-by":
				e.SignedBy = value
			}
		}
		words = words[1:]
	}
	if len(words) < 2 {
		return e, errors.New("expected \"deb URI suite [component ...]\"")
	}
	e.URI, e.Suite, e.Components = words[0], words[1], words[2:]
	if strings.HasSuffix(e.Suite, "/") != (len(e.Components) == 0) {
		return e, fmt.Errorf("suite %q: expected components after it, or a / at its end and none", e.Suite)
	}
	return e, nil
}

// ParseDeb822 reads the deb822 format: paragraphs with Types, URIs, Suites and Components.
func ParseDeb822(file string, text []byte) (entries []Entry, problems []error) {
	reader := control.NewReader(bytes.NewReader(text))
	for {
		p, err := reader.Next()
		if err == io.EOF {
			return entries, problems
		}
		if err != nil {
			// What follows a malformed line cannot be told apart.
			return entries, append(problems, fmt.Errorf("%s: %w", file, err))
		}
		some, err := fromParagraph(p)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s:%d: %w", file, p.Line, err))
		}
		for i := range some {
			some[i].File, some[i].Line = file, p.Line
		}
		if entries = append(entries, some...); len(entries) > maxEntries {
			return nil, append(problems, fmt.Errorf("%s: more than %d entries", file, maxEntries))
		}
	}
}

func fromParagraph(p *control.Paragraph) ([]Entry, error) {
	if isFalse(p.Get("Enabled")) || (p.Has("Types") && !slices.Contains(strings.Fields(p.Get("Types")), "deb")) {
		return nil, nil
	}
	for _, field := range []string{"Types", "URIs", "Suites"} {
		if strings.TrimSpace(p.Get(field)) == "" {
			return nil, fmt.Errorf("the field %s is missing", field)
		}
	}
	components := strings.Fields(p.Get("Components"))
	uris, suites := strings.Fields(p.Get("URIs")), strings.Fields(p.Get("Suites"))
	if len(uris)*len(suites) > maxEntries {
		return nil, fmt.Errorf("more than %d entries", maxEntries)
	}
	var entries []Entry
	for _, uri := range uris {
		for _, suite := range suites {
			if strings.HasSuffix(suite, "/") != (len(components) == 0) {
				return nil, fmt.Errorf("suite %q: expected Components, or a / at its end and none", suite)
			}
			entries = append(entries, Entry{URI: uri, Suite: suite, Components: components,
				Archs: strings.Fields(p.Get("Architectures")), SignedBy: strings.TrimSpace(p.Get("Signed-By"))})
		}
	}
	return entries, nil
}

// isFalse knows the spellings apt does (StringToBool in apt-pkg/contrib/strutl.cc).
func isFalse(s string) bool {
	return slices.Contains([]string{"no", "false", "without", "off", "disable", "0"}, strings.ToLower(s))
}
