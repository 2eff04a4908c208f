// Package seed carries randomness over a restart on the state disk, for hosts that give the guest no random number
// generator. Such a guest would otherwise wait seconds for its first key at every boot.
//
// What it deliberately does not do: make randomness, or credit a seed that may have been used before. A state disk that
// was copied while a seed was on it gives both copies the same seed; the kernel mixes in times and interrupts of
// its own, and only a hypervisor's generator (which rempart always attaches) is a real answer.
package seed

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Format of the file: magic, seed, SHA-256 of both.
const (
	magic     = "RMPSEED1"
	seedSize  = 64 // bytes; the kernel's pool is 256 bits
	credit    = 256
	fileSize  = len(magic) + seedSize + sha256.Size
	directory = "var/lib/rempart"
	file      = "seed"
)

// addEntropy is RNDADDENTROPY, _IOW('R', 0x03, int[2]); <linux/random.h>.
const addEntropy = 0x40085203

// randPoolInfo is struct rand_pool_info.
type randPoolInfo struct {
	bits, size int32
	buf        [seedSize]byte
}

// Load feeds the seed of the last run to the kernel and takes it off the disk, so that it is never used twice, then
// leaves a new one for the case that this run ends without a word. With a hardware generator there is nothing to feed.
// A seed that is missing is no error; one that is broken is taken away and reported. used: the kernel was fed one.
func Load(root string) (used bool, err error) {
	dir, err := os.OpenRoot(filepath.Join(root, directory))
	if err != nil {
		return false, err
	}
	defer dir.Close()
	seed, err := take(dir)
	if err == nil && seed != nil && !HasGenerator(root) {
		err = feed(seed)
		used = err == nil
	}
	return used, errors.Join(err, saveTo(dir))
}

// Save leaves a seed for the next run. Without randomness worth saving it leaves none.
func Save(root string) error {
	dir, err := os.OpenRoot(filepath.Join(root, directory))
	if err != nil {
		return err
	}
	defer dir.Close()
	return saveTo(dir)
}

// Await waits until the kernel has randomness. Waiting is what makes it gather some of its own where nothing gives it
// any (drivers/char/random.c, try_to_generate_entropy): a second or two.
func Await() error {
	var b [1]byte
	for {
		_, err := unix.Getrandom(b[:], 0)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("getrandom", err)
		}
	}
}

// take reads the seed and removes it for good. It returns nil when there is none.
func take(dir *os.Root) ([]byte, error) {
	info, err := dir.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var b []byte
	if info.Mode().IsRegular() && info.Size() == int64(fileSize) {
		f, err := dir.Open(file)
		if err != nil {
			return nil, err
		}
		b, err = io.ReadAll(io.LimitReader(f, int64(fileSize)+1))
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	if err := dir.Remove(file); err != nil {
		return nil, fmt.Errorf("seed not used, since it could not be removed: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return nil, fmt.Errorf("seed not used, since its removal may not last: %w", err)
	}
	return decode(b)
}

var errBroken = errors.New("the saved random seed is broken and was thrown away")

func decode(b []byte) ([]byte, error) {
	if len(b) != fileSize || string(b[:len(magic)]) != magic {
		return nil, errBroken
	}
	body := b[:len(magic)+seedSize]
	if sha256.Sum256(body) != [sha256.Size]byte(b[len(body):]) {
		return nil, errBroken
	}
	return body[len(magic):], nil
}

func encode(seed []byte) []byte {
	b := append([]byte(magic), seed...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func feed(seed []byte) error {
	random, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer random.Close()
	info := randPoolInfo{bits: credit, size: seedSize}
	copy(info.buf[:], seed)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, random.Fd(), addEntropy, uintptr(unsafe.Pointer(&info))); errno != 0 {
		return os.NewSyscallError("RNDADDENTROPY", errno)
	}
	return nil
}

// saveTo writes a new seed, which appears whole or not at all.
func saveTo(dir *os.Root) error {
	seed := make([]byte, seedSize)
	n, err := unix.Getrandom(seed, unix.GRND_NONBLOCK)
	if errors.Is(err, unix.EAGAIN) {
		return nil // the kernel has no randomness yet: a seed saved now would be credited for nothing
	}
	if err != nil || n != seedSize {
		return fmt.Errorf("random seed: %d of %d bytes: %w", n, seedSize, err)
	}
	const temporary = file + ".new"
	f, err := dir.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("random seed: %w", err)
	}
	_, err = f.Write(encode(seed))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("random seed: %w", err)
	}
	if err := dir.Rename(temporary, file); err != nil {
		return fmt.Errorf("random seed: %w", err)
	}
	return syncDir(dir)
}

func syncDir(dir *os.Root) error {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// HasGenerator tells whether the kernel feeds itself from a generator (Documentation/admin-guide/hw_random.rst).
func HasGenerator(root string) bool {
	b, err := os.ReadFile(filepath.Join(root, "sys/class/misc/hw_random/rng_current"))
	name := strings.TrimSpace(string(b))
	return err == nil && name != "" && name != "none"
}
