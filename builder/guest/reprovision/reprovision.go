// Package reprovision puts a guest on a master and a state, as one transaction with a journal: the old state goes to
// quarantine, the new one takes its place, the guest must become healthy, and else everything is put back. Killed at
// any point, it goes on where it was or is taken back; nothing is removed before it is over.
//
// Each step is done, then recorded. A step that is done again after a kill between the two finds what it did and does
// the rest. Steps and Back are all of them; the tests kill before and after each.
//
// What it deliberately does not do: know the hypervisor (Runner does), lock (the guest must be locked), or judge what a
// state disk holds (Examine does).
package reprovision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"rempart/builder/guest/home"
	"rempart/builder/guest/journal"
	"rempart/builder/guest/quarantine"
	"rempart/builder/guest/storage"
	"rempart/builder/master/store"
)

// Kinds of transactions.
const (
	Reprovision = "reprovision" // a guest that is not trusted: its state goes to quarantine
	Upgrade     = "upgrade"     // one that is: its state stays, and a copy goes to quarantine
	Rollback    = "rollback"    // back to the master before, with the state it had then
)

// Mode is where the new state comes from.
type Mode string

// The modes.
const (
	Empty   Mode = "empty"   // a blank disk, which the guest formats
	Carry   Mode = "carry"   // a new filesystem with what the guest's description says is kept
	Keep    Mode = "keep"    // a copy of the state as it is
	Restore Mode = "restore" // a copy of a state in quarantine
	None    Mode = "none"    // the guest has no state disk
)

// Plan is what a transaction is about. All of it is in the journal's first record.
type Plan struct {
	ID           string        `json:"id"` // of the entry in quarantine
	Kind         string        `json:"kind"`
	At           time.Time     `json:"at"`
	From         string        `json:"from"`                    // digest of the master before
	FromPrevious string        `json:"from_previous,omitempty"` // what was the previous master then
	To           string        `json:"to"`
	State        Mode          `json:"state"`
	Source       string        `json:"source,omitempty"` // entry in quarantine that Restore takes the state from
	Size         int64         `json:"size"`             // of the new state disk in bytes
	FromSize     int64         `json:"from_size"`
	NewKeys      bool          `json:"new_keys,omitempty"` // the guest makes itself new keys
	Force        bool          `json:"force,omitempty"`    // an upgrade keeps the state whatever is found in it
	Prove        bool          `json:"prove,omitempty"`    // have the packets of the new master judged before the switch
	Start        bool          `json:"start"`              // start it and wait until it is healthy
	Patience     time.Duration `json:"patience"`           // how long it may take for that
	Ran          bool          `json:"ran"`                // it ran before
	// Key and Password are files: the minisign key that signs the evidence, and its password; empty: none.
	Key      string `json:"key,omitempty"`
	Password string `json:"password,omitempty"`
}

// Steps forward, in order. Each name says what is done when it is recorded.
const (
	begun     = "begun"
	checked   = "master checked"
	proven    = "policy proven"
	prepared  = "prepared"
	stopped   = "stopped"
	examined  = "examined"
	filled    = "new disks filled"
	setAside  = "old disks set aside"
	placed    = "new disks in place"
	described = "described"
	started   = "started"
	healthy   = "healthy"
	committed = "committed"
)

// resumed is no step: the guest, which did not run when all began, was found running when it was to stop. It stands
// before the stop, after which nothing else tells that the guest is to run again if it is taken back.
const resumed = "found running"

// Steps back.
const (
	returning   = "returning"
	halted      = "halted"
	withdrawn   = "new disks withdrawn"
	restored    = "old disks restored"
	redescribed = "described as before"
	restarted   = "restarted"
	returned    = "returned"
)

// step is one and what does it.
type step struct {
	name string
	do   func(*Transaction, context.Context) error
}

// forward are the steps after begun; the last ends the transaction.
func forward() []step {
	return []step{{checked, (*Transaction).check}, {proven, (*Transaction).prove},
		{prepared, (*Transaction).prepare}, {stopped, (*Transaction).stop}, {examined, (*Transaction).examine},
		{filled, (*Transaction).fill}, {setAside, (*Transaction).setAside}, {placed, (*Transaction).place},
		{described, (*Transaction).describe}, {started, (*Transaction).start}, {healthy, (*Transaction).await},
		{committed, (*Transaction).nothing}}
}

// back are the steps after returning; the last ends the transaction.
func back() []step {
	return []step{{halted, (*Transaction).halt}, {withdrawn, (*Transaction).withdraw}, {restored, (*Transaction).restore},
		{redescribed, (*Transaction).redescribe}, {restarted, (*Transaction).restart}, {returned, (*Transaction).nothing}}
}

// Runner runs the guest.
type Runner interface {
	Runs() (bool, error)
	// Start starts the guest as its description says; it returns once it runs.
	Start(ctx context.Context) error
	// Stop stops it, if it runs, in order and bounded in time.
	Stop(ctx context.Context) error
	// Healthy waits until the guest does its job: it is ready. An error says why it does not.
	Healthy(ctx context.Context) error
}

