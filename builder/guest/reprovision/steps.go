package reprovision

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"rempart/builder/files"
	"rempart/builder/guest"
	"rempart/builder/guest/quarantine"
	"rempart/builder/guest/storage"
	"rempart/builder/master/store"
)

// disk is one of those a transaction replaces: where it is, where the new one waits, and where the old one goes.
type disk struct{ current, next, old, failed storage.Disk }

func (t *Transaction) disks() []disk {
	var kinds []storage.Kind
	if t.State != None {
		kinds = append(kinds, storage.State)
	}
	if t.NewKeys {
		kinds = append(kinds, storage.Identity)
	}
	if t.on.OwnsSystem() {
		kinds = append(kinds, storage.System)
	}
	var all []disk
	for _, k := range kinds {
		all = append(all, disk{storage.Disk{Kind: k}, storage.Disk{Kind: k, Place: storage.Next},
			storage.Disk{Kind: k, Place: storage.Aside, Entry: t.ID}, storage.Disk{Kind: k, Place: storage.Failed, Entry: t.ID}})
	}
	return all
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

// prove has the packets of the new master judged, while the guest still runs as it is.
func (t *Transaction) prove(ctx context.Context) error {
	if !t.Prove {
		return nil
	}
	t.say("proving the policy of master %.12s: the guest goes on meanwhile", t.To)
	if err := t.on.Clear(ctx); err != nil { // what one that was killed left
		return err
	}
	work := filepath.Join(t.g.Dir, storage.Work) // which is gone when the transaction is over
	if err := os.Mkdir(work, 0o700); err != nil {
		return err
	}
	proof, err := t.o.Prove(ctx, t.To, work, t.Patience)
	if err != nil {
		return fmt.Errorf("master %.12s as %s, on a network of its own: %w", t.To, t.g.Name, err)
	}
	if len(proof.Report) > 0 {
		report := filepath.Join(t.g.Dir, quarantine.Folder, t.ID, quarantine.Packets)
		if err := files.Write(report, proof.Report, 0o600); err != nil {
			return err
		}
	}
	const most = 512 // bytes of it that the journal takes
	t.verdict = within(proof.Verdict, most)
	t.say("policy: %s", t.verdict)
	if wrong := bounded(proof.Wrong); len(wrong) > 0 {
		return fmt.Errorf("packets of master %.12s as %s are not as its policy says: %s", t.To, t.g.Name,
			strings.Join(wrong, "; "))
	}
	return nil
}

// prepare makes the new disks that need nothing of a guest which stands still.
func (t *Transaction) prepare(ctx context.Context) error {
	if err := t.on.Clear(ctx); err != nil {
		return err
	}
	if t.State == Empty {
		if err := t.blank(ctx, storage.Disk{Kind: storage.State, Place: storage.Next}); err != nil {
			return err
		}
	}
	if t.on.OwnsSystem() {
		if err := t.derive(ctx); err != nil {
			return err
		}
	}
	if !t.NewKeys {
		return nil
	}
	id, err := guest.ReadIdentity(t.g.Identity())
	if err != nil {
		return err
	}
	guest.DropKeys(id)
	return t.on.Make(ctx, storage.Disk{Kind: storage.Identity, Place: storage.Next}, 0, func(path string) error {
		return guest.WriteIdentity(path, id)
	})
}

// blank makes a disk that the guest has not written to yet: of zeros, or of another system an overlay on the master.
func (t *Transaction) blank(ctx context.Context, d storage.Disk) error {
	if t.g.Image == nil {
		return t.on.Make(ctx, d, t.Size, nil)
	}
	kept, err := t.o.Store.Find(t.To)
	if err != nil {
		return err
	}
	m, err := guest.OpenMaster(kept.Dir)
	if err != nil {
		return err
	}
	return t.on.Make(ctx, d, 0, func(path string) error { return guest.MakeOverlay(ctx, path, m, t.Size) })
}

// derive makes the new system disk, where that is the guest's own.
func (t *Transaction) derive(ctx context.Context) error {
	m, err := t.o.Store.Find(t.To)
	if err != nil {
		return err
	}
	from, err := guest.Volume(m.Dir, m.Digest, m.Manifest)
	if err != nil {
		return err
	}
	t.say("deriving the system disk of %s from master %.12s", t.g.Name, t.To)
	return t.on.Derive(ctx, from, storage.Disk{Kind: storage.System, Place: storage.Next})
}

func (t *Transaction) stop(ctx context.Context) error {
	runs, err := t.o.Runner.Runs()
	if err != nil {
		return err
	}
	if runs && !t.Ran { // it was started since the transaction was prepared
		if err := t.record(resumed, nil); err != nil {
			return err
		}
		t.Ran = true
	}
	if runs {
		t.say("stopping %s", t.g.Name)
	}
	return t.o.Runner.Stop(ctx)
}

// examine looks at the old state, which from now on nobody writes to.
func (t *Transaction) examine(ctx context.Context) error {
	if t.State == None || t.o.Examine == nil {
		return nil
	}
	found, err := t.o.Examine(ctx, t.on.Path(storage.Disk{Kind: storage.State}))
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
	if found.Evidence != nil {
		file := filepath.Join(t.g.Dir, quarantine.Folder, t.ID, quarantine.Evidence)
		var err error
		if t.signed, err = found.Evidence(ctx, file); err != nil {
			return err
		}
		// At once: nobody shall take it for what it is not, whatever ends this.
		e := t.entry(quarantine.Pending, "")
		e.Proven, e.Signed = t.verdict, t.signed
		if _, err := quarantine.Put(t.g.Dir, e); err != nil {
			return err
		}
		t.say("evidence: %s, %s", file, t.signed)
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
	now, next := storage.Disk{Kind: storage.State}, storage.Disk{Kind: storage.State, Place: storage.Next}
	switch t.State {
	case Keep:
		return t.copy(ctx, now, next)
	case Restore:
		return t.copy(ctx, storage.Disk{Kind: storage.State, Place: storage.Aside, Entry: t.Source}, next)
	case Carry:
		have, err := t.on.There(ctx, next)
		if err != nil || have {
			return err // it appears whole
		}
		var left []string
		err = t.on.Make(ctx, next, t.Size, func(path string) (err error) {
			left, err = t.o.Fill(ctx, t.on.Path(now), path, t.Size)
			return err
		})
		for _, l := range left {
			t.say("left behind: %s", l)
		}
		return err
	}
	return nil
}

// copy makes a disk as a copy of another, of the new size.
func (t *Transaction) copy(ctx context.Context, from, to storage.Disk) error {
	before, err := storage.Length(t.on.Path(from))
	if err != nil {
		return err
	}
	have, err := t.on.There(ctx, to)
	if err == nil && !have {
		err = t.on.Clone(ctx, from, to)
	}
	if err != nil || before >= t.Size {
		return err
	}
	return t.on.Grow(ctx, to, before, t.Size)
}

func (t *Transaction) setAside(ctx context.Context) error {
	for _, d := range t.disks() {
		if err := t.on.Move(ctx, d.current, d.old); err != nil {
			return err
		}
	}
	return nil
}

func (t *Transaction) place(ctx context.Context) error {
	for _, d := range t.disks() {
		if err := t.on.Move(ctx, d.next, d.current); err != nil {
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
func (t *Transaction) withdraw(ctx context.Context) error {
	for _, d := range t.disks() {
		aside, err := t.on.There(ctx, d.old)
		if err == nil && aside {
			err = t.on.Move(ctx, d.current, d.failed)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *Transaction) restore(ctx context.Context) error {
	for _, d := range t.disks() {
		if err := t.on.Move(ctx, d.old, d.current); err != nil {
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
func (t *Transaction) clean(ctx context.Context, outcome, why string) error {
	if err := t.on.Clear(ctx); err != nil { // first: it makes room for the rest
		return err
	}
	e := t.entry(outcome, within(why, mostWhy))
	e.Found, e.Proven, e.Signed = t.found, t.verdict, t.signed
	_, err := quarantine.Put(t.g.Dir, e)
	return err
}
