package debian

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"rempart/builder/debian/control"
	"rempart/builder/debian/xz"
)

// Bounds of what an archive may make us read. Debian's InRelease has 150 KB, its largest index 50 MB in 64,000
// paragraphs.
const (
	maxRelease       = 8 << 20
	maxIndexSize     = 1 << 30
	maxIndexPackages = 1_000_000
	maxIndexMemory   = 256 << 20 // of the xz dictionary, in bytes
)

// available is a package an index offers.
type available struct {
	name         string
	version      control.Version
	arch         string
	multiArch    string
	source       string
	suite        string
	path         string
	content      content
	fields       [len(relationFields)]string // as written; few packages are ever looked at
	providesText string
}

// relationFields are the relations that matter here, in the order they are followed.
var relationFields = [...]string{"Pre-Depends", "Depends", "Conflicts", "Breaks"}

const (
	preDepends = iota
	depends
	conflicts
	breaks
)

// universe is all packages of several suites by name, newest first.
type universe struct {
	byName    map[string][]*available
	providers map[string][]provider // by the virtual package's name
}

// provider is a package that provides a virtual one, at a version or none.
type provider struct {
	*available
	version control.Version
}

// loader adds the packages of suites to a universe.
type loader struct {
	*Store
	arch     string
	all      *universe
	progress *tracker
}

// suite finds a mirror whose Release of a suite is signed, in order and no older than that of a lock before, and adds
// the suite's packages. It returns the date of the Release.
func (s *loader) suite(ctx context.Context, suite string, locked time.Time) (time.Time, error) {
	mirrors, err := s.mirrorsFor(ctx, suite)
	if err != nil {
		return time.Time{}, err
	}
	var failed tried
	for _, m := range mirrors {
		date, err := s.suiteFrom(ctx, m, suite, locked)
		if err == nil {
			s.log.Debug("a suite was read", "suite", suite, "mirror", m.String(), "date", date)
			return date, nil
		}
		if ctx.Err() != nil {
			return time.Time{}, stopped(ctx)
		}
		failed = append(failed, fmt.Errorf("%s from %s: %w", suite, m, err))
		if errors.Is(err, ErrNoSpace) || errors.Is(err, ErrReadOnly) {
			break
		}
	}
	if strings.HasSuffix(suite, securitySuffix) && errors.Is(failed, ErrGone) {
		return time.Time{}, fmt.Errorf("%w; give the security archive's address with --security-mirror, for example %s, or "+
			"leave security updates out with --security-mirror %s", failed, securityPattern, NoSecurity)
	}
	return time.Time{}, failed
}

func (s *loader) suiteFrom(ctx context.Context, m mirror, suite string, locked time.Time) (time.Time, error) {
	if m.base == nil {
		return time.Time{}, wrap(ErrSignature, "a directory of .debs has no signed index, so a lock cannot be made from "+
			"it: give a whole mirror (with dists/ and pool/)")
	}
	s.progress.stage(StageIndex, suite)
	dists := "dists/" + suite + "/"
	signed, err := s.get(ctx, m.file(dists+"InRelease"), maxRelease)
	if err != nil {
		return time.Time{}, err
	}
	text, err := openSigned(signed, s.keys, s.now())
	if err != nil {
		return time.Time{}, err
	}
	r, err := parseRelease(text, suite, s.arch)
	if err != nil {
		return time.Time{}, err
	}
	if err := r.checkTime(s.now(), locked); err != nil {
		return time.Time{}, err
	}
	wanted, err := r.indices(s.arch)
	if err != nil {
		return time.Time{}, err
	}
	var found []*available
	for _, spellings := range wanted {
		some, err := s.index(ctx, m, dists, spellings, r)
		if err != nil {
			return time.Time{}, err
		}
		found = append(found, some...)
	}
	s.all.add(found)
	return r.date, nil
}

// index reads one index in the first spelling the mirror has.
func (s *loader) index(
	ctx context.Context, m mirror, dists string, spellings []string, r *release,
) ([]*available, error) {
	var failed tried
	for _, name := range spellings {
		want := r.files[name]
		if want.size > maxIndexSize {
			return nil, fmt.Errorf("%s: an index of %d bytes", name, want.size)
		}
		var from []*url.URL
		if r.byHash { // while a mirror is updated the name may stand for another state than the Release
			from = append(from, m.file(dists+path.Dir(name)+"/by-hash/SHA256/"+want.digest.String()))
		}
		from = append(from, m.file(dists+name))
		cached := s.indexPath(r.suite + "-" + strings.ReplaceAll(name, "/", "-"))
		f, err := openVerified(cached, want)
		if err != nil { // missing or of another state of the archive
			s.progress.expect(want.size)
			if err := s.download(ctx, from, cached, want, s.progress.file(r.suite)); err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", name, err))
				if errors.Is(err, ErrGone) {
					continue
				}
				return nil, failed
			}
			if f, err = openVerified(cached, want); err != nil {
				return nil, err
			}
		}
		s.progress.stage(StageIndex, r.suite)
		found, err := readIndex(ctx, f, path.Ext(name), r.suite, s.arch)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", name, r.suite, err)
		}
		return found, nil
	}
	return nil, failed
}

