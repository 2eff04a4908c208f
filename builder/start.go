package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/guest/home"
	"rempart/builder/guest/running"
)

// startCommand is `rempart start`.
func startCommand() *command {
	return &command{
		name:     "start",
		synopsis: "GUEST",
		summary:  "start a guest that was created; it runs on after this command",
		help: `
Returns when the guest is READY. A process of its own keeps the guest: it reads the console, which ` +
			"`rempart console`" + `
shows, and knows how the guest is, which ` + "`rempart status`" + ` tells. It outlives this terminal, and the guest
ends with it.

A guest of Xen an xl watches over, which starts it again when it restarts, and nothing of rempart stays.

With --foreground this process is the one that keeps the guest, for a service manager: SIGTERM ends the guest in order.
Of a guest of Xen that SIGTERM must not reach xl too: KillMode=mixed of systemd.

Exit status: 0 when it is READY, 1 when it failed or was not within --timeout; it runs on then, to be looked at.`,
		words: createdNames,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			foreground := flags.Bool("foreground", false, "keep the guest in this process, until it ends")
			noWait := flags.Bool("no-wait", false, "do not wait until it is READY")
			timeout := flags.Duration("timeout", 5*time.Minute, "how long to wait until it is READY")
			verbose := flags.BoolP("verbose", "v", false, "log what is done, with QEMU's command line")
			return guestCommand(func(ctx context.Context, c *console, name string) error {
				if *foreground {
					return keepGuest(ctx, c, name, *verbose)
				}
				g, err := lockCreated(name, "rempart start")
				if err != nil {
					return err
				}
				defer g.Unlock()
				if err := startable(g); err != nil {
					return err
				}
				if r, err := g.Running(); err == nil {
					return fmt.Errorf("%w: %s, %s", home.ErrRuns, name, whoRuns(r))
				} else if !errors.Is(err, running.ErrAbsent) {
					return err
				}
				if err := sayDataOf(ctx, c, g); err != nil {
					return err
				}
				began := time.Now()
				r, err := launch(ctx, g, *verbose)
				if err != nil {
					return err
				}
				g.Unlock()
				if *noWait {
					fmt.Fprintf(c.out, "%s starts\n", name)
					return nil
				}
				wait, cancel := context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("%v have passed (--timeout)", *timeout))
				defer cancel()
				if err := awaitReady(wait, r); err != nil {
					return fmt.Errorf("%w; it runs on: rempart status %s, rempart console %[2]s", err, name)
				}
				fmt.Fprintf(c.out, "%s is READY after %.1f s\n", name, time.Since(began).Seconds())
				return nil
			})(flags)
		},
	}
}
