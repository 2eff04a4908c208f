// Package running remembers the guests that a user runs, by name: what is needed to speak to one from another
// terminal, for as long as it runs. A guest is a directory; locks on two files in it tell a running one from what a
// killed process left: one held by the process that runs the guest, one by the hypervisor too, which may take a moment
// longer to end than what started it, and writes to the guest's disks until then.
//
// What it deliberately does not do: start or stop guests, or remember any that does not run.
package running

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/contract/identity"
)

// Errors that callers decide on.
var (
	ErrRuns   = errors.New("a guest of that name runs already")
	ErrAbsent = errors.New("no guest of that name runs")
)

// Files of a running guest.
const (
	infoFile     = "guest.json"
	lockFile     = "lock"
	machineFile  = "machine"  // the hypervisor's lock
	commandsFile = "commands" // socket
	consoleFile  = "console.log"
	keeperFile   = "keeper" // socket
)

// Info is what is written down about a guest.
type Info struct {
	Name    string `json:"name"`
	PID     int    `json:"pid"`    // of the rempart that runs it; 0: none does
	Master  string `json:"master"` // folder
	HostKey string `json:"host_key,omitempty"`
	// Fingerprint is that of HostKey, "SHA256:...".
	Fingerprint string `json:"fingerprint,omitempty"`
	SSH         string `json:"ssh,omitempty"` // address and port that lead to the guest's SSH; empty: none
	// Xen tells that it is a guest of Xen: no process of rempart's keeps it, and the hypervisor's lock is held by the xl
	// that watches over it.
	Xen bool `json:"xen,omitempty"`
}

// Guest is a guest that runs.
type Guest struct {
	Info
	Dir           string
	lock, machine *os.File // held by who runs it; nil in other processes
}

// Commands is the socket that takes commands.
func (g *Guest) Commands() string { return filepath.Join(g.Dir, commandsFile) }

// Keeper is the socket of the process that keeps a guest which runs in the background; see package keeper.
func (g *Guest) Keeper() string { return filepath.Join(g.Dir, keeperFile) }

// Machine is the lock that the hypervisor is to inherit: while it has the descriptor the guest runs, whatever becomes
// of this process.
func (g *Guest) Machine() *os.File { return g.machine }

// Console is the file with the last of what the guest said on its console.
func (g *Guest) Console() string { return filepath.Join(g.Dir, consoleFile) }

// Place is the directory of a user's running guests: below XDG_RUNTIME_DIR, else /run for root, else XDG_STATE_HOME.
func Place() (string, error) {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "rempart", "guests"), nil
	}
	if os.Geteuid() == 0 {
		return "/run/rempart/guests", nil
	}
	dir := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("where running guests are written down is not known: %w; set XDG_RUNTIME_DIR", err)
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "rempart", "guests"), nil
}

// Places are all directories in which guests of this user may be written down, whatever this environment says: one that
// a service has started has no XDG_RUNTIME_DIR where its user's login has one.
func Places() ([]string, error) {
	own, err := Place()
	if err != nil {
		return nil, err
	}
	places := []string{own, fmt.Sprintf("/run/user/%d/rempart/guests", os.Geteuid())}
	if os.Geteuid() == 0 {
		places = append(places, "/run/rempart/guests")
	}
	if home, err := os.UserHomeDir(); err == nil {
		places = append(places, filepath.Join(home, ".local", "state", "rempart", "guests"))
	}
	slices.Sort(places)
	return slices.Compact(places), nil
}

// maxSocket is the longest path of a unix socket (unix(7), sun_path with its terminating zero).
const maxSocket = 107

// Register takes the name of a guest that is about to run, which nobody else has until Forget; Announce tells others.
// It returns ErrRuns while another of that name runs, or is about to.
func Register(place, name string) (*Guest, error) {
	if !identity.IsHostname(name) {
		return nil, fmt.Errorf("%.80q is no name of a guest", name)
	}
	g := &Guest{Info: Info{Name: name}, Dir: filepath.Join(place, name)}
	if len(g.Commands()) > maxSocket {
		return nil, fmt.Errorf("%s: longer than a socket's path may be (%d bytes); set XDG_RUNTIME_DIR to a shorter folder",
			g.Commands(), maxSocket)
	}
	if err := os.MkdirAll(g.Dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if g.lock, err = g.take(lockFile); err != nil {
		return nil, err
	}
	if g.machine, err = g.take(machineFile); err != nil {
		return nil, errors.Join(err, g.lock.Close())
	}
	for _, left := range []string{infoFile, commandsFile, consoleFile, keeperFile} {
		if err := os.Remove(filepath.Join(g.Dir, left)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, g.lock.Close(), g.machine.Close())
		}
	}
	return g, nil
}

