package pid1

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/boottime"
	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
	"rempart/firstboot/contract/live"
	"rempart/profiles"
)

// Verbs of a live change.
const (
	verbApply   = "apply"
	verbConfirm = "confirm"
	verbUndo    = "undo"
)

// How long children may take to follow a changed profile. The policy comes first and decides; a link that is still
// looking for its NIC after its time is a matter for the report.
const (
	policyFollows = 20 * time.Second
	othersFollow  = 10 * time.Second
)

// undoAgain is how long after an undo that failed the next one comes.
const undoAgain = 10 * time.Second

// change is what keepLive knows of the change that waits for its confirmation.
type change struct {
	undo   <-chan time.Time // nil: none waits
	before []byte           // the live profile before it; nil: the master's own
}

// keepLive changes the profile of the running guest, one change at a time, and undoes what nobody confirms. It is PID
// 1's because nothing may keep a change that locked its author out from being undone: no child that dies, no memory
// that runs out. The timer is CLOCK_MONOTONIC's, which no setting of the clock moves.
func (g *guest) keepLive(ctx context.Context, c *change) {
	for {
		select {
		case r := <-g.liveRequests:
			err := g.guarded("live change", func() error { return g.serveLive(ctx, c, r) })
			if err != nil {
				g.log.Warn(r.Verb+" refused", "error", err)
			}
			g.fact(func(f *facts) {
				f.live.Answer, f.live.Error = r.Number, ""
				if err != nil {
					f.live.Error = cutText(err.Error())
				}
			})
		case <-c.undo:
			g.log.Warn("nobody confirmed the changed profile: undoing it")
			// Before it is: whoever sees the profile back also sees why.
			g.fact(func(f *facts) { f.live.Error = "undone: nobody confirmed it in time" })
			if err := g.undo(ctx, c); err != nil {
				g.fact(func(f *facts) { f.live.Error = cutText(err.Error()) })
			}
		case <-ctx.Done():
			return
		}
	}
}

func (g *guest) serveLive(ctx context.Context, c *change, r child.Request) error {
	switch r.Verb {
	case verbApply:
		if c.undo != nil {
			return errors.New("another change waits to be confirmed: confirm or undo it first")
		}
		if r.Seconds < contract.LeastUndo || r.Seconds > contract.MostUndo {
			return fmt.Errorf("undone after %d s: want %d to %d", r.Seconds, contract.LeastUndo, contract.MostUndo)
		}
		return g.apply(ctx, c, time.Duration(r.Seconds)*time.Second)
	case verbConfirm:
		if c.undo == nil {
			return errors.New("no change waits to be confirmed")
		}
		*c = change{}
		g.fact(func(f *facts) { f.live.UndoAt = 0 })
		g.log.Info("the changed profile is confirmed, until the guest starts anew")
		return nil
	case verbUndo:
		if c.undo == nil {
			return errors.New("no change waits to be confirmed, so there is none to undo; apply another profile instead")
		}
		g.log.Info("undoing the changed profile, as asked")
		return g.undo(ctx, c)
	}
	return fmt.Errorf("unknown verb %.32q", r.Verb)
}