// readIndex reads a Packages file that may be packed.
func readIndex(ctx context.Context, f *os.File, packing, suite, arch string) ([]*available, error) {
	var r io.ReadCloser
	var err error
	switch packing {
	case ".xz":
		var info os.FileInfo
		if info, err = f.Stat(); err == nil {
			r, err = xz.NewReader(f, info.Size(), maxIndexMemory)
		}
	case ".gz":
		r, err = gzip.NewReader(bufio.NewReader(f))
	default:
		r = io.NopCloser(f)
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return parseIndex(ctx, io.LimitReader(r, maxIndexSize), suite, arch)
}

// parseIndex reads a Packages file. Packages of other architectures are passed over.
func parseIndex(ctx context.Context, r io.Reader, suite, arch string) ([]*available, error) {
	var found []*available
	reader := control.NewReader(r)
	for ctx.Err() == nil {
		p, err := reader.Next()
		if err == io.EOF {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		a, err := fromIndex(p, suite)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", p.Line, err)
		}
		if a.arch != arch && a.arch != "all" {
			continue
		}
		if found = append(found, a); len(found) > maxIndexPackages {
			return nil, fmt.Errorf("more than %d packages", maxIndexPackages)
		}
	}
	return nil, stopped(ctx)
}

func fromIndex(p *control.Paragraph, suite string) (*available, error) {
	a := &available{name: p.Get("Package"), version: control.Version(p.Get("Version")), arch: p.Get("Architecture"),
		multiArch: p.Get("Multi-Arch"), source: p.Get("Source"), suite: suite, path: p.Get("Filename"),
		providesText: p.Get("Provides")}
	if !control.IsPackageName(a.name) {
		return nil, fmt.Errorf("%.80q is not a package name", a.name)
	}
	if err := control.CheckVersion(a.version); err != nil {
		return nil, fmt.Errorf("package %s: %w", a.name, err)
	}
	if a.source == "" {
		a.source = a.name
	}
	if !isPoolPath(a.path) {
		return nil, fmt.Errorf("package %s: Filename %.200q is not a .deb below pool/", a.name, a.path)
	}
	var err error
	a.content.size, err = strconv.ParseInt(p.Get("Size"), 10, 64)
	if err != nil || a.content.size <= 0 || a.content.size > maxPackageSize {
		return nil, fmt.Errorf("package %s: Size %.40q", a.name, p.Get("Size"))
	}
	if a.content.digest, err = parseDigest(p.Get("SHA256")); err != nil {
		return nil, fmt.Errorf("package %s: %w", a.name, err)
	}
	for i, field := range relationFields {
		a.fields[i] = p.Get(field)
	}
	return a, nil
}

// add puts packages in, keeping each name's newest first; of equal versions the one that came first stands first.
func (u *universe) add(found []*available) {
	if u.byName == nil {
		u.byName, u.providers = map[string][]*available{}, map[string][]provider{}
	}
	for _, a := range found {
		list := append(u.byName[a.name], a)
		slices.SortStableFunc(list, func(x, y *available) int { return control.Compare(y.version, x.version) })
		u.byName[a.name] = list
		if a.providesText == "" {
			continue
		}
		groups, err := control.ParseRelations(a.providesText)
		if err != nil {
			continue // it then provides nothing
		}
		for _, group := range groups {
			for _, r := range group {
				u.providers[r.Name] = append(u.providers[r.Name], provider{a, r.Version})
			}
		}
	}
}

// sortProviders puts the providers of each virtual package in an order that depends on nothing but the packages.
func (u *universe) sortProviders() {
	for _, list := range u.providers {
		slices.SortStableFunc(list, func(x, y provider) int {
			return cmp.Or(cmp.Compare(x.name, y.name), control.Compare(y.available.version, x.available.version))
		})
	}
}

// locked is the package as a lock has it, without digest of the unpacked form.
func (a *available) locked(roots []string) Locked {
	return Locked{Name: a.name, Version: a.version, Arch: a.arch, Source: a.source, Archive: a.suite, Path: a.path,
		Size: a.content.size, SHA256: a.content.digest.String(), For: roots}
}
