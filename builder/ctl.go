package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/guest/running"
	"rempart/builder/hypervisor/xen"
	"rempart/firstboot/contract/ctl"
)

// answerTime is how long a guest may take to answer the first greeting: its own children may just be starting.
const answerTime = 30 * time.Second

// ctlCommand is `rempart ctl`.
func ctlCommand() *command {
	return &command{
		name:     "ctl",
		synopsis: "GUEST COMMAND [ARGUMENTS]",
		summary:  "have a running guest carry out a command, without its network",
		help: `
GUEST is one you run with ` + "`rempart run`" + `; without it the names of those are printed. On the dom0 of a Xen host
it may also be a guest that ` + "`xl list`" + ` shows. COMMAND goes to the guest by a channel of the hypervisor, QEMU's
virtio-serial or Xen's xenstore, so it gets there whatever became of links and policy. The commands are those of
SSH: ` + "`rempart ctl GUEST help`" + ` lists them. One caller speaks to a guest at a time; others wait.

Exit status: that of the command in the guest: 0 done, 1 failed, 2 wrong usage.`,
		words: guestNames,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			flags.SetInterspersed(false) // what follows GUEST is the command's
			return func(ctx context.Context, c *console, args []string) error {
				if len(args) == 0 {
					for _, name := range runningGuests() {
						fmt.Fprintln(c.out, name)
					}
					return nil
				}
				if len(args) == 1 {
					return usageError{"want a command for " + args[0] + ", such as status"}
				}
				return callGuest(ctx, c, args[0], args[1:])
			}
		},
	}
}

func runningGuests() []string {
	place, err := running.Place()
	if err != nil {
		return nil
	}
	return running.List(place)
}

// callGuest has a guest carry out one command.
func callGuest(ctx context.Context, c *console, name string, args []string) error {
	call := func(g admin, _ *running.Guest) error {
		out := c.out
		if isTerminal(os.Stdout) {
			out = &plain{w: out}
		}
		status, err := g.Run(ctx, ctl.Call{Args: args}, c.in, out, &plain{w: c.err})
		switch {
		case err != nil:
			return fmt.Errorf("guest %s: %w", name, err)
		case status == ctl.Usage:
			return exitStatus(exitUsage)
		case status != ctl.Done:
			return exitStatus(exitFailed)
		}
		return nil
	}
	return withGuest(ctx, name, call)
}

// maybeOfXen tells whether a guest that was not found may be one of Xen's: whether this is a dom0.
func maybeOfXen(err error) bool {
	_, missing := exec.LookPath("xl")
	return missing == nil && errors.Is(err, running.ErrAbsent)
}

// withXenGuest connects with a guest of Xen on this host.
func withXenGuest(ctx context.Context, tools xen.Toolstack, name string, do func(admin) error) error {
	stream, err := tools.Commands(ctx, name)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, answerTime)
	stop := context.AfterFunc(bounded, func() { stream.Close() })
	err = ctl.Greet(stream)
	late := !stop()
	cancel()
	if err != nil || late {
		stream.Close()
		if late && ctx.Err() == nil {
			err = noAnswer()
		}
		return fmt.Errorf("guest %s: %w", name, err)
	}
	client := ctl.NewClient(stream)
	defer client.Close()
	return do(client)
}

func noAnswer() error {
	return fmt.Errorf("no answer within %v: it may be starting, or another caller speaks to it", answerTime)
}

// exitStatus is an error that everything has been said about.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// dialGuest connects with the channel for commands of a guest.
func dialGuest(ctx context.Context, socket string) (*ctl.Client, error) {
	conn, err := (&net.Dialer{Timeout: answerTime}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	err = conn.SetDeadline(time.Now().Add(answerTime))
	if err == nil {
		err = ctl.Greet(conn)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			err = noAnswer()
		}
		return nil, err
	}
	return ctl.NewClient(conn), nil
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