// Finding is what an examination of a state disk says.
type Finding struct {
	Suspects []string // one line each; none: nothing is there that should not be
	Report   []byte   // the whole of it, kept in quarantine; empty: none
	// Evidence writes what the report rests on into a file, and tells how that is signed; nil: there is none.
	Evidence func(ctx context.Context, file string) (signed string, err error)
}

// Proof is what the packets of a master say that were tried as the guest's.
type Proof struct {
	Verdict string   // one line: how many flows are right, or why none could be tried
	Wrong   []string // flows that are not as the policy says, a line each
	Report  []byte   // the whole of it, kept in quarantine; empty: none
}

// Options are what a transaction works with.
type Options struct {
	Runner Runner
	Store  *store.Store
	// Examine looks at the state disk of a guest that does not run, which may be hostile. An error means that it could
	// not be read: for an untrusted guest that is a finding too.
	Examine func(ctx context.Context, path string) (Finding, error)
	// Fill makes the new state disk at path from the old one, for Carry; what it leaves behind and why are lines for
	// people.
	Fill func(ctx context.Context, old, path string, size int64) (left []string, err error)
	// Prove boots a master for nothing but to try the flows of its policy, with the guest's own identity and on no
	// network of others; work is an empty folder for what that takes. An error means that it cannot even do that.
	Prove func(ctx context.Context, to, work string, patience time.Duration) (Proof, error)
	Say   func(format string, args ...any) // progress, a line each
	// Trace is called around each step, for tests that end the process there; nil: nothing is.
	Trace func(point string)
}

// Transaction is one under way.
type Transaction struct {
	Plan
	g    *home.Guest
	on   storage.Disks // where its disks are
	o    Options
	j    *journal.Journal
	done map[string]bool
	why  error // why it is being taken back
	// found is the beginning of what the examination found; it is the data of that step's record.
	found []string
	// signed tells how the evidence is signed.
	signed string
	// verdict is that on the packets; it is the data of that step's record.
	verdict string
}

// Errors, for errors.Is.
var (
	// ErrNone: there is no transaction under way.
	ErrNone = errors.New("nothing is under way")
	// ErrReturned: the transaction was taken back, and the guest is as it was before.
	ErrReturned = errors.New("the guest was put back to what it was")
	// ErrPending: it could be neither finished nor taken back; nothing is lost, and either may be tried again.
	ErrPending = errors.New("it is not over")
)

// journalPath is the journal of the transaction that is under way for a guest.
func journalPath(g *home.Guest) string { return filepath.Join(g.Dir, quarantine.Journal) }

// Pending tells how far the transaction is that is under way for a guest: its plan and the last step recorded. It
// returns ErrNone when there is none.
func Pending(g *home.Guest) (p Plan, last string, err error) {
	records, err := journal.Read(journalPath(g))
	if errors.Is(err, fs.ErrNotExist) {
		return p, "", ErrNone
	}
	if err == nil {
		err = json.Unmarshal(records[0].Data, &p)
	}
	if err != nil {
		return p, "", fmt.Errorf("guest %s: %w", g.Name, err)
	}
	return p, records[len(records)-1].Step, nil
}

// Untouched tells whether the guest is as it was before the transaction, whose last step Pending tells: what is
// prepared waits for as long as somebody wants it to, and the guest may be stopped and started meanwhile.
func Untouched(last string) bool { return last == prepared }

// Begin writes a plan down, and completes it. The guest must be locked.
func Begin(ctx context.Context, g *home.Guest, p Plan, o Options) (*Transaction, error) {
	if _, last, err := Pending(g); !errors.Is(err, ErrNone) {
		return nil, errors.Join(fmt.Errorf("guest %s: a transaction is under way, last step: %s; finish it by `rempart "+
			"resume %[1]s` or take it back by `rempart rollback %[1]s`", g.Name, last), err)
	}
	var err error
	if p.ID, err = quarantine.Next(g.Dir); err != nil {
		return nil, err
	}
	if p.Ran, err = o.Runner.Runs(); err != nil {
		return nil, err
	}
	p.From, p.FromPrevious, p.FromSize = g.Master, g.Previous, g.State
	if p.State == None {
		p.Size = 0
	}
	if p.Size, err = g.Disks().Size(ctx, p.Size); err != nil {
		return nil, err
	}
	if err := g.Disks().Check(ctx, p.Size, p.Ran); err != nil {
		return nil, fmt.Errorf("guest %s: nothing has begun: %w", g.Name, err)
	}
	data, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	_, err = quarantine.Put(g.Dir, p.entry(quarantine.Pending, ""))
	var j *journal.Journal
	if err == nil {
		j, err = journal.Create(journalPath(g), journal.Record{Step: begun, Data: data})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("guest %s: nothing has begun: %w", g.Name, err), quarantine.Discard(g.Dir, p.ID))
	}
	return &Transaction{Plan: p, g: g, on: g.Disks(), o: o, j: j, done: map[string]bool{begun: true}}, nil
}

func (p Plan) entry(outcome, why string) quarantine.Entry {
	return quarantine.Entry{ID: p.ID, Kind: p.Kind, From: p.From, To: p.To, At: p.At, Outcome: outcome, Why: why}
}

