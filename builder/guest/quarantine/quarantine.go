// Package quarantine keeps what was set aside of a guest: the disks it had before it was put on another state, those of
// a change that failed, and what was found about them.
//
//	quarantine/0001/entry.json    what it is
//	quarantine/0001/state.raw     the state disk before
//	quarantine/0001/root.qcow2    the overlay before, of a guest of another system
//	quarantine/0001/identity.raw  the identity disk before, where the change made new keys
//	quarantine/0001/failed-*      disks of a change that was taken back
//	quarantine/0001/report.json   what the disks looked like
//	quarantine/0001/evidence.tar.zst  what the report rests on, and evidence.tar.zst.minisig where that is signed
//	quarantine/0001/packets.json  what became of the packets of the new master, before the switch
//	quarantine/0001/journal       the steps of the change
//
// State disks that are volumes of LVM stay volumes, under another name.
//
// What it deliberately does not do: decide what is set aside, or look into the disks. Nothing here is ever changed; it
// is removed when its owner says so.
package quarantine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"rempart/builder/files"
	"rempart/builder/guest/storage"
)

// Names of what an entry may hold.
const (
	Folder      = storage.Quarantine
	State       = storage.StateFile
	Identity    = storage.IdentityFile
	FailedState = storage.FailedStateFile
	Overlay     = storage.OverlayFile // in place of State of a guest of another system
	Report      = "report.json"
	Packets     = "packets.json"
	Evidence    = "evidence.tar.zst"
	Signature   = Evidence + ".minisig" // of Evidence, where somebody signs it
	Journal     = "journal"
	entryFile   = "entry.json"
)

// ErrUnknown is returned when there is no such entry.
var ErrUnknown = errors.New("there is nothing of that number in quarantine")

// Outcomes of a change.
const (
	Pending   = "pending"
	Committed = "committed"
	Returned  = "returned"
)

// Entry is what one change set aside.
type Entry struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"` // "reprovision", "upgrade", "rollback"
	From    string    `json:"from"` // digest of the master before
	To      string    `json:"to"`
	At      time.Time `json:"at"`
	Outcome string    `json:"outcome"`
	Why     string    `json:"why,omitempty"` // of returned
	Found   []string  `json:"found,omitempty"`
	Proven  string    `json:"proven,omitempty"` // the verdict on the packets of To; empty: they were not tried
	Signed  string    `json:"signed,omitempty"` // how the evidence is signed, or that it is not; empty: there is none
	Dir     string    `json:"-"`
}

// idPattern is an entry's number; maxEntries what it can count to.
var idPattern = regexp.MustCompile(`^[0-9]{4}$`)

const maxEntries = 9999

// dirOf is the folder of an entry of a guest.
func dirOf(guest, id string) string { return filepath.Join(guest, Folder, id) }

