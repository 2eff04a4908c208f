package state

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"rempart/firstboot/contract"
	"rempart/profiles"
)

// # Why user quotas, counted anew at each start
//
// Children have user ids of their own and no way to another, so what a user may take is what a child may take. Project
// quotas would follow directories, but the owner of a file may give it another project (fileattr_set_prepare of
// fs/fileattr.c), and with it another's share. Quotas as a feature of the filesystem would be in its superblock: a
// kernel without the module for them, as an older master may have, then mounts it no more, and disks made without it
// have none. So the file with the kernel's books (Documentation/admin-guide/quota.rst; vfsv1 of quotactl(8)) is made
// anew at each start, from what is found on the disk: nothing about it outlives a start, a power cut can leave nothing
// wrong in it, and where it cannot be had the state disk works without.

// Limit is what a user id may take of the state disk.
type Limit struct {
	UID   uint32
	Bytes int64 // 0: nothing
	Files int64 // and directories; 0: none
}

// uids are those of who writes to the state disk.
var uids = map[profiles.Writer]uint32{profiles.WriterLog: contract.UIDLog, profiles.WriterClock: contract.UIDTime,
	profiles.WriterLeases: contract.UIDDHCP, profiles.WriterLists: contract.UIDLists,
	profiles.WriterAdvert: contract.UIDRA}

// Limits are those of every account of the guest, for a profile and a filesystem with room for so many bytes. Root has
// none: that is PID 1, which bounds itself.
func Limits(p *profiles.Profile, room int64) []Limit {
	shares := p.Shares(room)
	given := map[uint32]Limit{}
	for i, bytes := range profiles.Divide(shares, room) {
		if uid, ok := uids[shares[i].Of]; ok {
			given[uid] = Limit{uid, bytes, shares[i].Files}
		}
	}
	var all []Limit
	for _, u := range contract.Users() {
		if u.ID == contract.UIDRoot {
			continue
		}
		l := given[u.ID]
		l.UID = u.ID
		all = append(all, l)
	}
	return all
}

// Room is how many bytes the filesystem at dir could hold for those who are not root.
func Room(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("room on the state disk: %w", err)
	}
	return int64(s.Blocks-(s.Bfree-s.Bavail)) * s.Bsize, nil
}

// quotactl(2), include/uapi/linux/quota.h.
const (
	quotaOn    = 0x800002 // Q_QUOTAON
	setQuota   = 0x800008 // Q_SETQUOTA
	userQuota  = 0        // USRQUOTA
	formatV1   = 4        // QFMT_VFS_V1
	blockUnit  = 1024     // QIF_DQBLKSIZE: of limits
	fieldLimit = 1 | 4    // QIF_BLIMITS, QIF_ILIMITS
	fieldUsage = 2 | 8    // QIF_SPACE, QIF_INODES
)

// dqblk is struct if_dqblk.
type dqblk struct {
	hardBlocks, softBlocks, bytes uint64
	hardFiles, softFiles, files   uint64
	timeBlocks, timeFiles         uint64
	fields                        uint32
	_                             uint32
}

// A file of quotas, fs/quota/quotaio_v2.h and quota_tree.h: a header, and from its second block of a KiB on a tree.
const (
	bookMagic   = 0xd9c01f11 // V2_INITQMAGICS, of user quotas
	bookVersion = 1          // 64-bit limits
	bookBlocks  = 2          // the header and the root of the tree, empty
	// bookSize is more than the books of all accounts take, so that the kernel need not look for room for them later.
	bookSize = 64 << 10
)

// book is an empty file of quotas.
func book() []byte {
	b := make([]byte, bookSize)
	putLE := func(at int, v uint32) {
		b[at], b[at+1], b[at+2], b[at+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
	}
	putLE(0, bookMagic)
	putLE(4, bookVersion)
	// struct v2_disk_dqinfo follows: two times of grace and flags, zero, then
	putLE(20, bookBlocks) // dqi_blocks; no free block and no free entry
	return b
}

// ErrUncounted is wrapped by the error of Bound when limits are in force, but by books that do not have everything.
var ErrUncounted = errors.New("not all that is on the state disk was counted")

// ErrUnbound is wrapped by the error of Bound when limits are in force, but not those of every user: the kernel refused
// some, and who they are of is bounded by the disk alone.
var ErrUnbound = errors.New("not every user is bound")

// Bound has the kernel hold users to their limits on the filesystem that is mounted at dir with the option usrquota,
// from the device at node. Nobody else may write there meanwhile. Whatever is on the disk, it follows no link, and
// ends.
func Bound(dir, node string, limits []Limit) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("shares of the state disk: %w", err)
	}
	defer root.Close()
	f, err := fresh(root)
	if err != nil {
		return fmt.Errorf("shares of the state disk: %w", err)
	}
	defer f.Close()
	used, uncounted := count(root, limits)
	// By its descriptor: a directory on the way may be a link that somebody has left.
	file, err := unix.BytePtrFromString("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return err
	}
	if err := quotactl(quotaOn, node, formatV1, unsafe.Pointer(file)); err != nil {
		_ = root.Remove(contract.QuotaFile) // the kernel does not hold it, and nobody else has a use for it
		return fmt.Errorf("shares of the state disk: the kernel has no quotas: %w", err)
	}
	return errors.Join(uncounted, setAll(node, limits, used))
}

