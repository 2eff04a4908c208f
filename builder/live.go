package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/guest/running"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// liveCommands change a running guest, and compare it with its master.
func liveCommands() []*command {
	guests := guestNames
	return []*command{
		{
			name:     "apply",
			synopsis: "PROFILE GUEST",
			summary:  "change the profile of a running guest; it undoes itself unless you confirm",
			help: `
Shows what changes, and puts it in force in one step, without cutting what is connected. GUEST is the name of a guest
that ` + "`rempart run`" + ` started, or on the dom0 of a Xen host of one that ` + "`xl list`" + ` shows.

Unless ` + "`rempart confirm GUEST`" + ` comes in time, the guest goes back by itself: a change that locks you out lasts
a minute. Confirmed or not it is gone when the guest starts anew; ` + "`rempart commit GUEST`" + ` makes it the guest's
master, which for a guest of Xen is a master built of the changed profile.

A guest's memory, kernel and disks do not change while it runs: that is refused, with what to do instead.`,
			files: true,
			words: func() []string { return append(profiles.Builtin(), guests()...) },
			setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
				undo := flags.Duration("undo-after", contract.DefaultUndo*time.Second,
					"how long it waits to be confirmed, from 5s to 1h")
				dry := flags.BoolP("dry-run", "n", false, "show what would change, and change nothing")
				return func(ctx context.Context, c *console, args []string) error {
					if len(args) != 2 {
						return usageError{"want a profile and the name of a guest"}
					}
					seconds := int(undo.Seconds())
					if seconds < contract.LeastUndo || seconds > contract.MostUndo {
						return usageError{fmt.Sprintf("--undo-after %v: want %d s to %d s", *undo, contract.LeastUndo,
							contract.MostUndo)}
					}
					p, err := profiles.Load(args[0])
					if err != nil {
						return err
					}
					warn(c, p)
					return withGuest(ctx, args[1], func(g admin, _ *running.Guest) error {
						return apply(ctx, c, g, p, args[1], seconds, *dry)
					})
				}
			},
		},
		{
			name:     "confirm",
			synopsis: "GUEST",
			summary:  "keep what `apply` changed, having shown that you still get in",
			help: `
Connects to the guest anew, by SSH where its policy lets admins in and else by the hypervisor's channel, and keeps the
changed profile until the guest starts anew.`,
			words: guests,
			setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
				keys := sshKeys(flags)
				return guestCommand(func(ctx context.Context, c *console, name string) error {
					return confirm(ctx, c, name, keys(c))
				})(flags)
			},
		},
		{
			name:     "undo",
			synopsis: "GUEST",
			summary:  "take back at once what `apply` changed and nobody confirmed",
			words:    guests,
			setup: guestCommand(func(ctx context.Context, c *console, name string) error {
				return withGuest(ctx, name, func(g admin, _ *running.Guest) error {
					return tell(ctx, c, g, "undo")
				})
			}),
		},
		commitCommand(guests),
		{
			name:     "diff",
			synopsis: "GUEST",
			summary:  "what a running guest does differently from the master it will boot next",
			help: `
Exit status: 0 when they agree, 3 when they differ.`,
			words: guests,
			setup: guestCommand(func(ctx context.Context, c *console, name string) error {
				return withGuest(ctx, name, func(g admin, r *running.Guest) error { return diffGuest(ctx, c, g, r) })
			}),
		},
	}
}

func commitCommand(guests func() []string) *command {
	return &command{
		name:     "commit",
		synopsis: "GUEST",
		summary:  "rebuild the master a running guest boots next from the profile it runs",
		help: `
The master's folder changes in one step; the guest that runs keeps the old one open and is not disturbed. A change that
still waits to be confirmed is refused.`,
		words: guests,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			packages := packageFlags(flags)
			return guestCommand(func(ctx context.Context, c *console, name string) error {
				r, err := openGuest(name)
				if maybeOfXen(err) {
					return fmt.Errorf("%w by rempart itself; what it laid into volumes for Xen it does not lay anew: put the change "+
						"into the profile's file, `rempart build` that, and start the guest of Xen from the new master", err)
				}
				if err != nil {
					return err
				}
				return commit(ctx, c, r, packages, func(do func(admin) error) error {
					return withGuest(ctx, name, func(g admin, _ *running.Guest) error { return do(g) })
				})
			})(flags)
		},
	}
}

// setup is what a command's setup is; see command.
type setup = func(flags *pflag.FlagSet) func(ctx context.Context, c *console, args []string) error

// guestCommand is a command whose one argument is a guest.
func guestCommand(do func(ctx context.Context, c *console, name string) error) setup {
	return func(*pflag.FlagSet) func(context.Context, *console, []string) error {
		return func(ctx context.Context, c *console, args []string) error {
			if len(args) != 1 {
				return usageError{"want the name of a guest"}
			}
			return do(ctx, c, args[0])
		}
	}
}
