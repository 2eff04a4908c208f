package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/quarantine"
	"rempart/builder/guest/reprovision"
	"rempart/builder/master/store"
)

// changeCommands put guests on masters, and keep what they had.
func changeCommands() []*command {
	return []*command{reprovisionCommand(), upgradeCommand(), rollbackCommand(), resumeCommand(), prepareCommand(),
		quarantineCommand(), outdatedCommand(), backupCommand(), restoreCommand(), resizeCommand(), setCommand()}
}

// changeOptions are those of the commands that put a guest on a master.
type changeOptions struct {
	to, prove                        *string
	signing                          *signingKey
	stop, timeout                    *time.Duration
	dry, noStart, reset, keys, force *bool
}

func changeFlags(flags *pflag.FlagSet, what string) changeOptions {
	o := changeOptions{
		stop:    flags.Duration("stop-timeout", time.Minute, "how long the guest may take to switch itself off"),
		timeout: flags.Duration("timeout", 5*time.Minute, "how long it may take to be healthy"),
		dry:     flags.BoolP("dry-run", "n", false, "say what would be kept and lost, and change nothing"),
		noStart: flags.Bool("no-start", false, "do not start it afterwards, and so do not wait until it is healthy"),
		signing: &signingKey{},
	}
	flags.StringVar(&o.signing.file, "key", "", "sign the evidence, which is kept in quarantine, with this minisign key")
	flags.StringVar(&o.signing.password, "password-file", "", "file with the password of the key")
	if what != reprovision.Rollback {
		o.to = flags.String("to", "", "the new master, a tag or digest; default: the one it has")
		o.prove = flags.String("prove", proveNew, "have real packets prove the master's policy before the switch: "+
			"always, new (of a master that the guest does not have), or never")
		oneOf(flags, "prove", proveWhen)
	}
	return o
}

// When the policy of a master is proven by packets.
const (
	proveAlways = "always"
	proveNew    = "new"
	proveNever  = "never"
)

var proveWhen = []string{proveAlways, proveNew, proveNever}

func newKeysFlag(flags *pflag.FlagSet) *bool {
	return flags.Bool("new-keys", false,
		"have the guest known by a new SSH host key, new WireGuard keys, and a new key of DNS over TLS if its was made here")
}

const transactionHelp = `
Every step is in a journal: whatever ends this command, ` + "`rempart status`" + ` tells how far it is, ` +
	"`rempart resume`" + `
finishes it, and ` + "`rempart rollback`" + ` takes it back.

A master that is new to the guest is first booted beside it, with its name, addresses and keys but on a network inside
this process, and all that its policy allows and forbids is tried there, as ` + "`rempart test`" + ` does
(--prove). Unless all of that is right nothing is switched, and the guest does not even stop. Until the guest is READY
on the new master nothing is given up; when it does not become READY everything is put back as it was.

Exit status: 0 done, 1 when it was put back or is not over.`

// reprovisionCommand is `rempart reprovision`.
func reprovisionCommand() *command {
	return &command{
		name:     "reprovision",
		synopsis: "GUEST",
		summary:  "put a guest that is not trusted back on a master, with a clean state",
		help: `
Checks every byte of the master, stops the guest, looks at its state disk from outside, sets that aside in quarantine,
and starts the guest with a new one: blank, or with what was declared by ` + "`rempart create --keep`" + ` carried over
as far as it is what it should be.
` + transactionHelp,
		words: createdNames,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			o := changeFlags(flags, reprovision.Reprovision)
			o.reset = flags.Bool("reset-state", false, "carry nothing over, not even what is declared")
			o.keys = newKeysFlag(flags)
			return guestCommand(func(ctx context.Context, c *console, name string) error {
				return change(ctx, c, name, reprovision.Reprovision, o)
			})(flags)
		},
	}
}

