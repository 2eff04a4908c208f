package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/guest/keeper"
	"rempart/builder/guest/running"
)

// stopCommand is `rempart stop`.
func stopCommand() *command {
	return &command{
		name:     "stop",
		synopsis: "GUEST",
		summary:  "stop a guest that was created: by its power button, then at once",
		help: `
Presses the guest's power button, and ends it at once when it has not switched itself off within --timeout. A guest that
does not run is no error.`,
		words: createdNames,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			timeout := flags.Duration("timeout", time.Minute, "how long it may take to switch itself off")
			now := flags.Bool("now", false, "end it at once, as a power cut does")
			return guestCommand(func(ctx context.Context, c *console, name string) error {
				if *now {
					*timeout = 0
				}
				if *timeout < 0 {
					return usageError{fmt.Sprintf("--timeout %v: want 0 or more", *timeout)}
				}
				g, err := lockCreated(name, "rempart stop")
				if err != nil {
					return err
				}
				defer g.Unlock()
				r, err := g.Running()
				if errors.Is(err, running.ErrAbsent) {
					fmt.Fprintf(c.out, "%s does not run\n", name)
					return nil
				}
				if err != nil {
					return err
				}
				how, err := stopGuest(ctx, r, *timeout)
				if err != nil {
					return err
				}
				fmt.Fprintf(c.out, "%s has ended: %s\n", name, how)
				return nil
			})(flags)
		},
	}
}

// keeperTime is how much longer than the guest the process may take that keeps it.
const keeperTime = 30 * time.Second

// stopGuest stops a guest that runs and waits for its end: in order, by the hypervisor's quit, and when the process
// that keeps it does not answer by ending that. It tells how.
func stopGuest(ctx context.Context, r *running.Guest, patience time.Duration) (how string, err error) {
	if r.Xen {
		return stopXen(ctx, r, patience)
	}
	wait, cancel := context.WithTimeoutCause(ctx, patience+keeperTime,
		fmt.Errorf("it did not end within %v", patience+keeperTime))
	defer cancel()
	_, err = keeper.Ask(wait, r.Keeper(), keeper.Request{Do: keeper.DoStop, Patience: patience})
	if err == nil {
		err = r.AwaitEnd(wait)
	}
	if err == nil {
		return "stopped", nil
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	last, cancelLast := context.WithTimeout(ctx, keeperTime)
	defer cancelLast()
	if again := errors.Join(r.Kill(), r.AwaitEnd(last)); again != nil {
		return "", fmt.Errorf("guest %s: %w; ending the process that keeps it: %w", r.Name, err, again)
	}
	return fmt.Sprintf("the process that kept it was ended, for %v", err), nil
}