// apply puts the proposed profile in force. When its policy cannot be loaded, the profile before is in force again.
func (g *guest) apply(ctx context.Context, c *change, undoAfter time.Duration) error {
	proposal, err := g.readProposal()
	if err != nil {
		return err
	}
	next, digest, err := g.decodeProfile(proposal.Profile)
	if err != nil {
		return err
	}
	g.mu.Lock()
	running, now := g.profile, g.facts.live.Profile
	g.mu.Unlock()
	switch {
	case proposal.Base != now:
		return fmt.Errorf("the guest runs the profile %.12s and not %.12s, which the change was compared with: compare again",
			now, proposal.Base)
	case digest == now:
		return errors.New("the guest runs this very profile already")
	}
	if fixed := profiles.Fixed(running, next); len(fixed) > 0 {
		return errors.New(strings.Join(fixed, "; ") + "; build a master of it and start the guest from that")
	}
	if err := g.loadNamed(proposal.Modules); err != nil {
		return fmt.Errorf("the master lacks what the profile needs: %w; build a master of it and start the guest from that",
			err)
	}
	if _, err := os.Stat(filepath.Join(g.Root, contract.AuthoritiesPath)); err != nil && next.NeedsAuthorities() {
		return fmt.Errorf("the master lacks what the profile needs to fetch by https: %w; build a master of it and start"+
			" the guest from that, or give each url a pin", err)
	}
	if next.DNS.ServesTLS() && !g.hasDNSCertificate() {
		return errors.New("dns: the guest has no certificate for DNS over TLS: it is on the identity disk, which is read" +
			" when the guest starts; build a master of the profile and start the guest from that, which makes one")
	}
	before, err := os.ReadFile(filepath.Join(g.Root, contract.LivePath))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := g.keepSets(running, next, proposal.Sets); err != nil {
		return err
	}
	g.log.Info("changing the profile", "from", short(now), "to", short(digest))
	*c = change{undo: time.After(undoAfter), before: before} // from here on, whatever fails
	if err := g.putInForce(ctx, proposal.Profile, next, digest); err != nil {
		err = fmt.Errorf("%w; the profile before is in force again", err)
		if back := g.undo(ctx, c); back != nil {
			err = fmt.Errorf("%w, but: %w", err, back)
		}
		return err
	}
	if jump := g.inject[jumpName].Jump; jump != 0 {
		g.jumpClock(jump)
	}
	c.undo = time.After(undoAfter) // children took their time
	g.fact(func(f *facts) { f.live.UndoAt = f.live.Since + undoAfter.Seconds() })
	g.log.Info("the profile has changed; it is undone unless confirmed", "in", undoAfter)
	return nil
}

// hasDNSCertificate tells whether the identity disk had one.
func (g *guest) hasDNSCertificate() bool {
	for _, name := range []string{identity.DNSGiven, identity.DNSMade} {
		if _, err := os.Stat(filepath.Join(g.Root, identity.SecretPath(identity.ConsumerDNS, name))); err == nil {
			return true
		}
	}
	return false
}

// decodeProfile reads a profile as that of this guest.
func (g *guest) decodeProfile(b []byte) (*profiles.Profile, string, error) {
	p, digest, err := child.DecodeProfile(b)
	if err != nil {
		return nil, "", err
	}
	return p, digest, child.ApplyIdentity(g.Root, p)
}

// undo puts the profile before the change that waits in force again. Until it is the one children read, the change goes
// on waiting and is undone later: what stood in the way may pass, and nobody may be left who could ask for it.
func (g *guest) undo(ctx context.Context, c *change) error {
	c.undo = time.After(undoAgain)
	b := c.before
	var err error
	if b == nil {
		b, err = os.ReadFile(filepath.Join(g.Root, contract.ProfilePath))
	}
	var p *profiles.Profile
	var digest string
	if err == nil {
		p, digest, err = g.decodeProfile(b)
	}
	if err == nil {
		err = g.putInForce(ctx, c.before, p, digest)
	}
	g.mu.Lock()
	done := g.facts.live.Profile == digest
	g.mu.Unlock()
	if done {
		*c = change{}
	}
	switch {
	case err != nil && !done:
		return fmt.Errorf("undoing the change: %w; trying again in %v", err, undoAgain)
	case err != nil:
		return fmt.Errorf("undoing the change: %w", err)
	}
	return nil
}

