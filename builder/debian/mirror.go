package debian

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"rempart/builder/debian/sources"
)

const (
	updatesSuffix  = "-updates"
	securitySuffix = "-security"
	// NoSecurity in Options.SecurityMirror leaves the security archive out.
	NoSecurity = "none"
	// maxMirrorList bounds a list of mirrors (apt-transport-mirror(1)), in bytes.
	maxMirrorList = 256 << 10
	maxMirrors    = 64
)

// movingNames are suites whose meaning changes with each release of Debian.
var movingNames = []string{"stable", "oldstable", "oldoldstable", "testing", "unstable", "experimental"}

// codeNames are the releases whose entries in apt's configuration point at a full Debian mirror. A name that is
// missing here costs no more than an explicit --mirror.
var codeNames = slices.Concat([]string{"buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid"}, movingNames)

func checkSuite(suite string) error {
	if slices.Contains(movingNames, suite) {
		return wrap(ErrUnknown, "suite %q means another release each few years; give a code name such as %s",
			suite, DefaultSuite)
	}
	part := strings.HasSuffix(suite, updatesSuffix) || strings.HasSuffix(suite, securitySuffix)
	if part || !suiteName.MatchString(suite) {
		return wrap(ErrUnknown, "suite %q is not a code name of Debian such as %s", suite, DefaultSuite)
	}
	return nil
}

// suitesOf are the suites whose packages make up a release, in the order of their names.
func suitesOf(suite string) []string {
	if suite == "sid" { // takes updates directly
		return []string{suite}
	}
	return []string{suite, suite + securitySuffix, suite + updatesSuffix}
}

// mirror is one place to get files of an archive from: below an address, or a directory of .debs.
type mirror struct {
	base *url.URL // http, https or file; nil for a directory of .debs
	flat string
}

// file is the address of a file of the mirror.
func (m mirror) file(name string) *url.URL { return m.base.JoinPath(strings.Split(name, "/")...) }

func (m mirror) String() string {
	if m.base == nil {
		return m.flat
	}
	return m.base.Redacted()
}

// parseMirror understands what --mirror may be: an address or a path.
func parseMirror(s string) (mirror, error) {
	u, err := url.Parse(s)
	if err != nil {
		return mirror{}, fmt.Errorf("mirror %q: %w", s, err)
	}
	switch {
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		return mirror{base: u}, nil
	case u.Scheme == "file" || u.Scheme == "copy":
		if u.Host != "" && u.Host != "localhost" || !strings.HasPrefix(u.Path, "/") {
			return mirror{}, fmt.Errorf("mirror %q: expected file:/ and an absolute path", s)
		}
		return localMirror(u.Path)
	case u.Scheme == "" && u.Host == "":
		dir, err := filepath.Abs(s)
		if err != nil {
			return mirror{}, fmt.Errorf("mirror %q: %w", s, err)
		}
		return localMirror(dir)
	}
	return mirror{}, fmt.Errorf("mirror %q: expected http://, https://, file:/ or a directory", s)
}

// localMirror is an archive where the directory has dists, and a directory of .debs otherwise.
func localMirror(dir string) (mirror, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return mirror{}, fmt.Errorf("mirror: %w", err)
	}
	if !info.IsDir() {
		return mirror{}, fmt.Errorf("mirror %s is not a directory", dir)
	}
	if _, err := os.Stat(filepath.Join(dir, "dists")); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, "pool")); errors.Is(err, fs.ErrNotExist) {
			return mirror{flat: dir}, nil
		}
	}
	return mirror{base: &url.URL{Scheme: "file", Path: filepath.Clean(dir)}}, nil
}

// mirrorsFor returns where to look for one suite, best first; never none without an error.
func (s *Store) mirrorsFor(ctx context.Context, suite string) ([]mirror, error) {
	security := strings.HasSuffix(suite, securitySuffix)
	given := s.options.Mirror
	if security && s.options.SecurityMirror != "" {
		given = s.options.SecurityMirror
	}
	if given == "" {
		return s.aptMirrors(ctx, suite)
	}
	m, err := parseMirror(given)
	if err != nil {
		return nil, err
	}
	mirrors := []mirror{m}
	if security && s.options.SecurityMirror == "" {
		// Mirrors that carry both name them side by side; a private one may hold all suites together.
		if derived, ok := securityBeside(m); ok {
			mirrors = []mirror{derived, m}
		}
	}
	return mirrors, nil
}

// securityBeside turns .../debian into .../debian-security, also inside the path, as archives of snapshots have it.
func securityBeside(m mirror) (mirror, bool) {
	if m.base == nil {
		return mirror{}, false
	}
	segments := strings.Split(m.base.Path, "/")
	for i, segment := range slices.Backward(segments) {
		if segment == "debian" {
			segments[i] = "debian-security"
			beside := *m.base
			beside.Path, beside.RawPath = strings.Join(segments, "/"), ""
			return mirror{base: &beside}, true
		}
	}
	return mirror{}, false
}

// Ranks of an entry of apt's configuration as a mirror of a suite.
const (
	rankDebianKeyed = iota // it names the suite and Debian's keyring
	rankSuite              // it names the suite
	rankOther              // it names another suite of Debian, which the same mirror usually holds too
	rankDerived            // the security archive beside a mirror
	rankForeignKey         // it names the suite but somebody else's key: an archive built for that release
	rankCount
)

