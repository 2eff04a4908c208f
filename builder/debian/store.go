package debian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"golang.org/x/sync/errgroup"

	"rempart/builder/debian/aptconf"
	"rempart/builder/debian/deb"
)

// maxParallel is how many downloads run at once: enough to hide latency, few enough to be a good guest at a mirror.
const maxParallel = 4

// Options say where packages come from and where they are kept. The zero value is right for most machines.
type Options struct {
	// CacheDir is where packages are kept; empty means rempart below XDG_CACHE_HOME, or ~/.cache, or /var/cache.
	CacheDir string
	// Mirror is the address of a Debian mirror (http, https, file:), a directory holding one, or a directory of .debs;
	// empty means those of apt's configuration.
	Mirror string
	// SecurityMirror is the same for the security archive; empty means beside Mirror. NoSecurity leaves it out of locks.
	SecurityMirror string
	// AptDir is apt's configuration; empty means /etc/apt.
	AptDir string
	// Progress, if set, is told how downloading and unpacking go. It is called by one goroutine at a time.
	Progress func(Progress)
	// Log takes what is worth knowing but is no error; nil discards it.
	Log *slog.Logger
}

// Store is a cache of packages with the mirrors that fill it. It is safe for concurrent use, also of several processes
// on the same directory.
type Store struct {
	options      Options
	log          *slog.Logger
	client       *http.Client
	apt          func() *aptconf.Config // reads it once it is needed
	keys         openpgp.EntityList
	now          func() time.Time
	backoff      time.Duration
	stallTimeout time.Duration
	unpacking    chan struct{} // one token for each package that may be unpacked at once
}

// OpenStore returns the store of a cache directory, which need not exist yet. Nothing is read or written before it is
// needed.
func OpenStore(options Options) (*Store, error) {
	if options.CacheDir == "" {
		options.CacheDir = defaultCacheDir()
	}
	if options.AptDir == "" {
		options.AptDir = "/etc/apt"
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if options.Progress == nil {
		options.Progress = func(Progress) {}
	}
	keys, err := readKeys(archiveKeys)
	if err != nil {
		return nil, err
	}
	s := &Store{options: options, log: options.Log, keys: keys, now: time.Now,
		backoff: firstBackoff, stallTimeout: stallTimeout, unpacking: make(chan struct{}, runtime.GOMAXPROCS(0))}
	s.apt = sync.OnceValue(s.readApt)
	s.client = s.newClient()
	return s, nil
}

// defaultCacheDir follows the XDG Base Directory Specification; a daemon without a home has /var/cache.
func defaultCacheDir() string {
	if dir := os.Getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "rempart")
	}
	if home := os.Getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".cache", "rempart")
	}
	return "/var/cache/rempart"
}

func (s *Store) debPath(sum string) string {
	return filepath.Join(s.options.CacheDir, "debs", sum+".deb")
}
func (s *Store) unpackedPath(sum string) string {
	return filepath.Join(s.options.CacheDir, "unpacked", sum+".deb")
}
func (s *Store) indexPath(name string) string {
	return filepath.Join(s.options.CacheDir, "indices", name)
}

// Fetch returns packages of a lock: those named, those there for a root that is named, or all where no name is given,
// in the order of the lock. What the cache lacks, or has damaged, is downloaded; each package is checked against the
// lock. Without anything to download no network and no apt configuration is touched. Close the packages after use.
func (s *Store) Fetch(ctx context.Context, lock *Lock, names ...string) ([]*Package, error) {
	selected, err := lock.Select(names...)
	if err != nil {
		return nil, err
	}
	packages := make([]*Package, len(selected))
	progress := newTracker(s.options.Progress)
	err = s.each(ctx, len(selected), func(_ context.Context, i int) error {
		p, err := s.openUnpacked(selected[i])
		switch {
		case err == nil:
			packages[i] = p
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, ErrDigest) || errors.Is(err, deb.ErrMalformed):
			s.log.Warn("the package cache is damaged; the package is unpacked again", "error", err)
		default:
			return err
		}
		return nil
	})
	if err == nil {
		var missing []int
		for i, p := range packages {
			if p == nil {
				missing = append(missing, i)
			}
		}
		for _, i := range missing {
			if verifyFile(s.debPath(selected[i].SHA256), selected[i].content()) != nil {
				progress.expect(selected[i].Size)
			}
		}
		err = s.each(ctx, len(missing), func(ctx context.Context, n int) error {
			i := missing[n]
			if err := s.bring(ctx, selected[i].content(), selected[i], progress); err != nil {
				return err
			}
			var err error
			packages[i], err = s.unpack(ctx, selected[i], progress)
			return err
		})
	}
	progress.finish()
	s.markUsed(packages)
	if err != nil {
		for _, p := range packages {
			if p != nil {
				p.Close()
			}
		}
		return nil, err
	}
	return packages, nil
}

