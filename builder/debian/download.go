package debian

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// partSuffix marks a download that is not complete. It is locked (flock) while somebody works on it.
const partSuffix = ".part"

// lockPoll is how often a download that another process is at is looked at again.
const lockPoll = 100 * time.Millisecond

// tried is what went wrong at each of several mirrors.
type tried []error

func (t tried) Error() string {
	texts := make([]string, len(t))
	for i, err := range t {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (t tried) Unwrap() []error { return t }

// download brings a file of known size and digest from the first of several addresses that has it to target. What
// stands there is replaced whole or not at all; a download broken off is taken up again by the next call, also of
// another process. grown is told how many bytes there are so far, also after starting over.
func (s *Store) download(ctx context.Context, from []*url.URL, target string, want content, grown func(int64)) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return diskError(err)
	}
	part, err := lockPart(ctx, target+partSuffix)
	if err != nil {
		return err
	}
	defer part.Close()
	if err := verifyFile(target, want); err == nil {
		os.Remove(part.Name())
		grown(want.size)
		return nil // somebody else was faster
	}
	var gone, failed tried
	firstGone := false
	for i, u := range from {
		err := s.retry(ctx, u, func() error { return s.fetch(ctx, u, part, want, grown) })
		if err == nil {
			if err := os.Rename(part.Name(), target); err != nil {
				os.Remove(part.Name())
				return diskError(err)
			}
			return nil
		}
		err = fmt.Errorf("%s: %w", u.Redacted(), err)
		if errors.Is(err, ErrGone) {
			gone = append(gone, err)
			firstGone = firstGone || i == 0
			continue
		}
		failed = append(failed, err)
		if ctx.Err() != nil || errors.Is(err, ErrNoSpace) || errors.Is(err, ErrReadOnly) {
			break
		}
	}
	if firstGone && ctx.Err() == nil && !errors.Is(failed, ErrDigest) && !errors.Is(failed, ErrNoSpace) {
		failed = nil // the best mirror does not have it, so what troubles the others have is beside the point
	}
	// What may be gone on with stays; what is wrong, useless or in the way does not.
	useless := len(failed) == 0 || errors.Is(failed, ErrNoSpace) || errors.Is(failed, ErrDigest)
	if info, err := part.Stat(); err == nil && (info.Size() == 0 || useless) {
		os.Remove(part.Name())
	}
	if len(failed) > 0 {
		return failed
	}
	return gone
}