// upgradeCommand is `rempart upgrade`.
func upgradeCommand() *command {
	return &command{
		name:     "upgrade",
		synopsis: "GUEST --to REF",
		summary:  "put a guest that is trusted on another master; its state stays",
		help: `
As ` + "`rempart reprovision`" + `, but the state stays, and a copy of it as it is now goes to quarantine. A state that
has what should not be there is refused.
` + transactionHelp,
		words: createdNames,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			o := changeFlags(flags, reprovision.Upgrade)
			o.force = flags.Bool("force", false, "keep the state whatever is found in it")
			return guestCommand(func(ctx context.Context, c *console, name string) error {
				if *o.to == "" {
					return usageError{"want --to REF, the new master"}
				}
				return change(ctx, c, name, reprovision.Upgrade, o)
			})(flags)
		},
	}
}

// resumeCommand is `rempart resume`.
func resumeCommand() *command {
	return &command{
		name:     "resume",
		synopsis: "GUEST",
		summary:  "finish a change of a guest that was prepared or broken off",
		help:     transactionHelp,
		words:    createdNames,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			stop := flags.Duration("stop-timeout", time.Minute, "how long the guest may take to switch itself off")
			return guestCommand(func(ctx context.Context, c *console, name string) error {
				return goOn(ctx, c, name, ending{stop: *stop})
			})(flags)
		},
	}
}

// prepareCommand is `rempart prepare`.
func prepareCommand() *command {
	return &command{
		name:     "prepare",
		synopsis: "GUEST",
		summary:  "do all of a reprovision that can be done while the guest still runs",
		help: `
The master is checked and the new disks are made; ` + "`rempart resume`" + ` then takes little more than a restart of
the guest, and ` + "`rempart rollback`" + ` drops what was prepared. Until then the guest may be stopped and started.`,
		words: createdNames,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			o := changeFlags(flags, reprovision.Reprovision)
			o.reset = flags.Bool("reset-state", false, "carry nothing over, not even what is declared")
			o.keys = newKeysFlag(flags)
			return guestCommand(func(ctx context.Context, c *console, name string) error {
				return changing(c, name, "prepare", o, func(c *console, g *home.Guest) error {
					t, err := begin(ctx, c, g, reprovision.Reprovision, o)
					if err != nil || t == nil {
						return err
					}
					if err := t.Prepare(ctx); err != nil {
						return err
					}
					fmt.Fprintf(c.out, "%s is prepared for master %.12s; switch by `rempart resume %[1]s`\n", name, t.To)
					return nil
				})
			})(flags)
		},
	}
}

// lockUnchanged locks a guest for a change, while no other is under way. What ends the terminal does not end that.
func lockUnchanged(name, what string) (*home.Guest, error) {
	outlive()
	g, err := lockCreated(name, what)
	if err != nil {
		return nil, err
	}
	if err := notPending(g); err != nil {
		g.Unlock()
		return nil, err
	}
	return g, nil
}

// changing does something to a guest that no other change of is under way, where others can watch it, unless it is only
// to be told what would be done.
func changing(c *console, name, what string, o changeOptions, do func(c *console, g *home.Guest) error) error {
	what = "rempart " + what
	g, err := lockUnchanged(name, what)
	if err != nil {
		return err
	}
	defer g.Unlock()
	if *o.dry {
		return do(c, g)
	}
	return atWork(c, g, what, func(c *console) error { return do(c, g) })
}

func change(ctx context.Context, c *console, name, kind string, o changeOptions) error {
	return changing(c, name, kind, o, func(c *console, g *home.Guest) error {
		t, err := begin(ctx, c, g, kind, o)
		if err != nil || t == nil {
			return err
		}
		return finish(ctx, c, t)
	})
}

// finish goes on with a transaction to its end, and says how long the guest was away.
func finish(ctx context.Context, c *console, t *reprovision.Transaction) error {
	began := time.Now()
	if err := t.Run(ctx); err != nil {
		return err
	}
	how := "READY"
	if !t.Plan.Start {
		how = "not started"
	}
	fmt.Fprintf(c.out, "%s: %s on master %.12s after %.1f s; what it had is in quarantine as %s\n", t.Name(), how, t.To,
		time.Since(began).Seconds(), t.ID)
	return nil
}

