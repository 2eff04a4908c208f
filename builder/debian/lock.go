package debian

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"rempart/builder/debian/control"
)

// lockVersion is the format of the lock files this package reads and writes.
const lockVersion = 1

// Bounds of a lock file; the default one has 12 packages in 7 KiB.
const (
	maxLockSize     = 4 << 20
	maxLockPackages = 4096
	maxPackageSize  = 4 << 30 // bytes of one .deb
)

// Lock names the exact packages masters are made of.
type Lock struct {
	Suite    string    // code name of the release: "bookworm"
	Arch     string    // "amd64"
	Archives []Archive // the signed states it was made from, in the order of their names
	Packages []Locked  // in the order of their names

	name string // of the file, for errors
}

// Archive is the state of one suite of the archive when the lock was made.
type Archive struct {
	Suite string    // "bookworm-security"
	Date  time.Time // of its Release file, UTC, in whole seconds
}

// Locked is one package of a lock.
type Locked struct {
	Name    string
	Version control.Version
	Arch    string // "amd64" or "all"
	Source  string // name of the source package, and its version in parentheses where it differs
	Archive string // the suite that has it: "bookworm-updates"
	Path    string // relative to the root of the mirror: "pool/main/e/..."
	Size    int64  // of the .deb, in bytes
	SHA256  string // of the .deb
	// Unpacked is the SHA-256 of the .deb with its members unpacked, see deb.Deb.Repack.
	Unpacked string
	For      []string // the roots it is there for
}

//go:embed *.lock
var defaultLocks embed.FS

// DefaultLock returns the lock this build of rempart carries for an architecture; an error that wraps ErrUnknown for
// one that masters are not made for, fs.ErrNotExist where it carries none.
func DefaultLock(arch string) (*Lock, error) {
	if _, err := Roots(arch); err != nil {
		return nil, err
	}
	name := DefaultSuite + "-" + arch + ".lock"
	text, err := defaultLocks.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("there is no default lock for the architecture %q; "+
			"`rempart lock --arch %s -o FILE` makes one: %w", arch, arch, err)
	}
	return parseLock("the default "+name, text)
}

// DefaultSuite is the Debian release of the default locks.
const DefaultSuite = "bookworm"

// ReadLock reads a lock file. Errors that lie in the file wrap ErrLock and name its line.
func ReadLock(path string) (*Lock, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lock file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxLockSize+1))
	if err != nil {
		return nil, fmt.Errorf("lock file %s: %w", path, err)
	}
	return parseLock(path, text)
}

// The shape of the file. Positions are kept by yaml.Node for errors.
type lockFile struct {
	Version  int           `yaml:"rempart-lock"`
	Suite    string        `yaml:"suite"`
	Arch     string        `yaml:"arch"`
	Archives []lockArchive `yaml:"archives"`
	Packages []lockPackage `yaml:"packages"`
}

type lockArchive struct {
	Suite string `yaml:"suite"`
	Date  string `yaml:"date"`
}

type lockPackage struct {
	Name     string   `yaml:"name"`
	Version  string   `yaml:"version"`
	Arch     string   `yaml:"arch"`
	Source   string   `yaml:"source"`
	Archive  string   `yaml:"archive"`
	Path     string   `yaml:"path"`
	Size     int64    `yaml:"size"`
	SHA256   string   `yaml:"sha256"`
	Unpacked string   `yaml:"unpacked"`
	For      []string `yaml:"for,flow"`
}

