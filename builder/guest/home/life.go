package home

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rempart/builder/files"
	"rempart/builder/guest/progress"
	"rempart/builder/guest/quarantine"
	"rempart/builder/guest/running"
	"rempart/builder/guest/storage"
	"rempart/builder/hypervisor/qemu"
)

// Create makes the folder of a guest and locks it. The guest is there for others once Save has been called; until then
// Abandon takes it back. ErrLeft tells that a removed guest's disks are there: with adopt they become this guest's.
func (h Home) Create(ctx context.Context, d Description, adopt bool) (*Guest, error) {
	d.Format = Format
	if err := d.Check(); err != nil {
		return nil, err
	}
	dir, err := h.dir(d.Name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := files.SyncFolder(h.Dir); err != nil {
		return nil, err
	}
	lock, err := h.takeLock(d.Name, "rempart create")
	if err != nil {
		return nil, err
	}
	g := &Guest{Description: d, Dir: dir, lvm: h.LVM, lock: lock}
	if _, err := os.Lstat(filepath.Join(dir, descriptionFile)); err == nil {
		g.Unlock()
		return nil, fmt.Errorf("%w: %s", ErrExists, d.Name)
	}
	if err := g.alone(ctx, adopt); err != nil {
		g.Unlock()
		return nil, err
	}
	return g, nil
}

// alone tells whether there is nothing of another guest of the name, or with adopt only what a new one can take over.
func (g *Guest) alone(ctx context.Context, adopt bool) error {
	journal := filepath.Join(g.Dir, quarantine.Journal)
	if _, err := os.Lstat(journal); !errors.Is(err, fs.ErrNotExist) {
		// Of a removal that was broken off. Its steps would be taken for those of the new guest.
		return errors.Join(fmt.Errorf("%w: %s, of a change that was not over; remove all of it with `rempart rm --data %s`",
			ErrLeft, journal, g.Name), err)
	}
	before, err := readVolumes(g.Dir)
	if err != nil {
		return err
	}
	if before != "" && before != g.Volumes {
		return fmt.Errorf("%w: volumes in %s; give them to the new one with --volumes %[2]s --adopt, or remove them with "+
			"`rempart rm --data %s`", ErrLeft, before, g.Name)
	}
	if g.Volumes != "" {
		// It would be neither this guest's nor anybody's.
		file := filepath.Join(g.Dir, storage.StateFile)
		if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(fmt.Errorf("%w: %s, which is no volume; give it to the new one with --adopt and without "+
				"--volumes, or remove it with `rempart rm --data %s`", ErrLeft, file, g.Name), err)
		}
	}
	left, err := g.Disks().Left(ctx)
	if err != nil && g.Volumes != "" {
		err = fmt.Errorf("guest %s: its volumes in %s: %w; vgs and lvs tell what there is", g.Name, g.Volumes, err)
	}
	if err != nil || adopt {
		return err
	}
	aside := filepath.Join(g.Dir, quarantine.Folder)
	if _, err := os.Lstat(aside); err == nil {
		left = append(left, aside)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%w: %s; give it to the new one with --adopt, or remove it with `rempart rm --data %s`", ErrLeft,
			strings.Join(left, ", "), g.Name)
	}
	return nil
}

// Abandon takes back what Create made and unlocks. Disks that were there before must be named.
func (g *Guest) Abandon(ctx context.Context, keep bool) error {
	defer g.Unlock()
	if keep {
		return nil
	}
	return g.clear(context.WithoutCancel(ctx))
}