// Load opens the transaction that is under way for a guest, which must be locked.
func Load(g *home.Guest, o Options) (*Transaction, error) {
	p, _, err := Pending(g)
	if err != nil {
		return nil, err
	}
	if err := quarantine.Sweep(g.Dir, p.ID); err != nil {
		return nil, err
	}
	j, err := journal.Open(journalPath(g))
	if err != nil {
		return nil, err
	}
	t := &Transaction{Plan: p, g: g, on: g.Disks(), o: o, j: j, done: map[string]bool{}}
	for _, r := range j.Records() {
		t.done[r.Step] = true
		switch r.Step { // all but the first only for people
		case resumed:
			t.Ran = true
		case returning:
			var why string
			_ = json.Unmarshal(r.Data, &why)
			t.why = errors.New(why)
		case examined:
			_ = json.Unmarshal(r.Data, &t.found)
			if e, err := quarantine.Open(g.Dir, p.ID); err == nil {
				t.signed = e.Signed
			}
		case proven:
			_ = json.Unmarshal(r.Data, &t.verdict)
		}
	}
	return t, nil
}

// Run goes on to the end: it commits, or takes everything back when a step fails and returns ErrReturned with why. When
// ctx ends, or taking back fails too, it returns ErrPending.
func (t *Transaction) Run(ctx context.Context) error {
	if t.why == nil {
		err := t.forward(ctx, committed)
		if err == nil {
			return t.end(ctx, quarantine.Committed)
		}
		if ctx.Err() != nil {
			return t.pending(err)
		}
		t.say("%v; going back", err)
		if err := t.Return(err); err != nil {
			return err
		}
	}
	return t.goBack(ctx)
}

// Prepare does what can be done while the guest still runs as it is.
func (t *Transaction) Prepare(ctx context.Context) error {
	if err := t.forward(ctx, prepared); err != nil {
		return t.pending(err)
	}
	return t.j.Close()
}

// Return decides that the transaction is taken back, for a reason; Run then does.
func (t *Transaction) Return(why error) error {
	if t.why != nil {
		return nil
	}
	const most = 1024 // bytes of the reason that the journal takes
	data, err := json.Marshal(within(why.Error(), most))
	if err == nil {
		err = t.record(returning, data)
	}
	if err != nil {
		return t.pending(errors.Join(why, err))
	}
	t.why = why
	return nil
}

// forward does the steps up to the one named.
func (t *Transaction) forward(ctx context.Context, last string) error {
	for _, s := range forward() {
		if err := t.step(ctx, s); err != nil {
			return err
		}
		if s.name == last {
			break
		}
	}
	return nil
}

func (t *Transaction) goBack(ctx context.Context) error {
	for _, s := range back() {
		if err := t.step(ctx, s); err != nil {
			return t.pending(errors.Join(t.why, err))
		}
	}
	if err := t.end(ctx, quarantine.Returned); err != nil {
		return err
	}
	return fmt.Errorf("guest %s: %w: %w", t.g.Name, ErrReturned, t.why)
}

// step does one unless it is done.
func (t *Transaction) step(ctx context.Context, s step) error {
	if t.done[s.name] {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	t.trace("before " + s.name)
	if err := s.do(t, ctx); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	t.trace("done " + s.name)
	var said any
	switch {
	case s.name == examined && len(t.found) > 0:
		said = t.found
	case s.name == proven && t.verdict != "":
		said = t.verdict
	default:
		return t.record(s.name, nil)
	}
	data, err := json.Marshal(said)
	if err != nil {
		return err
	}
	return t.record(s.name, data)
}

func (t *Transaction) record(name string, data json.RawMessage) error {
	if err := t.j.Append(journal.Record{Step: name, Data: data}); err != nil {
		return err
	}
	t.done[name] = true
	t.trace("recorded " + name)
	return nil
}

func (t *Transaction) trace(point string) {
	if t.o.Trace != nil {
		t.o.Trace(point)
	}
}

func (t *Transaction) say(format string, args ...any) {
	if t.o.Say != nil {
		t.o.Say(format, args...)
	}
}

func (t *Transaction) pending(err error) error {
	return errors.Join(fmt.Errorf("guest %s: %w: %w; finish it by `rempart resume %[1]s` or take it back by `rempart "+
		"rollback %[1]s`", t.g.Name, ErrPending, err), t.j.Close())
}

// end takes away what nobody needs, and has the journal be history.
func (t *Transaction) end(ctx context.Context, outcome string) error {
	why := ""
	if t.why != nil {
		why = t.why.Error()
	}
	if err := t.clean(ctx, outcome, why); err != nil {
		return t.pending(err)
	}
	t.trace("retiring")
	return t.j.Retire(filepath.Join(t.g.Dir, quarantine.Folder, t.ID, quarantine.Journal))
}

// Over tells whether the transaction is decided: committed, or on its way back.
func (t *Transaction) Over() bool { return t.done[committed] || t.why != nil }

// Name is the guest's.
func (t *Transaction) Name() string { return t.g.Name }