// take takes one of a guest's locks.
func (g *Guest) take(name string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(g.Dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		lock.Close()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return nil, fmt.Errorf("%w: %s; give this one another with --name", ErrRuns, g.Name)
		}
		return nil, err
	}
	return lock, nil
}

// Announce completes what is written down; from then on others find the guest. Name and place stay as they are.
func (g *Guest) Announce(info Info) error {
	info.Name = g.Name
	b, err := json.Marshal(info)
	if err != nil {
		return err
	}
	file := filepath.Join(g.Dir, infoFile)
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return err
	}
	g.Info = info
	return os.Rename(file+".new", file)
}

// Leave leaves a guest to the hypervisor, which has its lock: it is found as long as that runs.
func (g *Guest) Leave() error { return errors.Join(g.machine.Close(), g.lock.Close()) }

// endInterval is how long AwaitEnd leaves between two looks.
const endInterval = 10 * time.Millisecond

// AwaitEnd waits until a guest that Open found runs no more. It asks again and again: who waits for a lock has it in
// the end, for a moment, in which a guest that starts would find its name taken.
func (g *Guest) AwaitEnd(ctx context.Context) error {
	for {
		if is, err := runs(g.Dir); err != nil || !is {
			return err
		}
		select {
		case <-time.After(endInterval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Kill ends the process that runs a guest which Open found, and the hypervisor with it, as a power cut ends a machine.
func (g *Guest) Kill() error {
	process, err := unix.PidfdOpen(g.PID, 0)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return fmt.Errorf("guest %s: process %d: %w", g.Name, g.PID, err)
	}
	defer unix.Close(process)
	// While its own lock is held the process that wrote down its number is there: the number is not another's. The
	// hypervisor's tells nothing about that.
	if is, err := held(g.Dir, lockFile); err != nil || !is {
		return err
	}
	if now, err := Open(filepath.Dir(g.Dir), g.Name); err != nil || now.Info != g.Info {
		return nil
	}
	if err := unix.PidfdSendSignal(process, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("guest %s: ending process %d: %w", g.Name, g.PID, err)
	}
	return nil
}

// runs asks whether the process that runs a guest is there, or the hypervisor that it started.
func runs(dir string) (bool, error) {
	for _, name := range []string{lockFile, machineFile} {
		if is, err := held(dir, name); err != nil || is {
			return is, err
		}
	}
	return false, nil
}

// held asks whether somebody holds a lock of a guest (fcntl(2), open file description locks). Asking takes no lock
// itself, not for a moment: a guest that starts just then must not find its own name taken.
func held(dir, name string) (bool, error) {
	lock, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(lock.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		return false, fmt.Errorf("asking who holds %s: %w", lock.Name(), err)
	}
	return l.Type != unix.F_UNLCK, nil
}

// Forget takes a guest that Register wrote down off again. The lock's file stays: others may hold it open.
func (g *Guest) Forget() error {
	var errs []error
	for _, name := range []string{infoFile, commandsFile, consoleFile, keeperFile} {
		if err := os.Remove(filepath.Join(g.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, g.machine.Close(), g.lock.Close())...)
}

// maxInfo bounds the file about a guest.
const maxInfo = 64 << 10

// Open finds a running guest.
func Open(place, name string) (*Guest, error) {
	if !identity.IsHostname(name) {
		return nil, fmt.Errorf("%.80q is no name of a guest", name)
	}
	g := &Guest{Dir: filepath.Join(place, name)}
	switch is, err := runs(g.Dir); {
	case err != nil:
		return nil, err
	case !is:
		return nil, absent(place, name) // nobody holds it: what lies there was left by one that was killed
	}
	b, err := os.ReadFile(filepath.Join(g.Dir, infoFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, absent(place, name)
	}
	if err == nil && len(b) > maxInfo {
		err = errors.New("too large")
	}
	if err == nil {
		err = json.Unmarshal(b, &g.Info)
	}
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", name, err)
	}
	return g, nil
}

func absent(place, name string) error {
	if names := List(place); len(names) > 0 {
		return fmt.Errorf("%w: %s; those that run are %s", ErrAbsent, name, strings.Join(names, ", "))
	}
	return fmt.Errorf("%w: %s, nor any other; start one with `rempart run`", ErrAbsent, name)
}

// List are the names of the running guests.
func List(place string) []string {
	entries, _ := os.ReadDir(place)
	var names []string
	for _, e := range entries {
		if is, err := runs(filepath.Join(place, e.Name())); is && err == nil {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names
}
