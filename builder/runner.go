package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"rempart/builder/guest/carry"
	"rempart/builder/guest/home"
	"rempart/builder/guest/reprovision"
	"rempart/builder/guest/running"
	"rempart/builder/guest/storage"
	"rempart/builder/master/store"
)

// runner runs a guest of a home for a transaction, under the lock that the transaction has.
type runner struct {
	g        *home.Guest
	patience time.Duration // that a stop may take
}

func (r runner) Runs() (bool, error) {
	_, err := r.g.Running()
	if errors.Is(err, running.ErrAbsent) {
		return false, nil
	}
	return err == nil, err
}

func (r runner) Start(ctx context.Context) error {
	_, err := launch(ctx, r.g, false)
	return err
}

func (r runner) Stop(ctx context.Context) error {
	g, err := r.g.Running()
	if errors.Is(err, running.ErrAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = stopGuest(ctx, g, r.patience)
	return err
}

func (r runner) Healthy(ctx context.Context) error {
	g, err := r.g.Running()
	if err != nil {
		return err
	}
	return awaitReady(ctx, g)
}

// transactionOptions are what a transaction for a guest works with. The evidence is signed with a key, unless that
// names no file; it is read, and its password asked for, before anything is done.
func transactionOptions(c *console, g *home.Guest, patience time.Duration, key signingKey) (reprovision.Options,
	error) {
	s, err := store.Open(g.Store)
	if err != nil {
		return reprovision.Options{}, err
	}
	x := examination{g: g}
	if key.file != "" {
		if err := foreignOnly(g, "--key", "the evidence is the overlay itself, which quarantine keeps whole"); err != nil {
			return reprovision.Options{}, err
		}
		private, err := key.read(c)
		if err != nil {
			return reprovision.Options{}, fmt.Errorf("key %s: %w", key.file, err)
		}
		x.key = &private
	}
	return reprovision.Options{Runner: runner{g, patience}, Store: s,
		Examine: func(ctx context.Context, path string) (reprovision.Finding, error) {
			if g.Image != nil {
				return examineOverlay(ctx, g, path)
			}
			return x.look(ctx, path)
		},
		Fill: func(ctx context.Context, old, path string, size int64) ([]string, error) {
			f, err := os.Open(old)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			length, err := storage.Length(old)
			if err != nil {
				return nil, err
			}
			return carry.Carry(ctx, f, length, path, size, g.Keep, time.Now())
		},
		Prove: func(ctx context.Context, to, work string, patience time.Duration) (reprovision.Proof, error) {
			return prove(ctx, c, g, s, to, work, patience)
		},
		Say: func(format string, args ...any) {
			fmt.Fprintf(c.err, "rempart: %s\n", oneLine(fmt.Sprintf(format, args...)))
		}}, nil
}

// notPending tells that a guest waits for a transaction to be finished, which nothing else may come between.
func notPending(g *home.Guest) error {
	p, last, err := reprovision.Pending(g)
	if errors.Is(err, reprovision.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("guest %s: %s %s is not over, its last step: %s; finish it by `rempart resume %[1]s` or take it "+
		"back by `rempart rollback %[1]s`", g.Name, p.Kind, p.ID, last)
}

// startable is notPending for a guest that is to be started: one that a change is only prepared for is as it was, and
// must come up again with its host.
func startable(g *home.Guest) error {
	if _, last, err := reprovision.Pending(g); err == nil && reprovision.Untouched(last) {
		return nil
	}
	return notPending(g)
}