// aptMirrors finds mirrors of a suite in apt's configuration.
func (s *Store) aptMirrors(ctx context.Context, suite string) ([]mirror, error) {
	entries, problems, err := sources.Read(s.options.AptDir)
	if err != nil {
		return nil, err
	}
	for _, problem := range problems {
		s.log.Debug("apt's configuration is not understood", "error", problem)
	}
	var ranked [rankCount][]string
	for _, e := range entries {
		rank, uri, ok := rankEntry(e, suite)
		if !ok {
			continue
		}
		ranked[rank] = append(ranked[rank], uri)
	}
	var mirrors []mirror
	for rank, uris := range ranked {
		for _, uri := range uris {
			some, err := s.expand(ctx, uri)
			if err != nil {
				s.log.Debug("an entry of apt's configuration cannot be used", "uri", redact(uri), "error", err)
				continue
			}
			for _, m := range some {
				if rank == rankDerived {
					var ok bool
					if m, ok = securityBeside(m); !ok {
						continue
					}
				}
				same := func(o mirror) bool { return o.String() == m.String() }
				if !slices.ContainsFunc(mirrors, same) && len(mirrors) < maxMirrors {
					mirrors = append(mirrors, m)
				}
			}
		}
	}
	if len(mirrors) == 0 {
		flags := "--mirror " + mirrorPattern
		if strings.HasSuffix(suite, securitySuffix) {
			flags += " --security-mirror " + securityPattern
		}
		return nil, wrap(ErrNoMirror, "apt's configuration in %s names no Debian mirror for %s; add the options\n"+
			"  %s\nwhere MIRROR is a Debian mirror near you (https://www.debian.org/mirror/list), or give a directory of .debs",
			s.options.AptDir, suite, flags)
	}
	return mirrors, nil
}

// rankEntry says how good an entry of apt's configuration is as a source of a suite.
func rankEntry(e sources.Entry, suite string) (rank int, uri string, ok bool) {
	if !slices.Contains(e.Components, component) {
		return 0, "", false
	}
	base := releaseOf(e.Suite)
	isSecurity := strings.HasSuffix(e.Suite, securitySuffix) || strings.HasSuffix(e.Suite, "/updates")
	wantSecurity := strings.HasSuffix(suite, securitySuffix)
	if !slices.Contains(codeNames, base) && base != releaseOf(suite) {
		return 0, "", false
	}
	foreign := e.SignedBy != "" && !strings.Contains(e.SignedBy, "debian-archive") &&
		!strings.Contains(e.SignedBy, "BEGIN PGP") && strings.Contains(e.SignedBy, "/")
	switch {
	case foreign:
		return rankForeignKey, e.URI, wantSecurity == isSecurity
	case wantSecurity && !isSecurity:
		return rankDerived, e.URI, true
	case wantSecurity != isSecurity:
		return 0, "", false
	case e.Suite == suite && strings.Contains(e.SignedBy, "debian-archive"):
		return rankDebianKeyed, e.URI, true
	case e.Suite == suite:
		return rankSuite, e.URI, true
	}
	return rankOther, e.URI, true
}

// releaseOf is the release a suite belongs to: "bookworm" for "bookworm-security", "buster" for "buster/updates".
func releaseOf(suite string) string {
	suite, _, _ = strings.Cut(suite, "/")
	for _, suffix := range []string{"-proposed-updates", updatesSuffix, securitySuffix, "-backports"} {
		suite = strings.TrimSuffix(suite, suffix)
	}
	return suite
}

// expand turns an URI of apt's configuration into mirrors; lists of mirrors are read.
func (s *Store) expand(ctx context.Context, uri string) ([]mirror, error) {
	scheme, rest, _ := strings.Cut(uri, ":")
	var list string
	switch scheme {
	case "http", "https", "file", "copy":
		m, err := parseMirror(uri)
		return []mirror{m}, err
	case "mirror", "mirror+http":
		list = "http:" + rest
	case "mirror+https", "mirror+file":
		list = strings.TrimPrefix(scheme, "mirror+") + ":" + rest
	default: // cdrom, ftp, tor, ssh and what else apt has methods for
		return nil, fmt.Errorf("its scheme %q is not supported", scheme)
	}
	u, err := url.Parse(list)
	if err != nil {
		return nil, err
	}
	text, err := s.get(ctx, u, maxMirrorList)
	if err != nil {
		return nil, fmt.Errorf("list of mirrors: %w", err)
	}
	var mirrors []mirror
	for scan := bufio.NewScanner(strings.NewReader(string(text))); scan.Scan() && len(mirrors) < maxMirrors; {
		line, _, _ := strings.Cut(scan.Text(), "\t") // what follows is priority, architecture and the like
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "mirror") {
			continue
		}
		if m, err := parseMirror(line); err == nil {
			mirrors = append(mirrors, m)
		}
	}
	return mirrors, nil
}

// redact leaves out the password an address may carry.
func redact(uri string) string {
	if u, err := url.Parse(uri); err == nil {
		return u.Redacted()
	}
	return path.Base(uri)
}

// get reads a small file into memory.
func (s *Store) get(ctx context.Context, u *url.URL, limit int64) ([]byte, error) {
	var text []byte
	err := s.retry(ctx, u, func() error {
		response, done, err := s.request(ctx, u, 0)
		if err != nil {
			return err
		}
		defer done()
		if response.StatusCode != http.StatusOK {
			return statusError(response)
		}
		text, err = io.ReadAll(io.LimitReader(response.Body, limit+1))
		if err != nil {
			return transient{fmt.Errorf("%w: %w", ErrTruncated, err)}
		}
		if int64(len(text)) > limit {
			return fmt.Errorf("larger than %d bytes", limit)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", u.Redacted(), err)
	}
	return text, nil
}
