package debian

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"rempart/builder/debian/control"
)

// digest is a SHA-256.
type digest [32]byte

func (d digest) String() string { return hex.EncodeToString(d[:]) }

func parseDigest(s string) (d digest, err error) {
	if len(s) != 2*len(d) || strings.ToLower(s) != s {
		return d, fmt.Errorf("%.80q is not a SHA-256 of 64 lower-case hexadecimal digits", s)
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return d, fmt.Errorf("%q is not a SHA-256: %w", s, err)
	}
	return d, nil
}

// content names bytes by size and digest.
type content struct {
	size   int64
	digest digest
}

// release is what an archive's signed Release file says about one suite
// (https://wiki.debian.org/DebianRepository/Format).
type release struct {
	suite      string // the code name, "bookworm-security"
	date       time.Time
	validUntil time.Time // zero where the archive sets none
	byHash     bool
	allApart   bool // packages for all architectures have an index of their own only
	files      map[string]content
}

// clockSlack is how far in the future a Release may lie before the machine's clock is called wrong.
const clockSlack = 24 * time.Hour

// maxReleaseFiles bounds the files one Release names; Debian's names about 1,900 per digest.
const maxReleaseFiles = 100_000

// parseRelease reads the signed text of a Release file and checks that it is Debian's, of the suite and for the
// architecture that were asked for.
func parseRelease(text []byte, suite, arch string) (*release, error) {
	reader := control.NewReader(bytes.NewReader(text))
	p, err := reader.Next()
	if err != nil {
		return nil, fmt.Errorf("the Release of %s: %w", suite, err)
	}
	if _, err := reader.Next(); err != io.EOF {
		return nil, fmt.Errorf("the Release of %s: expected one paragraph: %w", suite, errors.Join(err, ErrSignature))
	}
	r := &release{suite: suite, files: map[string]content{}}
	wantLabel := "Debian"
	if strings.HasSuffix(suite, securitySuffix) {
		wantLabel = "Debian-Security"
	}
	for _, want := range []struct{ field, value string }{
		{"Origin", "Debian"}, {"Label", wantLabel}, {"Codename", suite},
	} {
		if got := p.Get(want.field); got != want.value {
			return nil, wrap(ErrSuite, "the Release of %s has %s %q; expected %q", suite, want.field, got, want.value)
		}
	}
	if !slices.Contains(strings.Fields(p.Get("Architectures")), arch) {
		return nil, wrap(ErrSuite, "the Release of %s is for the architectures %q; expected %s",
			suite, p.Get("Architectures"), arch)
	}
	if r.date, err = time.Parse(time.RFC1123, p.Get("Date")); err != nil {
		return nil, fmt.Errorf("the Release of %s: Date: %w", suite, err)
	}
	if until := p.Get("Valid-Until"); until != "" {
		if r.validUntil, err = time.Parse(time.RFC1123, until); err != nil {
			return nil, fmt.Errorf("the Release of %s: Valid-Until: %w", suite, err)
		}
	}
	r.byHash = p.Get("Acquire-By-Hash") == "yes"
	r.allApart = slices.Contains(strings.Fields(p.Get("Architectures")), "all") &&
		p.Get("No-Support-for-Architecture-all") != "Packages"
	for line := range strings.SplitSeq(p.Get("SHA256"), "\n") {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 3 || !fs.ValidPath(words[2]) || len(r.files) == maxReleaseFiles {
			return nil, fmt.Errorf("the Release of %s: SHA256: cannot use the line %.100q", suite, line)
		}
		sum, err := parseDigest(words[0])
		if err != nil {
			return nil, fmt.Errorf("the Release of %s: %s: %w", suite, words[2], err)
		}
		size, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("the Release of %s: %s: impossible size %q", suite, words[2], words[1])
		}
		r.files[words[2]] = content{size, sum}
	}
	return r, nil
}

// checkTime refuses a Release that is no longer valid, lies in the future, or is older than the one the lock in use was
// made from: a mirror that is kept from getting security updates looks like that.
func (r *release) checkTime(now, locked time.Time) error {
	const show = "2006-01-02 15:04 MST"
	switch {
	case !r.validUntil.IsZero() && now.After(r.validUntil):
		return wrap(ErrStale, "%s was valid until %s and this machine's clock says %s: the mirror is not kept up to date "+
			"(try another with --mirror or --security-mirror) or the clock is wrong (check it with `date`)",
			r.suite, r.validUntil.UTC().Format(show), now.UTC().Format(show))
	case r.date.After(now.Add(clockSlack)):
		return wrap(ErrStale, "%s is dated %s and this machine's clock says %s: the clock is wrong; set it and try again",
			r.suite, r.date.UTC().Format(show), now.UTC().Format(show))
	case r.date.Before(locked):
		return wrap(ErrStale, "%s is dated %s, older than the %s of the lock: the mirror lags behind or withholds updates; "+
			"try another with --mirror or --security-mirror", r.suite, r.date.UTC().Format(show), locked.UTC().Format(show))
	}
	return nil
}

// indices are the package indices of one architecture to be read, each with the spellings a mirror may have it in,
// best first.
func (r *release) indices(arch string) ([][]string, error) {
	archs := []string{arch}
	if r.allApart {
		archs = append(archs, "all")
	}
	var all [][]string
	for _, arch := range archs {
		var spellings []string
		for _, suffix := range []string{".xz", ".gz", ""} {
			name := component + "/binary-" + arch + "/Packages" + suffix
			if _, ok := r.files[name]; ok {
				spellings = append(spellings, name)
			}
		}
		if len(spellings) == 0 {
			return nil, wrap(ErrSuite, "the Release of %s names no index of packages for %s in %s", r.suite, arch, component)
		}
		all = append(all, spellings)
	}
	return all, nil
}