// clear removes all of a guest's folder, its lock last: who makes a guest of the name from then on makes another lock,
// and nothing of that guest is removed.
func (g *Guest) clear(ctx context.Context) error {
	if err := g.Disks().RemoveAll(ctx); err != nil {
		return err
	}
	entries, err := os.ReadDir(g.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != lockFile {
			if err := os.RemoveAll(filepath.Join(g.Dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(filepath.Join(g.Dir, lockFile)); err != nil {
		return err
	}
	if err := os.Remove(g.Dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Remove takes a guest off, and unlocks it. Its disks, and what was set aside of them, stay unless data says so too;
// the files of its data disks stay in any case.
func (g *Guest) Remove(ctx context.Context, data bool) error {
	defer g.Unlock()
	if g.Volumes != "" { // which only the description tells
		if err := files.Write(filepath.Join(g.Dir, volumesFile), []byte(g.Volumes+"\n"), 0o600); err != nil {
			return err
		}
	}
	// The description first: what is left after a power cut is no guest with half its disks.
	err := os.Remove(filepath.Join(g.Dir, descriptionFile))
	if err != nil && !(data && errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	if err := files.SyncFolder(g.Dir); err != nil {
		return err
	}
	if data {
		return g.clear(ctx)
	}
	for _, name := range []string{runningFile, endedFile, keeperLogFile, progress.File} {
		if err := os.Remove(filepath.Join(g.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Left locks what a removed guest left, to remove it too.
func (h Home) Left(name string) (*Guest, error) {
	dir, err := h.dir(name)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(dir); err != nil {
		return nil, h.unknown(name)
	}
	lock, err := h.takeLock(name, "rempart rm --data")
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(dir, descriptionFile)); !errors.Is(err, fs.ErrNotExist) {
		lock.Close()
		return nil, errors.Join(fmt.Errorf("%w: %s, which was made just now", ErrExists, name), err)
	}
	volumes, err := readVolumes(dir)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("guest %s: %w", name, err)
	}
	return &Guest{Description: Description{Name: name, Volumes: volumes}, Dir: dir, lvm: h.LVM, lock: lock}, nil
}

// maxVolumes bounds the file that says where the volumes of a removed guest are, in bytes.
const maxVolumes = 512

// readVolumes tells where in LVM the disks are that a removed guest left; empty: they are files.
func readVolumes(dir string) (string, error) {
	path := filepath.Join(dir, volumesFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	text, whole := strings.CutSuffix(string(b), "\n")
	if err == nil && (!whole || len(b) > maxVolumes) {
		err = fmt.Errorf("%s holds no place of LVM", path)
	}
	if err == nil {
		err = storage.CheckVolumes(text, filepath.Base(dir))
	}
	return text, err
}

// Runs writes down that the guest runs, registered in place.
func (g *Guest) Runs(place string) error {
	if err := os.Remove(filepath.Join(g.Dir, endedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return files.Write(filepath.Join(g.Dir, runningFile), []byte(place+"\n"), 0o600)
}

// maxPlace bounds the file that Runs writes: a path (PATH_MAX of <linux/limits.h>) and its end.
const maxPlace = 4096

// Running finds the guest where it runs. It returns ErrAbsent of package running when it does not, and ErrElsewhere
// when another program than rempart runs it.
func (g *Guest) Running() (*running.Guest, error) {
	b, err := os.ReadFile(filepath.Join(g.Dir, runningFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, g.absent()
	}
	if err != nil {
		return nil, err
	}
	if len(b) < 2 || len(b) > maxPlace || b[0] != '/' || b[len(b)-1] != '\n' {
		return nil, fmt.Errorf("guest %s: %s holds no path", g.Name, filepath.Join(g.Dir, runningFile))
	}
	r, err := running.Open(string(b[:len(b)-1]), g.Name)
	if errors.Is(err, running.ErrAbsent) {
		return nil, g.absent()
	}
	return r, err
}

// absent is ErrAbsent of package running, unless a QEMU that rempart does not know writes to the guest's state, or Xen
// runs it: then whatever looks at that or replaces it would do so under a machine that runs.
func (g *Guest) absent() error {
	if g.Xen == nil && g.State > 0 {
		writes, err := qemu.Writes(g.StateDisk())
		if err != nil {
			return fmt.Errorf("guest %s: %w", g.Name, err)
		}
		if writes {
			return fmt.Errorf("%w: %s: %s is open for writing; stop what has it, such as the domain made of `rempart export` "+
				"(virsh shutdown)", ErrElsewhere, g.Name, g.StateDisk())
		}
	}
	if err := g.elsewhereOnXen(); err != nil {
		return err
	}
	return fmt.Errorf("%w: %s; start it with `rempart start %[2]s`", running.ErrAbsent, g.Name)
}

// Ended is how a run of a guest ended.
type Ended struct {
	Cause  string    `json:"cause"` // "powered off", "panicked", "quit", "crashed"
	Detail string    `json:"detail,omitempty"`
	At     time.Time `json:"at"`
}

// End writes down how the guest ended, for whoever looks at it afterwards.
func (g *Guest) End(e Ended) error {
	err := saveJSON(filepath.Join(g.Dir, endedFile), e)
	return errors.Join(err, os.Remove(filepath.Join(g.Dir, runningFile)))
}

// LastEnd tells how the last run ended; nil: it never ran, or whatever kept it had no time to say.
func (g *Guest) LastEnd() (e *Ended, killed bool) {
	if _, err := os.Lstat(filepath.Join(g.Dir, runningFile)); err == nil {
		killed = true // End would have removed it
	}
	b, err := os.ReadFile(filepath.Join(g.Dir, endedFile))
	if err != nil || len(b) > maxDescription {
		return nil, killed
	}
	e = &Ended{}
	if json.Unmarshal(b, e) != nil {
		return nil, killed
	}
	return e, killed
}
