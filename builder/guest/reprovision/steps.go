package reprovision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"rempart/builder/files"
	"rempart/builder/guest"
	"rempart/builder/guest/quarantine"
	"rempart/builder/master/store"
)

// disk is one of those a transaction replaces: where it is, where the new one waits, and where the old one goes.
type disk struct{ path, next, old, failed string }

func (t *Transaction) disks() []disk {
	var names []string
	if t.State != None {
		names = append(names, quarantine.State)
	}
	if t.NewKeys {
		names = append(names, quarantine.Identity)
	}
	var all []disk
	aside := filepath.Join(t.g.Dir, quarantine.Folder, t.ID)
	for _, name := range names {
		all = append(all, disk{filepath.Join(t.g.Dir, name), filepath.Join(t.g.Dir, workFolder, name),
			filepath.Join(aside, name), filepath.Join(aside, "failed-"+name)})
	}
	return all
}

func there(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// move moves a file where none may be. That it was moved already is what a kill between the move and its record leaves.
func move(from, to string) error {
	have, err := there(from)
	if err != nil || !have {
		return err
	}
	if taken, err := there(to); err != nil || taken {
		return errors.Join(fmt.Errorf("%s is to become %s, which is there already", from, to), err)
	}
	return files.Move(from, to)
}

func (t *Transaction) nothing(context.Context) error { return nil }

// check reads every byte of the new master.
func (t *Transaction) check(ctx context.Context) error {
	m, err := t.o.Store.Find(t.To)
	if err != nil {
		return err
	}
	t.say("checking every byte of master %.12s", t.To)
	return t.o.Store.Verify(ctx, m)
}

// prepare makes the new disks that need nothing of a guest which stands still.
func (t *Transaction) prepare(context.Context) error {
	work := filepath.Join(t.g.Dir, workFolder)
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return err
	}
	if t.State == Empty {
		if _, err := guest.EnsureState(filepath.Join(work, quarantine.State), t.Size); err != nil {
			return err
		}
	}
	if t.NewKeys {
		id, err := guest.ReadIdentity(t.g.Identity())
		if err != nil {
			return err
		}
		guest.DropKeys(id)
		if err := guest.WriteIdentity(filepath.Join(work, quarantine.Identity), id); err != nil {
			return err
		}
	}
	if err := files.SyncFolder(work); err != nil {
		return err
	}
	return files.SyncFolder(t.g.Dir)
}

func (t *Transaction) stop(ctx context.Context) error {
	if t.Ran {
		t.say("stopping %s", t.g.Name)
	}
	return t.o.Runner.Stop(ctx)
}

// examine looks at the old state, which from now on nobody writes to.
func (t *Transaction) examine(ctx context.Context) error {
	if t.State == None || t.o.Examine == nil {
		return nil
	}
	found, err := t.o.Examine(ctx, t.g.StateDisk())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		found.Suspects = append(found.Suspects, fmt.Sprintf("the state disk cannot be read: %v", err))
	}
	if len(found.Report) > 0 {
		report := filepath.Join(t.g.Dir, quarantine.Folder, t.ID, quarantine.Report)
		if err := files.Write(report, found.Report, 0o600); err != nil {
			return err
		}
	}
	t.found = bounded(found.Suspects)
	for _, f := range t.found {
		t.say("found: %s", f)
	}
	if t.Kind == Upgrade && !t.Force && len(found.Suspects) > 0 {
		return fmt.Errorf("its state has what should not be there (%s); an upgrade would keep that: use `rempart "+
			"reprovision`, or --force", t.found[0])
	}
	return nil
}

// bounded keeps the beginning of what was found, as much as a record of the journal takes; the report has all.
func bounded(lines []string) (few []string) {
	const (
		most = 16
		size = 160 // of a line
	)
	for _, l := range lines[:min(len(lines), most)] {
		few = append(few, within(l, size))
	}
	if len(lines) > most {
		few = append(few, fmt.Sprintf("and %d more; the report has all", len(lines)-most))
	}
	return few
}

// within is the beginning of a text that takes no more than so many bytes as JSON, which writes some of its characters
// as six bytes: a guest that chooses the names of its files must not choose how large a record is.
func within(text string, most int) string {
	text = strings.ToValidUTF8(text[:min(len(text), most)], "?")
	size := 0
	for at, r := range text {
		quoted, _ := json.Marshal(string(r)) // never fails for text
		if size += len(quoted) - len(`""`); size > most {
			return text[:at]
		}
	}
	return text
}

