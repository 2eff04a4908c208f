package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"rempart/firstboot/boottime"
	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
)

// patience is how long PID 1 may take to answer: it waits for the policy and for the links to follow, or to go back.
const patience = 90 * time.Second

func runApply(ctx context.Context, d *desk, r ctl.Request) error {
	flags, _ := options(r)
	seconds := flags.Int("undo-after", contract.DefaultUndo, "seconds until the change undoes itself unless confirmed")
	if err := parse(r, flags); err != nil {
		return err
	}
	if *seconds < contract.LeastUndo || *seconds > contract.MostUndo {
		return usageError{fmt.Errorf("--undo-after %d: want %d to %d seconds", *seconds, contract.LeastUndo,
			contract.MostUndo)}
	}
	// One change at a time is on its way, and while it is nobody who confirms or undoes has to wait for it.
	if !d.incoming.TryLock() {
		return errors.New("another change is on its way; try again")
	}
	defer d.incoming.Unlock()
	path := filepath.Join(d.root, contract.ProposalPath)
	if err := keepChange(path+".new", r.Stdin); err != nil {
		return errors.Join(err, os.Remove(path+".new"))
	}
	d.live.Lock()
	defer d.live.Unlock()
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	defer os.Remove(path)
	report, err := d.ask(ctx, child.Request{Verb: "apply", Seconds: *seconds})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(r.Stdout, "changed; undone in %d s unless confirmed\n", *seconds)
	return errors.Join(err, d.sayState(r.Stderr, report))
}

// keepChange writes the change as it comes, so that at no time all of it is in memory twice. PID 1 reads and checks it:
// it need not believe this child. What is checked here is only for a better message.
func keepChange(path string, from io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(from, contract.MaxLive+1))
	err = errors.Join(err, f.Close())
	switch {
	case err != nil:
		return fmt.Errorf("reading the change: %w", err)
	case n > contract.MaxLive:
		return fmt.Errorf("the change has more than %d bytes", contract.MaxLive)
	case n == 0:
		return errors.New("there is no change on standard input; `rempart apply PROFILE GUEST` sends one")
	}
	return nil
}

// sayState warns when the guest does not do its job under the changed profile.
func (d *desk) sayState(w io.Writer, r contract.Report) error {
	if r.Ready || !r.Settled {
		return nil
	}
	for _, f := range r.Failures {
		if _, err := fmt.Fprintf(w, "warning: %s\n", f); err != nil {
			return err
		}
	}
	return nil
}

func runConfirm(ctx context.Context, d *desk, r ctl.Request) error {
	flags, _ := options(r)
	if err := parse(r, flags); err != nil {
		return err
	}
	// While this waits another change may come into force: it is that one which would be confirmed.
	d.live.Lock()
	defer d.live.Unlock()
	report, _ := d.news.newest()
	if r.Since == math.SmallestNonzeroFloat64 && report.Live.Since > 0 {
		return errors.New("a shell does not tell when its connection was made, so it does not show that you can still get" +
			" in; confirm without one: `ssh GUEST confirm` or `rempart confirm GUEST` from where you are," +
			" or `rempart ctl GUEST confirm` on its host")
	}
	if r.Since != 0 && r.Since < report.Live.Since {
		return errors.New("this connection was made before the change, so it does not show that you can still get in; " +
			"connect anew and confirm then")
	}
	if _, err := d.ask(ctx, child.Request{Verb: "confirm"}); err != nil {
		return err
	}
	_, err := fmt.Fprintln(r.Stdout, "confirmed, until the guest starts anew")
	return err
}

func runUndo(ctx context.Context, d *desk, r ctl.Request) error {
	flags, _ := options(r)
	if err := parse(r, flags); err != nil {
		return err
	}
	d.live.Lock()
	defer d.live.Unlock()
	if _, err := d.ask(ctx, child.Request{Verb: "undo"}); err != nil {
		return err
	}
	_, err := fmt.Fprintln(r.Stdout, "undone")
	return err
}

// ask has PID 1 do something about the profile and waits for its answer. The caller holds d.live. A client that goes
// away meanwhile changes nothing: what was asked is done.
func (d *desk) ask(ctx context.Context, r child.Request) (contract.Report, error) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), patience,
		fmt.Errorf("PID 1 did not answer for %v", patience))
	defer cancel()
	now := uint64(boottime.Now())
	if now == 0 {
		return contract.Report{}, errors.New("the kernel does not tell the time")
	}
	r.Number = now // never again, even by a successor of this process
	d.tell(child.KeyRequest, r)
	report, err := d.news.await(ctx, func(rep contract.Report) bool { return rep.Live.Answer == r.Number })
	if err == nil && report.Live.Error != "" {
		err = errors.New(report.Live.Error)
	}
	return report, err
}