// each calls do for 0 to n-1, a few at a time, and stops at the first error.
func (s *Store) each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxParallel)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// bring makes sure that the cache has the .deb of a package.
func (s *Store) bring(ctx context.Context, want content, l Locked, progress *tracker) error {
	target := s.debPath(l.SHA256)
	err := verifyFile(target, want)
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrDigest) {
		s.log.Warn("the package cache is damaged; the package is downloaded again", "error", err)
		if err := os.Remove(target); err != nil {
			return diskError(err)
		}
	}
	what := fmt.Sprintf("package %s %s", l.Name, l.Version)
	mirrors, err := s.mirrorsFor(ctx, l.Archive)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	var from []*url.URL
	for _, m := range mirrors {
		if m.base != nil {
			from = append(from, m.file(l.Path))
			continue
		}
		file, err := findDeb(m.flat, l, want)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		from = append(from, &url.URL{Scheme: "file", Path: file})
	}
	if err := s.download(ctx, from, target, want, progress.file(l.Name)); err != nil {
		hint := ""
		switch {
		case errors.Is(err, ErrGone):
			hint = "; a newer version has replaced it: renew the lock with `rempart lock`, then build again"
		case errors.Is(err, ErrOffline):
			hint = "; the cache in " + s.options.CacheDir + " does not have it: go online, or give --mirror"
		case errors.Is(err, ErrDigest):
			hint = "; the mirror or something on the way to it has changed the file: try another with --mirror"
		}
		return fmt.Errorf("%s: %w%s", what, err, hint)
	}
	return nil
}

// unpack makes the unpacked form of a package whose .deb the cache has, and opens it. Where l does not say its digest
// yet, it is filled in the package returned.
func (s *Store) unpack(ctx context.Context, l Locked, progress *tracker) (*Package, error) {
	select {
	case s.unpacking <- struct{}{}:
		defer func() { <-s.unpacking }()
	case <-ctx.Done():
		return nil, stopped(ctx)
	}
	what := fmt.Sprintf("package %s %s", l.Name, l.Version)
	progress.unpacking(l.Name)
	packed, err := openVerified(s.debPath(l.SHA256), l.content())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer packed.Close()
	d, err := deb.Open(packed, l.Size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	// The part is named after the .deb, so that two processes do not both unpack it and a killed one leaves one at most.
	temporary := s.unpackedPath(l.SHA256) + partSuffix
	if err := os.MkdirAll(filepath.Dir(temporary), 0o755); err != nil {
		return nil, diskError(err)
	}
	part, err := lockPart(ctx, temporary)
	if err != nil {
		return nil, err
	}
	defer part.Close()
	if l.Unpacked != "" {
		if p, err := s.openUnpacked(l); err == nil {
			os.Remove(temporary)
			return p, nil // another process was faster
		}
	}
	p, err := s.repack(ctx, d, part, l)
	if err != nil {
		os.Remove(temporary)
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return p, nil
}

// repack writes the unpacked form of a package to the part, checks it, gives it its name and opens it.
func (s *Store) repack(ctx context.Context, d *deb.Deb, part *os.File, l Locked) (*Package, error) {
	if err := part.Truncate(0); err != nil {
		return nil, diskError(err)
	}
	if err := d.Repack(cancellable{ctx, part}); err != nil {
		if errors.Is(err, deb.ErrMalformed) || ctx.Err() != nil {
			return nil, err
		}
		return nil, diskError(err)
	}
	sum, err := hashFile(part)
	if err != nil {
		return nil, err
	}
	if l.Unpacked == "" {
		l.Unpacked = sum.String()
	}
	if sum.String() != l.Unpacked {
		return nil, fmt.Errorf("%w: unpacked its SHA-256 is %v, the lock says %s; renew the lock with `rempart lock`",
			ErrDigest, sum, l.Unpacked)
	}
	// Checked before it has its name: what lies in the cache under a digest is sound.
	opened, err := os.Open(part.Name())
	if err != nil {
		return nil, diskError(err)
	}
	p, err := openPackage(opened, l)
	if err == nil {
		err = p.checkControl()
	}
	if err == nil {
		err = diskError(os.Rename(part.Name(), s.unpackedPath(l.Unpacked)))
	}
	if err != nil {
		opened.Close()
		return nil, err
	}
	return p, nil
}

// cancellable is a file that cannot be written any more once the context is done.
type cancellable struct {
	ctx context.Context
	*os.File
}

func (c cancellable) Write(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, stopped(c.ctx)
	}
	return c.File.Write(p)
}

// openUnpacked opens the unpacked form of a package and checks it.
func (s *Store) openUnpacked(l Locked) (*Package, error) {
	f, err := os.Open(s.unpackedPath(l.Unpacked))
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("the package cache is somebody else's: %w; set XDG_CACHE_HOME to a directory of your own", err)
	}
	if err != nil {
		return nil, err
	}
	p, err := openPackage(f, l)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("package %s %s: %s: %w", l.Name, l.Version, f.Name(), err)
	}
	return p, nil
}
