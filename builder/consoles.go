package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"rempart/builder/guest/keeper"
	"rempart/builder/guest/running"
)

// consoleCommand is `rempart console`.
func consoleCommand() *command {
	return &command{
		name:     "console",
		synopsis: "GUEST",
		summary:  "the console of a guest that was started",
		help: `
Shows the last that the guest said, and what it says from now on; what is typed goes to it, Ctrl-C too. Ctrl-] leaves
it, and the guest runs on. Several may look at once.`,
		words: createdNames,
		setup: func(*pflag.FlagSet) func(context.Context, *console, []string) error {
			return guestCommand(func(ctx context.Context, c *console, name string) error {
				r, err := openGuest(name)
				if err != nil {
					return err
				}
				if r.Xen {
					return xenConsole(ctx, name)
				}
				if _, err := os.Stat(r.Keeper()); err != nil {
					return fmt.Errorf("%s runs on another terminal, by `rempart run`: its console is there", name)
				}
				return showConsole(ctx, c, r)
			})(nil)
		},
	}
}

func showConsole(ctx context.Context, c *console, r *running.Guest) error {
	guest, err := keeper.Attach(ctx, r.Keeper())
	if err != nil {
		return fmt.Errorf("guest %s: %w", r.Name, err)
	}
	defer guest.Close()
	tty, err := openTerminal(c)
	if err != nil {
		return err
	}
	defer tty.restore()
	tty.say("the console of %s; Ctrl-] leaves it", r.Name)
	keys, stop := context.WithCancel(ctx)
	defer stop()
	escapes := tty.forward(keys, guest)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(c.out, guest)
	}()
	select {
	case <-ended:
		tty.restore()
		fmt.Fprintf(c.err, "\nrempart: %s has ended, or its console is watched too slowly\n", r.Name)
	case <-escapes:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