// parseLock reads a lock strictly; name is for errors.
func parseLock(name string, text []byte) (*Lock, error) {
	fail := func(line int, format string, args ...any) error {
		return fmt.Errorf("%s:%d: %s: %w", name, line, fmt.Sprintf(format, args...), ErrLock)
	}
	if len(text) > maxLockSize {
		return nil, fail(1, "larger than %d bytes", maxLockSize)
	}
	var root yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&root); err != nil {
		if err == io.EOF {
			return nil, fail(1, "it is empty; `rempart lock -o FILE` makes one")
		}
		return nil, yamlError(name, err)
	}
	if err := decoder.Decode(new(yaml.Node)); err != io.EOF {
		return nil, fail(1, "expected one document and nothing after it")
	}
	if bad := findAnchor(&root, 0); bad != nil {
		return nil, fail(bad.Line, "anchors, aliases and tags are not used in lock files")
	}
	var file lockFile
	strict := yaml.NewDecoder(bytes.NewReader(text))
	strict.KnownFields(true)
	if err := strict.Decode(&file); err != nil {
		return nil, yamlError(name, err)
	}
	if file.Version != lockVersion {
		return nil, fail(1, "format rempart-lock: %d; this rempart reads %d, so renew it with `rempart lock`",
			file.Version, lockVersion)
	}
	lock := &Lock{Suite: file.Suite, Arch: file.Arch, name: name}
	if err := checkSuite(file.Suite); err != nil {
		return nil, fail(1, "%v", err)
	}
	if _, err := Roots(file.Arch); err != nil {
		return nil, fail(1, "%v", err)
	}
	for i, a := range file.Archives {
		line := itemLine(&root, "archives", i)
		date, err := time.Parse(time.RFC3339, a.Date)
		if err != nil {
			return nil, fail(line, "archive %q: date: %v", a.Suite, err)
		}
		if !slices.Contains(suitesOf(file.Suite), a.Suite) {
			return nil, fail(line, "archive %q is none of %v", a.Suite, suitesOf(file.Suite))
		}
		if i > 0 && file.Archives[i-1].Suite >= a.Suite {
			return nil, fail(line, "archive %q is out of order or there twice", a.Suite)
		}
		lock.Archives = append(lock.Archives, Archive{a.Suite, date.UTC()})
	}
	if len(file.Packages) == 0 || len(file.Packages) > maxLockPackages {
		return nil, fail(1, "%d packages; expected 1 to %d", len(file.Packages), maxLockPackages)
	}
	for i, p := range file.Packages {
		line := itemLine(&root, "packages", i)
		locked, err := p.check(lock)
		if err != nil {
			return nil, fail(line, "package %q: %v", p.Name, err)
		}
		if i > 0 && file.Packages[i-1].Name >= p.Name {
			return nil, fail(line, "package %q is out of order or there twice", p.Name)
		}
		lock.Packages = append(lock.Packages, locked)
	}
	return lock, nil
}

// yamlError puts errors of the YAML package, which name lines as "line 3: what", into the form of all others.
func yamlError(name string, err error) error {
	texts := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	var several *yaml.TypeError
	if errors.As(err, &several) {
		texts = several.Errors
	}
	for i, text := range texts {
		text = strings.NewReplacer("debian.lockFile", "a lock", "debian.lockPackage", "a package of a lock",
			"debian.lockArchive", "an archive of a lock").Replace(text)
		if line, what, ok := strings.Cut(strings.TrimPrefix(text, "line "), ": "); ok && strings.HasPrefix(text, "line ") {
			texts[i] = name + ":" + line + ": " + what
		} else {
			texts[i] = name + ": " + text
		}
	}
	return fmt.Errorf("%s: %w", strings.Join(texts, "; "), ErrLock)
}