// fetch makes the part complete and checks it, or leaves it with what has arrived.
func (s *Store) fetch(ctx context.Context, u *url.URL, part *os.File, want content, grown func(int64)) error {
	sum := sha256.New()
	have, err := hashPart(part, sum, want.size)
	if err != nil {
		return err
	}
	resumed := have > 0
	if have < want.size {
		response, done, err := s.request(ctx, u, have)
		if err != nil {
			return err
		}
		defer done()
		switch {
		case response.StatusCode == http.StatusPartialContent &&
			strings.HasPrefix(response.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", have)):
		case response.StatusCode == http.StatusOK:
			resumed = false
		case resumed && (response.StatusCode == http.StatusRequestedRangeNotSatisfiable ||
			response.StatusCode == http.StatusPartialContent):
			if err := part.Truncate(0); err != nil {
				return diskError(err)
			}
			return transient{errors.New("the mirror cannot go on where the download stopped")}
		default:
			return statusError(response)
		}
		if !resumed {
			sum.Reset()
			have = 0
			if err := part.Truncate(0); err != nil {
				return diskError(err)
			}
		}
		if length := response.ContentLength; length >= 0 && have+length != want.size {
			return fmt.Errorf("%w: the mirror has %d bytes, expected %d", ErrDigest, have+length, want.size)
		}
		if _, err := part.Seek(have, io.SeekStart); err != nil {
			return diskError(err)
		}
		if err := copyCounting(part, sum, response.Body, have, want.size, grown); err != nil {
			return err
		}
	}
	if digest(sum.Sum(nil)) == want.digest {
		return nil
	}
	if err := part.Truncate(0); err != nil {
		return diskError(err)
	}
	if resumed { // what lay there before may have been damaged
		return transient{fmt.Errorf("%w after going on with an earlier download", ErrDigest)}
	}
	return fmt.Errorf("%w: SHA-256 is %x, expected %v", ErrDigest, sum.Sum(nil), want.digest)
}

// hashPart reads what a part holds already; more than it may ever hold is thrown away.
func hashPart(part *os.File, sum hash.Hash, limit int64) (int64, error) {
	info, err := part.Stat()
	if err != nil {
		return 0, diskError(err)
	}
	if info.Size() > limit {
		if err := part.Truncate(0); err != nil {
			return 0, diskError(err)
		}
	}
	if _, err := part.Seek(0, io.SeekStart); err != nil {
		return 0, diskError(err)
	}
	have, err := io.Copy(sum, part)
	if err != nil {
		return 0, diskError(err)
	}
	return have, nil
}

// copyCounting writes the body to the part, which holds have bytes, until it holds size bytes.
func copyCounting(part *os.File, sum hash.Hash, body io.Reader, have, size int64, grown func(int64)) error {
	buffer := make([]byte, 256<<10)
	for {
		n, err := body.Read(buffer)
		if int64(n) > size-have {
			if terr := part.Truncate(0); terr != nil {
				return diskError(terr)
			}
			return fmt.Errorf("%w: the mirror sends more than the expected %d bytes", ErrDigest, size)
		}
		if n > 0 {
			if _, err := part.Write(buffer[:n]); err != nil {
				return diskError(err)
			}
			sum.Write(buffer[:n])
			have += int64(n)
			grown(have)
		}
		switch {
		case err == io.EOF && have == size:
			return nil
		case err == io.EOF:
			return transient{fmt.Errorf("%w: %d of %d bytes arrived", ErrTruncated, have, size)}
		case err != nil:
			return transient{fmt.Errorf("%w: %d of %d bytes arrived: %w", ErrTruncated, have, size, err)}
		}
	}
}

// lockPart opens a part, made where it is missing, and waits until nobody else works on it.
func lockPart(ctx context.Context, name string) (*os.File, error) {
	for {
		part, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, diskError(err)
		}
		err = syscall.Flock(int(part.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			// Who held the lock before may have renamed or removed the file.
			opened, err1 := part.Stat()
			named, err2 := os.Stat(name)
			if err1 == nil && err2 == nil && os.SameFile(opened, named) {
				return part, nil
			}
		}
		part.Close()
		if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, fmt.Errorf("locking %s: %w", name, err)
		}
		if err == nil {
			continue
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return nil, stopped(ctx)
		}
	}
}

// verifyFile says whether a file has the size and digest it should: nil, an error of ErrDigest, or one of reading it.
func verifyFile(name string, want content) error {
	f, err := openVerified(name, want)
	if err != nil {
		return err
	}
	return f.Close()
}

// openVerified opens a file if it has the size and digest it should; errors are those of verifyFile.
func openVerified(name string, want content) (*os.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != want.size {
		err = fmt.Errorf("%w: it has %d bytes, expected %d", ErrDigest, info.Size(), want.size)
	}
	if err == nil {
		var got digest
		if got, err = hashFile(f); err == nil && got != want.digest {
			err = fmt.Errorf("%w: SHA-256 is %v, expected %v", ErrDigest, got, want.digest)
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// hashFile returns the digest of all of a file.
func hashFile(f *os.File) (digest, error) {
	info, err := f.Stat()
	if err != nil {
		return digest{}, err
	}
	sum := sha256.New()
	buffer := make([]byte, 1<<20)
	if _, err := io.CopyBuffer(sum, io.NewSectionReader(f, 0, info.Size()), buffer); err != nil {
		return digest{}, err
	}
	return digest(sum.Sum(nil)), nil
}

// diskError gives errors of the cache's disk the name callers know.
func diskError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w; make room, or set XDG_CACHE_HOME to a directory on another disk", ErrNoSpace, err)
	case errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w; set XDG_CACHE_HOME to a directory you may write", ErrReadOnly, err)
	}
	return fmt.Errorf("package cache: %w", err)
}
