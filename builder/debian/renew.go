package debian

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Renew makes a lock of the newest packages of a release: those of its suites as Debian's archive keys have signed
// them. The packages are downloaded and unpacked, so that the lock can name both digests. What the archive shows must
// not be older than the lock old, if there is one.
func (s *Store) Renew(ctx context.Context, suite, arch string, old *Lock) (*Lock, error) {
	if err := checkSuite(suite); err != nil {
		return nil, err
	}
	roots, err := Roots(arch)
	if err != nil {
		return nil, err
	}
	return s.RenewOf(ctx, suite, arch, roots, old)
}

// RenewOf is Renew for other packages than those of masters: what else is made of Debian's.
func (s *Store) RenewOf(ctx context.Context, suite, arch string, roots []Root, old *Lock) (*Lock, error) {
	lock := &Lock{Suite: suite, Arch: arch, name: "the new lock"}
	progress := newTracker(s.options.Progress)
	defer progress.finish()
	all := &universe{}
	from := &loader{Store: s, arch: arch, all: all, progress: progress}
	for _, one := range suitesOf(suite) {
		if s.options.SecurityMirror == NoSecurity && strings.HasSuffix(one, securitySuffix) {
			s.log.Warn("security updates are left out of the lock", "suite", one)
			continue
		}
		var locked time.Time
		if old != nil && old.Suite == suite {
			locked = old.date(one)
		}
		date, err := from.suite(ctx, one, locked)
		if err != nil {
			return nil, fmt.Errorf("renewing the lock: %w", err)
		}
		lock.Archives = append(lock.Archives, Archive{one, date.UTC()})
	}
	var err error
	if lock.Packages, err = all.resolve(arch, roots); err != nil {
		return nil, fmt.Errorf("renewing the lock: %w", err)
	}
	// A package that has not changed is not brought just to be measured again.
	for i := range lock.Packages {
		p := &lock.Packages[i]
		if old != nil {
			if before, ok := old.Package(p.Name); ok && before.SHA256 == p.SHA256 {
				p.Unpacked = before.Unpacked
				continue
			}
		}
		if verifyFile(s.debPath(p.SHA256), p.content()) != nil {
			progress.expect(p.Size)
		}
	}
	err = s.each(ctx, len(lock.Packages), func(ctx context.Context, i int) error {
		p := &lock.Packages[i]
		if p.Unpacked != "" {
			return nil
		}
		if err := s.bring(ctx, p.content(), *p, progress); err != nil {
			return err
		}
		opened, err := s.unpack(ctx, *p, progress)
		if err != nil {
			return err
		}
		p.Unpacked = opened.Unpacked
		return opened.Close()
	})
	if err != nil {
		return nil, fmt.Errorf("renewing the lock: %w", err)
	}
	// What is written must be what can be read.
	return parseLock(lock.name, lock.Text())
}

// date is the date of a suite's Release in the lock, zero where it has none.
func (l *Lock) date(suite string) time.Time {
	for _, a := range l.Archives {
		if a.Suite == suite {
			return a.Date
		}
	}
	return time.Time{}
}

// Change is one package that differs between two locks.
type Change struct {
	Name     string
	Old, New string // version, with more where only the bytes differ; empty where the package is not in that lock
}

// String is one line: "name old -> new", "+ name version" or "- name version".
func (c Change) String() string {
	switch {
	case c.Old == "":
		return "+ " + c.Name + " " + c.New
	case c.New == "":
		return "- " + c.Name + " " + c.Old
	}
	return "  " + c.Name + " " + c.Old + " -> " + c.New
}

// Changes are the packages of which l differs from old, in the order of their names. old may be nil: all are new.
func (l *Lock) Changes(old *Lock) []Change {
	if old == nil {
		old = &Lock{}
	}
	var changes []Change
	for _, p := range l.Packages {
		before, ok := old.Package(p.Name)
		switch {
		case !ok:
			changes = append(changes, Change{Name: p.Name, New: string(p.Version)})
		case before.Version != p.Version:
			changes = append(changes, Change{p.Name, string(before.Version), string(p.Version)})
		case before.SHA256 != p.SHA256 || before.Arch != p.Arch:
			// The same version with other bytes is a thing to be wary of.
			changes = append(changes, Change{p.Name, before.bytes(), p.bytes()})
		}
	}
	for _, p := range old.Packages {
		if _, ok := l.Package(p.Name); !ok {
			changes = append(changes, Change{Name: p.Name, Old: string(p.Version)})
		}
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	return changes
}

// bytes tells versions apart that are spelt alike.
func (l Locked) bytes() string {
	const enough = 12 // digits to see a difference by
	return fmt.Sprintf("%s (%s, SHA-256 %.*s...)", l.Version, l.Arch, enough, l.SHA256)
}

// WriteFile writes the lock to a file, which is replaced whole or not at all.
func (l *Lock) WriteFile(name string) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return fmt.Errorf("writing the lock: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(l.Text()); err != nil {
		return fmt.Errorf("writing the lock: %w", err)
	}
	if err := f.Chmod(0o644); err != nil {
		return fmt.Errorf("writing the lock: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing the lock: %w", err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("writing the lock: %w", err)
	}
	return nil
}