// Rebound changes limits that are in force. Who has more than the new one keeps it, and gets nothing more.
func Rebound(node string, limits []Limit) error { return setAll(node, limits, nil) }

// setAll sets all limits that the kernel takes. The error wraps ErrUnbound when it refuses any.
func setAll(node string, limits []Limit, used map[uint32]*usage) error {
	var failed []error
	for _, l := range limits {
		if err := set(node, l, used[l.UID]); err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnbound, errors.Join(failed...))
}

// set sets the limits of a user id, and what it has, unless nil. The kernel takes 0 for no limit: nothing is less than
// any block takes, and one file without content.
func set(node string, l Limit, used *usage) error {
	b := dqblk{hardBlocks: uint64(max(1, l.Bytes/blockUnit)), hardFiles: uint64(max(1, l.Files)), fields: fieldLimit}
	if used != nil {
		b.bytes, b.files, b.fields = uint64(used.bytes), uint64(used.files), fieldLimit|fieldUsage
	}
	if err := quotactl(setQuota, node, l.UID, unsafe.Pointer(&b)); err != nil {
		return fmt.Errorf("shares of the state disk: user %d: %w", l.UID, err)
	}
	return nil
}

func quotactl(command uintptr, node string, id uint32, addr unsafe.Pointer) error {
	special, err := unix.BytePtrFromString(node)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL, command<<8|userQuota, uintptr(unsafe.Pointer(special)), uintptr(id),
		uintptr(addr), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("quotactl", errno)
	}
	return nil
}

// fresh makes the file of quotas, in place of whatever is there. The kernel makes it immutable while it holds it, and
// after a power cut it still is.
func fresh(root *os.Root) (*os.File, error) {
	if info, err := root.Lstat(contract.QuotaFile); err == nil && info.Mode().IsRegular() {
		if err := release(root); err != nil {
			return nil, err
		}
	}
	if err := root.RemoveAll(contract.QuotaFile); err != nil {
		return nil, err
	}
	f, err := root.OpenFile(contract.QuotaFile, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(book()); err != nil {
		f.Close()
		_ = root.Remove(contract.QuotaFile)
		return nil, err
	}
	return f, nil
}

// release takes every flag off the file of quotas.
func release(root *os.Root) error {
	old, err := root.OpenFile(contract.QuotaFile, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer old.Close()
	err = unix.IoctlSetPointerInt(int(old.Fd()), unix.FS_IOC_SETFLAGS, 0)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
		return nil // a filesystem without flags
	}
	return os.NewSyscallError("FS_IOC_SETFLAGS", err)
}

// usage is what a user has on the disk.
type usage struct{ bytes, files int64 }

// Bounds of counting: what is beyond belongs to nobody, as far as the kernel knows. No guest has as many files, but one
// that was broken into may.
const (
	maxCounted = 1 << 17 // files
	maxDepth   = 32      // directories in one another
	readAtOnce = 256     // names
)

// count finds what each user has. The error wraps ErrUncounted when that is not all.
func count(root *os.Root, limits []Limit) (map[uint32]*usage, error) {
	c := counter{used: map[uint32]*usage{}, seen: map[uint64]bool{}}
	for _, l := range limits {
		c.used[l.UID] = &usage{}
	}
	c.file(root, ".")
	c.walk(root, ".", 0)
	if len(c.failed) > 0 {
		return c.used, fmt.Errorf("%w: %w", ErrUncounted, errors.Join(c.failed...))
	}
	return c.used, nil
}

// counter is one run of count.
type counter struct {
	used   map[uint32]*usage
	seen   map[uint64]bool // inodes with several names
	files  int
	failed []error
}

// maxFailed bounds how many reasons are told.
const maxFailed = 4

func (c *counter) fail(err error) {
	if len(c.failed) < maxFailed {
		c.failed = append(c.failed, err)
	}
}

// file counts one file of a directory, and tells whether it is a directory itself.
func (c *counter) file(in *os.Root, name string) (dir bool) {
	info, err := in.Lstat(name)
	if err != nil {
		c.fail(err)
		return false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	if s.Nlink > 1 && !info.IsDir() {
		if c.seen[s.Ino] {
			return false
		}
		c.seen[s.Ino] = true
	}
	if u := c.used[s.Uid]; u != nil {
		u.files++
		u.bytes += s.Blocks * 512 // stat(2)
	}
	return info.IsDir()
}

// walk counts what is in a directory, which has that name from the top. Each is looked into from itself: from the top
// the kernel would be asked for every directory on the way, once for each file.
func (c *counter) walk(in *os.Root, name string, depth int) {
	if depth == maxDepth {
		c.fail(fmt.Errorf("/var/%.200q has more than %d directories in one another", name, maxDepth))
		return
	}
	d, err := in.Open(".")
	if err != nil {
		c.fail(err)
		return
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(readAtOnce)
		for _, n := range names {
			if c.files++; c.files > maxCounted {
				if c.files == maxCounted+1 {
					c.fail(fmt.Errorf("there are more than %d files", maxCounted))
				}
				return
			}
			if !c.file(in, n) {
				continue
			}
			below, err := in.OpenRoot(n)
			if err != nil {
				c.fail(err)
				continue
			}
			c.walk(below, path.Join(name, n), depth+1)
			below.Close()
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				c.fail(err)
			}
			return
		}
	}
}