// Next is the number of the next entry of a guest.
func Next(guest string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(guest, Folder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	last := 0
	for _, e := range entries {
		if idPattern.MatchString(e.Name()) {
			n := 0
			if _, err := fmt.Sscanf(e.Name(), "%d", &n); err == nil {
				last = max(last, n)
			}
		}
	}
	if last == maxEntries {
		return "", fmt.Errorf("the quarantine is full: %d entries; `rempart quarantine prune` removes old ones", last)
	}
	return fmt.Sprintf("%04d", last+1), nil
}

// Put writes an entry down, making its folder at the first time.
func Put(guest string, e Entry) (dir string, err error) {
	dir = dirOf(guest, e.ID)
	if !idPattern.MatchString(e.ID) {
		return "", fmt.Errorf("%w: %q", ErrUnknown, e.ID)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	b, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		return "", err
	}
	if err := files.Write(filepath.Join(dir, entryFile), append(b, '\n'), 0o600); err != nil {
		return "", err
	}
	if err := files.SyncFolder(filepath.Dir(dir)); err != nil {
		return "", err
	}
	return dir, files.SyncFolder(guest)
}

// Sweep removes from an entry's folder what a power cut left of writing to it. The guest must be locked.
func Sweep(guest, id string) error {
	if err := files.Sweep(dirOf(guest, id), entryFile, Report, Packets, Evidence, Signature); err != nil {
		return fmt.Errorf("quarantine %s: what a power cut left: %w", id, err)
	}
	return nil
}

// maxEntry bounds the file about an entry in bytes.
const maxEntry = 1 << 20

// Open reads an entry.
func Open(guest, id string) (*Entry, error) {
	if !idPattern.MatchString(id) {
		return nil, fmt.Errorf("%w: %.40q", ErrUnknown, id)
	}
	dir := dirOf(guest, id)
	info, err := os.Stat(filepath.Join(dir, entryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrUnknown, id)
	}
	if err != nil {
		return nil, err
	}
	e := &Entry{}
	if info.Size() > maxEntry {
		return nil, fmt.Errorf("quarantine %s: %s has %d bytes", id, entryFile, info.Size())
	}
	b, err := os.ReadFile(filepath.Join(dir, entryFile))
	if err == nil {
		err = json.Unmarshal(b, e)
	}
	if err == nil && e.ID != id {
		err = fmt.Errorf("it says it is %q", e.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("quarantine %s: %w", id, err)
	}
	e.Dir = dir
	return e, nil
}

// List are the entries of a guest, the oldest first. One that cannot be read does not hide the others.
func List(guest string) (all []*Entry, err error) {
	entries, err := os.ReadDir(filepath.Join(guest, Folder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, e := range entries {
		if !idPattern.MatchString(e.Name()) {
			continue
		}
		one, err := Open(guest, e.Name())
		if errors.Is(err, ErrUnknown) {
			continue // a disk was full, or the power went, before anything was set aside there
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b *Entry) int { return strings.Compare(a.ID, b.ID) })
	return all, errors.Join(failed...)
}

// Disk names a state disk of an entry: the one before the change, or with failed that of a change that was taken back.
func (e *Entry) Disk(failed bool) storage.Disk {
	place := storage.Aside
	if failed {
		place = storage.Failed
	}
	return storage.Disk{Kind: storage.State, Place: place, Entry: e.ID}
}

// Used is how many bytes of this machine's storage each of some entries takes, with its state disks. What cannot be
// found out counts as nothing, and is told.
func Used(ctx context.Context, entries []*Entry, s storage.Disks) ([]int64, error) {
	all := make([]int64, len(entries))
	var disks []storage.Disk // that lie elsewhere
	var of []int
	for i, e := range entries {
		inside, _ := os.ReadDir(e.Dir)
		for _, f := range inside {
			if info, err := f.Info(); err == nil {
				if s, ok := info.Sys().(*syscall.Stat_t); ok {
					all[i] += s.Blocks * 512 // stat(2)
				}
			}
		}
		for _, failed := range []bool{false, true} {
			if filepath.Dir(s.Path(e.Disk(failed))) != e.Dir {
				disks, of = append(disks, e.Disk(failed)), append(of, i)
			}
		}
	}
	if len(disks) == 0 {
		return all, nil
	}
	used, err := s.Used(ctx, disks...) // all at once: each question to LVM takes a while
	for k, n := range used {
		all[of[k]] += n
	}
	return all, err
}

// Has tells whether an entry holds a file that is no disk. One that was never written down holds none.
func (e *Entry) Has(name string) bool {
	if e.Dir == "" {
		return false
	}
	_, err := os.Lstat(filepath.Join(e.Dir, name))
	return err == nil
}

// HasState tells whether an entry holds the state disk from before the change. One that was never written down does
// not.
func (e *Entry) HasState(ctx context.Context, s storage.Disks) (bool, error) {
	if e.Dir == "" {
		return false, nil
	}
	return s.There(ctx, e.Disk(false))
}

// Discard takes an entry away in which nothing was set aside yet.
func Discard(guest, id string) error { return os.RemoveAll(dirOf(guest, id)) }

// Remove takes an entry away for good, the file about it last: what is half gone is still told of.
func (e *Entry) Remove(ctx context.Context, s storage.Disks) error {
	for _, failed := range []bool{false, true} {
		disk := e.Disk(failed)
		err := s.Remove(ctx, disk)
		if disk.Kind = storage.System; err == nil && s.OwnsSystem() {
			err = s.Remove(ctx, disk)
		}
		if err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(e.Dir)
	if err != nil {
		return err
	}
	for _, f := range entries {
		if f.Name() != entryFile {
			if err := os.RemoveAll(filepath.Join(e.Dir, f.Name())); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(e.Dir)
}