// begin makes the plan of a change and writes it down; nil: only what it would be was asked for.
func begin(ctx context.Context, c *console, g *home.Guest, kind string, o changeOptions) (*reprovision.Transaction,
	error) {
	if err := o.signing.absolute(); err != nil {
		return nil, err
	}
	options, err := transactionOptions(c, g, *o.stop, *o.signing)
	if err != nil {
		return nil, err
	}
	ref := g.Master
	if o.to != nil && *o.to != "" {
		ref = *o.to
	}
	m, err := options.Store.Find(ref)
	if err != nil {
		return nil, err
	}
	p := reprovision.Plan{Kind: kind, At: time.Now().UTC(), To: m.Digest, State: reprovision.Empty,
		Size: max(g.State, leastSize(g, m)), Start: !*o.noStart, Patience: *o.timeout,
		Key: o.signing.file, Password: o.signing.password}
	if err := fits(g, m, kind, o); err != nil {
		return nil, err
	}
	switch {
	case leastSize(g, m) == 0 && g.State == 0:
		p.State = reprovision.None
	case kind == reprovision.Upgrade && g.State > 0:
		p.State = reprovision.Keep
	case len(g.Keep) > 0 && g.State > 0 && !*o.reset:
		p.State = reprovision.Carry
	}
	p.NewKeys = o.keys != nil && *o.keys
	p.Force = o.force != nil && *o.force
	switch *o.prove {
	case proveAlways:
		p.Prove = true
		err = foreignOnly(g, "--prove always", "it has no policy of rempart's to prove")
	case proveNew:
		p.Prove = p.To != g.Master && g.Image == nil
	case proveNever:
	default:
		return nil, usageError{fmt.Sprintf("--prove %s: want %s", *o.prove, strings.Join(proveWhen, ", "))}
	}
	if err != nil {
		return nil, err
	}
	if *o.dry {
		if err := sayPlan(ctx, c, g, p, m); err != nil {
			return nil, err
		}
	}
	if p.Start {
		err = dataFits(ctx, c, g, m)
	}
	if err != nil || *o.dry {
		return nil, err
	}
	return reprovision.Begin(ctx, g, p, options)
}

// leastSize is how large the state disk must be that a master wants, or the overlay on it, in bytes.
func leastSize(g *home.Guest, m *store.Master) int64 {
	if g.Image != nil {
		return m.Manifest.Disk.Size
	}
	return m.Manifest.State
}

// fits tells why a guest cannot be put on a master in the way that was asked for.
func fits(g *home.Guest, m *store.Master, kind string, o changeOptions) error {
	if (m.Manifest.Image != nil) != (g.Image != nil) {
		return fmt.Errorf("guest %s cannot be put on master %.12s %s: one of the two is another system's, made of an image, "+
			"and one was built; make another guest of it", g.Name, m.Digest, printable(m.Manifest.Master.Name))
	}
	if kind == reprovision.Upgrade {
		if err := foreignOnly(g, "upgrade", "what it has written belongs to the very image it was written on, and would be "+
			"rubbish on another; `rempart reprovision --to REF` gives it the other image, with nothing written"); err != nil {
			return err
		}
	}
	if o.keys != nil && *o.keys {
		return foreignOnly(g, "--new-keys", "it makes its keys itself, anew after every reprovision unless the image has "+
			"some")
	}
	return nil
}