// fill completes the new disks.
func (t *Transaction) fill(ctx context.Context) error {
	next := filepath.Join(t.g.Dir, workFolder, quarantine.State)
	have, err := there(next)
	if err != nil || have {
		return err // a clone appears whole
	}
	switch t.State {
	case Keep:
		err = files.Clone(ctx, t.g.StateDisk(), next)
	case Restore:
		err = files.Clone(ctx, filepath.Join(t.g.Dir, quarantine.Folder, t.Source, quarantine.State), next)
	case Carry:
		var left []string
		part := next + ".part"
		if err := os.RemoveAll(part); err != nil {
			return err
		}
		if left, err = t.o.Fill(ctx, t.g.StateDisk(), part, t.Size); err == nil {
			err = files.Move(part, next)
		} else { // what goes back needs the room, on a disk that is full
			err = errors.Join(err, os.RemoveAll(part))
		}
		for _, l := range left {
			t.say("left behind: %s", l)
		}
	}
	return err
}

func (t *Transaction) setAside(context.Context) error {
	for _, d := range t.disks() {
		if err := move(d.path, d.old); err != nil {
			return err
		}
	}
	return nil
}

func (t *Transaction) place(context.Context) error {
	for _, d := range t.disks() {
		if err := move(d.next, d.path); err != nil {
			return err
		}
	}
	return nil
}

func (t *Transaction) describe(context.Context) error {
	previous := t.g.Previous
	if t.To != t.From {
		previous = t.From
	}
	return t.save(t.To, previous, t.Size)
}

// save writes the guest's description, while its master cannot go.
func (t *Transaction) save(master, previous string, size int64) error {
	t.g.Master, t.g.Previous, t.g.State = master, previous, size
	return t.o.Store.With(master, func(*store.Master) error { return t.g.Save() })
}

func (t *Transaction) start(ctx context.Context) error {
	if !t.Start {
		return nil
	}
	runs, err := t.o.Runner.Runs()
	if err != nil || runs {
		return err
	}
	t.say("starting %s on master %.12s", t.g.Name, t.To)
	return t.o.Runner.Start(ctx)
}

func (t *Transaction) await(ctx context.Context) error {
	if !t.Start {
		return nil
	}
	runs, err := t.o.Runner.Runs()
	if err != nil {
		return err
	}
	if !runs { // it ended, or whoever kept it was killed with the process that began this
		if err := t.o.Runner.Start(ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, t.Patience, fmt.Errorf("not healthy within %v", t.Patience))
	defer cancel()
	if err := t.o.Runner.Healthy(ctx); err != nil {
		return fmt.Errorf("%s on master %.12s: %w", t.g.Name, t.To, err)
	}
	return nil
}

// touched tells whether the guest's own disks may have been moved.
func (t *Transaction) touched() bool { return t.done[filled] }

// halt ends the guest on the new master. Before anything was moved it is the old one that runs, and may go on.
func (t *Transaction) halt(ctx context.Context) error {
	if !t.touched() {
		return nil
	}
	return t.o.Runner.Stop(ctx)
}

// withdraw moves the new disks out of the way, to quarantine, wherever the old one was set aside.
func (t *Transaction) withdraw(context.Context) error {
	for _, d := range t.disks() {
		aside, err := there(d.old)
		if err == nil && aside {
			err = move(d.path, d.failed)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *Transaction) restore(context.Context) error {
	for _, d := range t.disks() {
		if err := move(d.old, d.path); err != nil {
			return err
		}
	}
	return nil
}

func (t *Transaction) redescribe(context.Context) error {
	if t.g.Master == t.From && t.g.Previous == t.FromPrevious && t.g.State == t.FromSize {
		return nil // nor does it take room on a disk that is full
	}
	return t.save(t.From, t.FromPrevious, t.FromSize)
}

// restart has the guest run again if it did. That it is not healthy is told, and no reason to go anywhere else.
func (t *Transaction) restart(ctx context.Context) error {
	runs, err := t.o.Runner.Runs()
	if err != nil || !t.Ran || runs {
		return err
	}
	t.say("starting %s as it was, on master %.12s", t.g.Name, t.From)
	if err := t.o.Runner.Start(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, t.Patience, fmt.Errorf("not healthy within %v", t.Patience))
	defer cancel()
	if err := t.o.Runner.Healthy(ctx); err != nil {
		t.say("%s runs as it was, but: %v", t.g.Name, err)
	}
	return nil
}

// mostWhy is how many bytes of why it was taken back the entry in quarantine takes.
const mostWhy = 16 << 10

// clean removes new disks that were never used, and writes down how it ended.
func (t *Transaction) clean(outcome, why string) error {
	if err := os.RemoveAll(filepath.Join(t.g.Dir, workFolder)); err != nil { // first: it makes room for the rest
		return err
	}
	e := t.entry(outcome, within(why, mostWhy))
	e.Found = t.found
	_, err := quarantine.Put(t.g.Dir, e)
	return err
}
