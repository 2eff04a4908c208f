// Package home keeps what guests are between their runs: for each a folder with its description, its disks and what was
// set aside of them, and a lock that lets one command change it at a time.
//
//	NAME/guest.json     what it is made of; a folder without one was removed, or never finished
//	NAME/lock           held by the command that changes the guest, whose process id and name it says
//	NAME/running        where to find it while it runs
//	NAME/ended.json     how its last run ended
//	NAME/state.raw      its state disk
//	NAME/root.qcow2     in place of that, what a guest of another system writes to; beside it with .uefi-vars what it
//	                    has its UEFI firmware remember
//	NAME/identity.raw   its identity disk
//	NAME/xen.cfg        of a guest of Xen, what xl starts it from
//	NAME/volumes        where in LVM the state disk of a removed guest is; one of LVM has no state.raw
//	NAME/keeper.log     what the process said that kept it last
//	NAME/progress       what the command says that is at work on it for long, or said last
//
// Other folders in it belong to the packages that make them. The master is not here but in a store, by its digest; the
// store is told which homes use it.
//
// What it deliberately does not do: start or stop guests, or look into their disks.
package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"rempart/builder/files"
	"rempart/builder/guest/lvm"
	"rempart/builder/guest/quarantine"
	"rempart/builder/guest/storage"
	"rempart/firstboot/contract/identity"
)

// Files of a guest.
const (
	descriptionFile = "guest.json"
	lockFile        = "lock"
	runningFile     = "running"
	endedFile       = "ended.json"
	volumesFile     = "volumes"
	keeperLogFile   = "keeper.log"
)

// Errors, for errors.Is.
var (
	ErrUnknown = errors.New("there is no guest of that name")
	ErrExists  = errors.New("there is a guest of that name already")
	ErrLeft    = errors.New("what a removed guest of that name left is there")
	ErrLocked  = errors.New("another command is at work on the guest")
	ErrRuns    = errors.New("the guest runs")
	// ErrElsewhere: a QEMU that rempart does not keep has its disk.
	ErrElsewhere = errors.New("another program runs the guest")
)

// Home is a folder of guests.
type Home struct {
	Dir string
	LVM string // path of lvm(8); empty: found by PATH
}

// Variable names another folder of guests than the default one.
const Variable = "REMPART_GUESTS"

// Default is the home of this user's guests: $REMPART_GUESTS, else /var/lib/rempart/guests for root, else where the XDG
// Base Directory Specification has data.
func Default() (Home, error) {
	if dir := os.Getenv(Variable); dir != "" {
		if !filepath.IsAbs(dir) {
			return Home{}, fmt.Errorf("%s is %q: want a path that begins with a slash", Variable, dir)
		}
		return Home{Dir: filepath.Clean(dir)}, nil
	}
	dir, err := files.Data("guests")
	return Home{Dir: dir}, err
}

// Guest is a guest of a home.
type Guest struct {
	Description
	Dir  string
	lvm  string
	lock *os.File // nil: only looked at
	// handed tells that a child may have the lock, which then ends when both have closed it.
	handed bool
}

// Disks is where the guest's disks are.
func (g *Guest) Disks() storage.Disks {
	all := storage.Files{Dir: g.Dir, Overlay: g.Image != nil}
	if g.Volumes == "" {
		return all
	}
	group, pool, _ := strings.Cut(g.Volumes, "/")
	return storage.Volumes{Files: all, Tools: lvm.Tools{Program: g.lvm, Lock: g.lock}, Group: group, Pool: pool,
		Guest: g.Name, Root: g.Root}
}

// StateDisk is the file or device of the state disk, or of the overlay that a guest of another system has in its place.
func (g *Guest) StateDisk() string { return g.Disks().Path(storage.Disk{Kind: storage.State}) }

// Identity is the file of the identity disk.
func (g *Guest) Identity() string { return g.Disks().Path(storage.Disk{Kind: storage.Identity}) }

// KeeperLog is the file with what the process said that keeps the guest running, or did last.
func (g *Guest) KeeperLog() string { return filepath.Join(g.Dir, keeperLogFile) }

func (h Home) dir(name string) (string, error) {
	if !identity.IsHostname(name) {
		return "", fmt.Errorf("%.80q is no name of a guest: want an RFC 1123 label in lower case, such as fw-1", name)
	}
	return filepath.Join(h.Dir, name), nil
}