// sayPlan says what a change would do.
func sayPlan(ctx context.Context, c *console, g *home.Guest, p reprovision.Plan, m *store.Master) error {
	fmt.Fprintf(c.out, "%s of %s: nothing was changed (--dry-run)\n", p.Kind, g.Name)
	fmt.Fprintf(c.out, "  master: %.12s", g.Master)
	if p.To != g.Master {
		fmt.Fprintf(c.out, " -> %.12s %s", p.To, printable(m.Manifest.Master.Name))
	}
	fmt.Fprintln(c.out)
	if p.Prove {
		fmt.Fprintln(c.out, "  policy: real packets prove it first, in a second guest beside this one, which goes on")
	}
	next, err := quarantine.Next(g.Dir)
	if err != nil {
		return err
	}
	state := map[reprovision.Mode]string{
		reprovision.None:  "there is none",
		reprovision.Empty: "a blank one of %d MiB; LOST to the guest is all it has written; that goes to quarantine as %s",
		reprovision.Carry: "a new one of %d MiB; LOST to the guest is all but what is kept below, as far as it is what it " +
			"should be; all of it goes to quarantine as %s",
		reprovision.Keep:    "stays, %d MiB; a copy of it goes to quarantine as %s",
		reprovision.Restore: "the one set aside before, %d MiB; the one of now goes to quarantine as %s",
	}[p.State]
	what := "state"
	if g.Image != nil {
		what = "overlay"
	}
	if p.State != reprovision.None {
		state = fmt.Sprintf(state, p.Size>>20, next)
	}
	fmt.Fprintf(c.out, "  %s: %s\n", what, state)
	if p.State == reprovision.Carry {
		fmt.Fprintf(c.out, "  kept: %s\n", strings.Join(kept(g.Keep), ", "))
	}
	keys := "stay"
	if p.NewKeys {
		keys = "the SSH host key, WireGuard keys and the key of DNS over TLS that was made for it are LOST to the guest, " +
			"which gets new ones; others stay"
	}
	fmt.Fprintf(c.out, "  name, hardware addresses, keys and secrets: %s\n", keys)
	for _, d := range g.Data {
		fmt.Fprintf(c.out, "  data disk %s: stays, %s\n", d.Name, d.Path)
	}
	opened, err := guest.OpenMaster(m.Dir)
	if err != nil {
		return err
	}
	all, err := dataFindings(ctx, g, opened.Profile)
	for _, f := range all {
		fmt.Fprintf(c.out, "  %s\n", printable(f.String()))
	}
	return err
}

// ending is how a change that is under way for a guest is ended.
type ending struct {
	stop    time.Duration // how long the guest may take to switch itself off
	back    bool          // it is taken back, and else finished
	dry     bool          // only tell what taking it back would do
	noStart bool          // the guest is not started when all is as it was
}

// goOn finishes what is under way for a guest, or takes it back.
func goOn(ctx context.Context, c *console, name string, e ending) error {
	outlive()
	what := "rempart resume"
	if e.back {
		what = "rempart rollback"
	}
	g, err := lockCreated(name, what)
	if err != nil {
		return err
	}
	defer g.Unlock()
	p, last, err := reprovision.Pending(g)
	if errors.Is(err, reprovision.ErrNone) {
		return fmt.Errorf("guest %s: %w", name, err)
	}
	if err != nil {
		return err
	}
	if e.dry {
		fmt.Fprintf(c.out, "rollback of %s: nothing was changed (--dry-run)\n", name)
		fmt.Fprintf(c.out, "  taken back: %s %s to master %.12s, last step: %s\n", p.Kind, p.ID, p.To, last)
		fmt.Fprintf(c.out, "  master and state: %.12s, and what it had on it when that began\n", p.From)
		return nil
	}
	return atWork(c, g, what, func(c *console) error { return end(ctx, c, g, p, e) })
}

// end finishes a change that is under way for a guest, or takes it back.
func end(ctx context.Context, c *console, g *home.Guest, p reprovision.Plan, e ending) error {
	key := signingKey{p.Key, p.Password}
	if e.back {
		key = signingKey{} // nothing is examined any more: a key that is gone must not stand in the way
	}
	options, err := transactionOptions(c, g, e.stop, key)
	if err != nil {
		return err
	}
	t, err := reprovision.Load(g, options)
	if err != nil {
		return err
	}
	if !e.back || t.Over() {
		return finish(ctx, c, t)
	}
	if e.noStart {
		t.Ran = false
	}
	if err := t.Return(errors.New("that was asked for")); err != nil {
		return err
	}
	if err := t.Run(ctx); !errors.Is(err, reprovision.ErrReturned) {
		return err
	}
	fmt.Fprintf(c.out, "%s is as it was before %s %s\n", g.Name, t.Kind, t.ID)
	return nil
}
