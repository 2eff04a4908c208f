// Package debian is an apt client for one purpose: it brings the packages a master is made of, exactly those a lock
// file names, from a Debian mirror to the builder, and renews that lock file.
//
// The chain of trust has two halves. Renewing a lock (Store.Renew) believes what Debian's archive keys, which are
// embedded, have signed: InRelease, the package indices whose digests it holds, and through them the digest of each
// package. Building (Store.Fetch) believes the lock alone: it needs no clock, no keys and, once the cache has the
// packages, no network. Mirrors and the cache are never believed.
//
// Packages are kept unpacked, as .debs whose members are not compressed, because unpacking xz in Go takes seconds. The
// lock holds the digest of that form too, so what is read from the cache is checked against the lock each time.
//
// What it deliberately does not do: install anything, run maintainer scripts, read apt's preferences or its lists,
// call helper programs, take packages of other distributions, choose between several solutions of dependencies as a
// general solver would (a package set small enough to review needs none).
package debian

import (
	"errors"
	"fmt"
)

// What callers decide on; every error of this package that has one of these causes wraps it.
var (
	// ErrSignature: the archive's Release is not signed by one of Debian's archive keys.
	ErrSignature = errors.New("no valid signature by a Debian archive key")
	// ErrSuite: the archive's Release is for another suite, architecture or component than asked for.
	ErrSuite = errors.New("not the suite that was asked for")
	// ErrStale: the archive's Release is older than it may be, or the machine's clock is wrong.
	ErrStale = errors.New("the archive's state is out of date")
	// ErrDigest: bytes are not those the lock or the signed index names.
	ErrDigest = errors.New("wrong digest")
	// ErrTruncated: a download ended early, again and again.
	ErrTruncated = errors.New("download ended early")
	// ErrGone: the mirror no longer has a package that the lock names.
	ErrGone = errors.New("the mirror no longer has it")
	// ErrNoMirror: it is not known where to get Debian packages from.
	ErrNoMirror = errors.New("no Debian mirror is known")
	// ErrOffline: no mirror could be reached.
	ErrOffline = errors.New("no mirror could be reached")
	// ErrNoSpace: the disk of the cache is full.
	ErrNoSpace = errors.New("no space left for the package cache")
	// ErrReadOnly: the cache lacks something and cannot be written.
	ErrReadOnly = errors.New("the package cache cannot be written")
	// ErrUnknown: what was asked for is no architecture or release that masters are made of.
	ErrUnknown = errors.New("no such architecture or release")
	// ErrLock: a lock file is malformed.
	ErrLock = errors.New("not a sound lock file")
	// ErrUnsatisfied: the dependencies of a package cannot be met, or packages conflict.
	ErrUnsatisfied = errors.New("dependencies cannot be met")
)

// Names that become part of messages and file names.
const (
	mirrorPattern   = "http://MIRROR/debian" // what the address of a mirror looks like
	securityPattern = "http://MIRROR/debian-security"
	component       = "main"
)

// wrap names what was being done when a sentinel struck.
func wrap(sentinel error, format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), sentinel)
}