// Open reads the description of a guest, for looking at it.
func (h Home) Open(name string) (*Guest, error) {
	dir, err := h.dir(name)
	if err != nil {
		return nil, err
	}
	d, err := readDescription(filepath.Join(dir, descriptionFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, h.unknown(name)
	}
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", name, err)
	}
	if d.Name != name {
		return nil, fmt.Errorf("guest %s: %s says it is %q; a guest's folder has its name", name,
			filepath.Join(dir, descriptionFile), d.Name)
	}
	return &Guest{Description: *d, Dir: dir, lvm: h.LVM}, nil
}

func (h Home) unknown(name string) error {
	all, _ := h.Names()
	if len(all) == 0 {
		return fmt.Errorf("%w: %s, nor any other; make one with `rempart create`", ErrUnknown, name)
	}
	return fmt.Errorf("%w: %s; there are %s", ErrUnknown, name, strings.Join(all, ", "))
}

// Names are those of all guests, sorted.
func (h Home) Names() ([]string, error) {
	entries, err := os.ReadDir(h.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if _, err := os.Lstat(filepath.Join(h.Dir, e.Name(), descriptionFile)); err == nil && identity.IsHostname(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, err
}

// Lock opens a guest to change it, which nobody else does until Unlock, nor until this process ends. What says which
// command it is, for others who want to. It returns ErrLocked with whose lock it is.
func (h Home) Lock(name, what string) (*Guest, error) {
	if _, err := h.Open(name); err != nil {
		return nil, err
	}
	lock, err := h.takeLock(name, what)
	if err != nil {
		return nil, err
	}
	g, err := h.Open(name) // what it is now that nobody changes it
	if err != nil {
		lock.Close()
		return nil, err
	}
	g.lock = lock
	if err := g.sweep(); err != nil {
		g.Unlock()
		return nil, fmt.Errorf("guest %s: what a power cut left: %w", name, err)
	}
	return g, nil
}

// sweep removes what writing was left of that was ended on the way, of the files that are only written under the lock.
func (g *Guest) sweep() error {
	return files.Sweep(g.Dir, descriptionFile, storage.IdentityFile, storage.Vars(storage.OverlayFile),
		quarantine.Journal, runningFile)
}

func (h Home) takeLock(name, what string) (*os.File, error) {
	dir, err := h.dir(name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", name, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w %s: %s; wait for its end", ErrLocked, name, holder(f))
		}
		return nil, fmt.Errorf("guest %s: locking it: %w", name, err)
	}
	mine, err := f.Stat()
	if err == nil {
		var now fs.FileInfo
		if now, err = os.Stat(f.Name()); err == nil && !os.SameFile(mine, now) {
			err = fs.ErrNotExist
		}
	}
	if errors.Is(err, fs.ErrNotExist) { // between its opening and the lock: it is a lock of nothing
		f.Close()
		return nil, fmt.Errorf("%w %s: it was removed just now", ErrLocked, name)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("guest %s: %w", name, err)
	}
	// Only for people to read: the lock is the kernel's, and goes with the process.
	text := fmt.Sprintf("process %d, %s\n", os.Getpid(), what)
	_, err = f.WriteAt([]byte(text), 0)
	if err := errors.Join(err, f.Truncate(int64(len(text)))); err != nil {
		f.Close()
		return nil, fmt.Errorf("guest %s: %w", name, err)
	}
	return f, nil
}

// maxHolder bounds what is read of a lock's file.
const maxHolder = 256

func holder(f *os.File) string {
	b := make([]byte, maxHolder)
	n, _ := f.ReadAt(b, 0)
	if text := strings.TrimSpace(string(b[:n])); text != "" {
		return text
	}
	return "a process that just took it"
}

// Unlock ends what Lock began.
func (g *Guest) Unlock() {
	if g.lock == nil {
		return
	}
	if !g.handed {
		// Closing is not enough: a process that is just being started elsewhere in this one has it open too, until it
		// becomes another program.
		_ = unix.Flock(int(g.lock.Fd()), unix.LOCK_UN) // cannot fail: it is ours
	}
	g.lock.Close()
	g.lock = nil
}

// LockFile is the open lock, to be handed to a child that goes on under it; nil: the guest was only looked at.
func (g *Guest) LockFile() *os.File {
	g.handed = true
	return g.lock
}

// Inherit opens a guest under a lock that the parent of this process took and handed down.
func (h Home) Inherit(name string, lock *os.File) (*Guest, error) {
	g, err := h.Open(name)
	if err != nil {
		lock.Close()
		return nil, err
	}
	g.lock = lock
	return g, nil
}