// putInForce makes a profile the one every child reads, nil bytes meaning the master's own, and has them follow it:
// the policy first, so that no link ever has addresses under rules that were not made for it. It fails when the
// policy does.
func (g *guest) putInForce(ctx context.Context, live []byte, p *profiles.Profile, digest string) error {
	path := filepath.Join(g.Root, contract.LivePath)
	if err := g.keepPrevious(); err != nil {
		return err
	}
	if live == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	} else if err := writeWhole(path, live); err != nil {
		return err
	}
	g.mu.Lock()
	g.profile = p
	g.mu.Unlock()
	g.warn("name", g.setName)
	g.warn("shares of the state disk", g.shareAgain)
	g.fact(func(f *facts) {
		f.settled, f.changing = false, time.Now()
		f.live.Profile, f.live.Since, f.live.UndoAt = digest, boottime.Now().Seconds(), 0
		delete(f.failures, policyChild)
	})
	defer g.fact(func(f *facts) { f.changing = time.Time{} })
	isPolicy := func(spec child.Spec) bool { return spec.Name == policyChild }
	if err := g.follow(ctx, digest, policyFollows, isPolicy); err != nil {
		return err
	}
	err := g.follow(ctx, digest, othersFollow, func(spec child.Spec) bool { return !isPolicy(spec) })
	if err != nil {
		g.log.Warn("not everything has followed the changed profile yet", "error", err)
	}
	return nil
}

// keepPrevious lays the profile in force beside the one to come: the policy child knows by it the rules it finds.
func (g *guest) keepPrevious() error {
	g.mu.Lock()
	b, err := json.Marshal(g.profile)
	g.mu.Unlock()
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(g.Root, contract.PreviousPath), b)
}

// follow tells some of the children that follow the profile to read it again, and waits until each says its job holds
// for it, or one fails, or it takes too long.
func (g *guest) follow(ctx context.Context, digest string, most time.Duration, which func(child.Spec) bool) error {
	g.sup.Reconsider()
	running := map[string]bool{}
	for _, c := range g.sup.States() {
		running[c.Name] = c.PID != 0
	}
	var names []string
	for _, spec := range g.Specs {
		if !spec.Follows || !which(spec) || spec.Needed != nil && !running[spec.Name] && !spec.Needed(g.Root) {
			continue
		}
		names = append(names, spec.Name)
		// One that is not running reads the new profile when it starts.
		_ = g.sup.Signal(spec.Name, syscall.SIGHUP)
	}
	late := time.NewTimer(most)
	defer late.Stop()
	for {
		g.mu.Lock()
		heard := g.heard
		var waiting []string
		for _, name := range names {
			if g.holds[name] != digest {
				waiting = append(waiting, name)
			}
		}
		failure := ""
		for _, name := range waiting {
			failure = cmp.Or(failure, g.facts.failures[name])
		}
		g.mu.Unlock()
		switch {
		case len(waiting) == 0:
			return nil
		case failure != "":
			return errors.New(failure)
		}
		select {
		case <-heard:
		case <-late.C:
			return fmt.Errorf("%s: no word for %v", strings.Join(waiting, ", "), most)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hear notes for which profile a child says its job holds; empty: nothing new but a failure.
func (g *guest) hear(name, digest string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if digest != "" {
		g.holds[name] = digest
	}
	close(g.heard)
	g.heard = make(chan struct{})
}

// readProposal reads what the admin child proposes. That child may be in a stranger's hands: the file must be one, of
// bounded size, and everything in it is checked.
func (g *guest) readProposal() (live.Change, error) {
	var l live.Change
	b, err := child.ReadUntrusted(filepath.Join(g.Root, contract.ProposalPath), contract.MaxLive)
	if err != nil {
		return l, fmt.Errorf("proposed profile: %w", err)
	}
	if err := child.Strict(b, &l); err != nil {
		return l, fmt.Errorf("proposed profile: %w", err)
	}
	return l, nil
}

func short(digest string) string { return digest[:min(len(digest), 12)] }

// jumpName stands for the clock in an injection.
const jumpName = "clock"

// jumpClock sets the clock off, for a test of what must not depend on it.
func (g *guest) jumpClock(by time.Duration) {
	t := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &t); err != nil {
		g.log.Error("the clock was not set", "error", err)
		return
	}
	g.log.Warn("the clock jumped, as the kernel command line says", "by", by)
}