var suiteName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}$`)

func (p lockPackage) check(lock *Lock) (Locked, error) {
	l := Locked{Name: p.Name, Version: control.Version(p.Version), Arch: p.Arch, Source: p.Source, Archive: p.Archive,
		Path: p.Path, Size: p.Size, SHA256: p.SHA256, Unpacked: p.Unpacked, For: p.For}
	if !control.IsPackageName(p.Name) {
		return l, errors.New("not a package name")
	}
	if err := control.CheckVersion(l.Version); err != nil {
		return l, err
	}
	if p.Arch != lock.Arch && p.Arch != "all" {
		return l, fmt.Errorf("arch %q; expected %s or all", p.Arch, lock.Arch)
	}
	if p.Source == "" || strings.ContainsAny(p.Source, "\n\x00") {
		return l, errors.New("source is missing or malformed")
	}
	if !slices.ContainsFunc(lock.Archives, func(a Archive) bool { return a.Suite == p.Archive }) {
		return l, fmt.Errorf("archive %q is not listed under archives", p.Archive)
	}
	if !isPoolPath(p.Path) {
		return l, fmt.Errorf("path %q is not that of a .deb below pool/", p.Path)
	}
	if p.Size <= 0 || p.Size > maxPackageSize {
		return l, fmt.Errorf("size %d; expected 1 to %d bytes", p.Size, int64(maxPackageSize))
	}
	if _, err := parseDigest(p.SHA256); err != nil {
		return l, fmt.Errorf("sha256: %w", err)
	}
	if _, err := parseDigest(p.Unpacked); err != nil {
		return l, fmt.Errorf("unpacked: %w", err)
	}
	if len(p.For) == 0 {
		return l, errors.New("for: the roots it is there for are missing")
	}
	for _, root := range p.For {
		if !control.IsPackageName(root) {
			return l, fmt.Errorf("for: %q is not a package name", root)
		}
	}
	return l, nil
}

// isPoolPath says whether p can be joined to a mirror's address and names a package.
func isPoolPath(p string) bool {
	return fs.ValidPath(p) && strings.HasPrefix(p, "pool/") && strings.HasSuffix(p, ".deb") &&
		!strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`%?#\`, r) })
}

// maxDepth bounds the nesting of a lock, which needs five levels.
const maxDepth = 16

// findAnchor returns the first node that is an alias, has an anchor or an explicit tag, or lies too deep.
func findAnchor(n *yaml.Node, depth int) *yaml.Node {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 || depth > maxDepth {
		return n
	}
	for _, child := range n.Content {
		if bad := findAnchor(child, depth+1); bad != nil {
			return bad
		}
	}
	return nil
}

// itemLine is the line of item i of the list called key.
func itemLine(root *yaml.Node, key string, i int) int {
	if len(root.Content) == 0 {
		return 1
	}
	top := root.Content[0]
	for k := 0; k+1 < len(top.Content); k += 2 {
		if top.Content[k].Value == key && i < len(top.Content[k+1].Content) {
			return top.Content[k+1].Content[i].Line
		}
	}
	return 1
}

// lockHeader tells a reader of the file what it is.
const lockHeader = "# The exact Debian packages masters are made of. Written by `rempart lock`, which renews it and\n" +
	"# shows what changes. size and sha256 are those of the .deb, unpacked is the SHA-256 of the same .deb with\n" +
	"# its members unpacked.\n"

// Text is the lock as its file has it.
func (l *Lock) Text() []byte {
	file := lockFile{Version: lockVersion, Suite: l.Suite, Arch: l.Arch}
	for _, a := range l.Archives {
		file.Archives = append(file.Archives, lockArchive{a.Suite, a.Date.UTC().Format(time.RFC3339)})
	}
	for _, p := range l.Packages {
		file.Packages = append(file.Packages, lockPackage{p.Name, string(p.Version), p.Arch, p.Source, p.Archive, p.Path,
			p.Size, p.SHA256, p.Unpacked, p.For})
	}
	var b bytes.Buffer
	b.WriteString(lockHeader)
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(file); err != nil {
		panic(fmt.Sprintf("a lock of plain strings and numbers cannot be written: %v", err))
	}
	return b.Bytes()
}

// Package returns the package of a name.
func (l *Lock) Package(name string) (Locked, bool) {
	for _, p := range l.Packages {
		if p.Name == name {
			return p, true
		}
	}
	return Locked{}, false
}

// Select returns the packages that are named or are there for a named root, in the order of the lock; all of them
// where no name is given. A name that is neither is an error.
func (l *Lock) Select(names ...string) ([]Locked, error) {
	if len(names) == 0 {
		return slices.Clone(l.Packages), nil
	}
	missing := slices.Clone(names)
	var selected []Locked
	for _, p := range l.Packages {
		wanted := false
		for _, name := range names {
			if p.Name == name || slices.Contains(p.For, name) {
				wanted = true
				missing = slices.DeleteFunc(missing, func(m string) bool { return m == name })
			}
		}
		if wanted {
			selected = append(selected, p)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("%s has no package %s; `rempart lock` renews it", l.name, strings.Join(missing, ", "))
	}
	return selected, nil
}
