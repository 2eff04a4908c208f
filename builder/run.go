package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/qemu"
	"rempart/builder/image"
	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// stopTime is how long a guest may take to switch itself off after its power button.
const stopTime = 20 * time.Second

// runCommand is `rempart run`.
func runCommand() *command {
	return &command{
		name:     "run",
		synopsis: "PROFILE|DIR",
		summary:  "boot a master in QEMU, with its console on this terminal",
		help: `
DIR is the folder of a master; a PROFILE is built first. No root is needed. The system disk is attached read-only; what
the guest writes goes to its state disk, which is kept beside the master (--state). What makes it this guest and no
other is on its identity disk, kept there too (--identity) and made where there is none: its name, the hardware
addresses of its links, its SSH host key, and the SSH keys that may log in: those of --key, else your own,
~/.ssh/id_*.pub. WireGuard links get a private key there, whose public half is said, or the one of --wireguard-key, and
the preshared keys of their peers by --wireguard-key LINK/PEER=FILE. DNS over TLS gets a certificate for the guest's
name and addresses, known by the pin of its key, which is said, or the one of --dns-key. Where the profile says instance
for addresses and gateways of a link, they are those of --address and --gateway, kept from then on. A microvm has no
place for that disk and goes without.

Data disks that the profile declares are those of --data. For each that is not given a blank one of 64 MiB stands in,
which goes with the guest.

While it runs, ` + "`rempart ctl NAME COMMAND`" + ` speaks to it from another terminal. Of one name only one guest runs.

--net LINK=WHAT plugs a link in, and may be given for each:
  none                nothing else is on it (what every link is by default but the first)
  user                QEMU's user-mode network, and nothing behind it (what the first link is by default)
  user,internet       the same with a way out to everything this machine can reach
  tap:NAME            an existing tap interface of this user
  socket:listen=ADDRESS:PORT, socket:connect=ADDRESS:PORT, socket:mcast=GROUP:PORT
                      another QEMU

Ctrl-] presses the guest's power button and ends it after 20 seconds at the latest; a second Ctrl-] ends it at once.
Everything else typed goes to the guest, Ctrl-C too.

Exit status: 0 when the guest was switched off, by itself or from here; 1 when its kernel panicked, when QEMU failed, or
when it was not READY within --timeout.`,
		words: profiles.Builtin,
		files: true,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			o := guestFlags(flags)
			name := flags.String("name", "", "name of the guest; default: the profile's")
			state := flags.String("state", "", "file of the state disk; default: beside the master")
			own := identityFlags(flags)
			nets := flags.StringArray("net", nil, "plug a link in: LINK=WHAT")
			data := flags.StringArray("data", nil, "attach a data disk of the profile: NAME=FILE, or NAME=FILE,ro")
			timeout := flags.Duration("timeout", 0, "end the guest when it is not READY by then, such as 90s; 0: wait for ever")
			untilReady := flags.Bool("until-ready", false, "switch the guest off once it is READY")
			return func(ctx context.Context, c *console, args []string) error {
				if len(args) != 1 {
					return usageError{"want one profile or folder of a master"}
				}
				s, err := o.settings(c)
				if err != nil {
					return err
				}
				if *name != "" {
					err = notCreated(*name) // rather than after a build
				}
				if err != nil {
					return err
				}
				disks, err := dataDisks(*data)
				if err != nil {
					return err
				}
				m, done, err := o.master(ctx, c, args[0], keepDir)
				if err != nil {
					return err
				}
				defer done()
				lendData(c, &s, m.Profile, disks)
				s.Name = *name
				if s.Name == "" {
					s.Name = m.Profile.Name
				}
				if s.State = *state; s.State == "" {
					s.State = m.StatePath(s.Name)
				}
				if s.Identity = *own.disk; s.Identity == "" {
					s.Identity = m.IdentityPath(s.Name)
				}
				if err := notCreated(s.Name); err != nil {
					return err
				}
				s.Console = c.out
				g, err := takeName(&s)
				if err != nil {
					return err
				}
				p, err := own.ensure(ctx, c, s, m.Profile)
				if err == nil {
					s.Backends, err = plug(p, *nets)
				}
				if err == nil && g != nil {
					err = announce(g, &s, m, p)
				}
				if err == nil {
					err = runGuest(ctx, c, m, s, *timeout, *untilReady)
				}
				if g != nil {
					err = errors.Join(err, g.Forget())
				}
				return err
			}
		},
	}
}

// notCreated tells that a name is that of a guest with a home, which `rempart run` is not for.
func notCreated(name string) error {
	if !identity.IsHostname(name) {
		return usageError{fmt.Sprintf("--name %s: want an RFC 1123 label in lower case, such as fw-1", name)}
	}
	switch _, err := openCreated(name); {
	case errors.Is(err, home.ErrUnknown):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%s is a guest that `rempart create` made: `rempart start %[1]s` starts it; give this one another "+
		"name with --name", name)
}

// lendData attaches the data disks that are given, and says which of the profile's have others stand in for them.
func lendData(c *console, s *guest.Settings, p *profiles.Profile, given []home.Data) {
	s.Data, s.StandIns = home.Attached(given), true
	for _, d := range guest.Unattached(p, s.Data) {
		fmt.Fprintf(c.err, "rempart: WARNING: data disk %s: what is written there goes with the guest; --data %[1]s=FILE "+
			"keeps it\n", d.Name)
	}
}

// machineOptions say what a guest's machine is like.
type machineOptions struct {
	firmware, format, memory, accel *string
	verbose                         *bool
}

func machineFlags(flags *pflag.FlagSet) machineOptions {
	o := machineOptions{
		firmware: flags.StringP("firmware", "f", string(hypervisor.BIOS), "how it boots: bios, uefi, direct or microvm"),
		format:   flags.String("format", "", "system disk to attach: raw or qcow2; default: what is there"),
		memory:   flags.StringP("memory", "m", "", "RAM, such as 128M; default: the profile's"),
		accel:    flags.String("accel", string(hypervisor.Auto), "kvm, tcg (works everywhere, slower), or auto"),
		verbose:  flags.BoolP("verbose", "v", false, "log what is done, with QEMU's command line"),
	}
	oneOf(flags, "firmware", hypervisor.Firmwares())
	oneOf(flags, "format", hypervisor.Formats())
	oneOf(flags, "accel", []hypervisor.Accel{hypervisor.Auto, hypervisor.KVM, hypervisor.TCG})
	return o
}

// guestOptions are what `run` and `test` have in common.
type guestOptions struct {
	machineOptions
	packages packageOptions
}

func guestFlags(flags *pflag.FlagSet) guestOptions {
	return guestOptions{machineFlags(flags), packageFlags(flags)}
}

// settings reads the options.
func (o machineOptions) settings(c *console) (guest.Settings, error) {
	s := guest.Settings{RebootEnds: true}
	var err error
	if s.Firmware, err = hypervisor.ParseFirmware(*o.firmware); err != nil {
		return s, usageError{"--" + err.Error()}
	}
	if *o.format != "" {
		if s.Format, err = hypervisor.ParseFormat(*o.format); err != nil {
			return s, usageError{"--" + err.Error()}
		}
	}
	if *o.memory != "" {
		if s.Memory, err = profiles.ParseSize(*o.memory); err != nil {
			return s, usageError{"--memory: " + err.Error()}
		}
	}
	if s.Accel, err = hypervisor.ParseAccel(*o.accel); err != nil {
		return s, usageError{"--accel: " + err.Error()}
	}
	s.Log = logger(c, *o.verbose)
	return s, nil
}

// logger logs what people should know of, or with verbose all that is done.
func logger(c *console, verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: level}))
}

// keepDir is where a master built for `run` lives: the guest's state lies beside it.
func keepDir(name string) (dir string, done func(), err error) {
	base := "/var/lib"
	if os.Geteuid() != 0 {
		if base = os.Getenv("XDG_STATE_HOME"); !filepath.IsAbs(base) {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", nil, fmt.Errorf("where to keep the guest is not known: %w; set HOME or XDG_STATE_HOME, "+
					"or run the folder of a master that `rempart build` made", err)
			}
			base = filepath.Join(home, ".local", "state")
		}
	}
	dir = filepath.Join(base, "rempart", "run", name)
	return dir, func() {}, os.MkdirAll(filepath.Dir(dir), 0o700)
}

// scratchDir is where a master built for `test` lives while the test runs.
func scratchDir(name string) (dir string, done func(), err error) {
	base, err := os.MkdirTemp("", "rempart-test-")
	return filepath.Join(base, name), func() { os.RemoveAll(base) }, err
}

// master opens the master in a folder, or builds a profile's into the folder that place names.
func (o guestOptions) master(ctx context.Context, c *console, arg string,
	place func(name string) (string, func(), error)) (*guest.Master, func(), error) {
	nothing := func() {}
	if guest.IsMaster(arg) {
		m, err := guest.OpenMaster(arg)
		return m, nothing, err
	}
	if info, err := os.Stat(arg); err == nil && info.IsDir() {
		return nil, nothing, fmt.Errorf("%s is a folder without a master in it; build one with `rempart build PROFILE -o %s`",
			arg, arg)
	}
	p, err := profiles.Load(arg)
	if err != nil {
		return nil, nothing, err
	}
	warn(c, p)
	dir, done, err := place(p.Name)
	if err != nil {
		return nil, nothing, err
	}
	start := time.Now()
	plan, err := planMaster(ctx, c, p, o.packages, 0)
	if err == nil {
		err = plan.Write(ctx, dir, image.Formats())
	}
	if err != nil {
		done()
		return nil, nothing, err
	}
	fmt.Fprintf(c.err, "rempart: built %s in %.1f s\n", p.Name, time.Since(start).Seconds())
	m, err := guest.OpenMaster(dir)
	if err != nil {
		done()
	}
	return m, done, err
}

// plug reads the --net options. The first link is on the user-mode network unless told otherwise.
func plug(p *profiles.Profile, nets []string) (map[string]hypervisor.Backend, error) {
	out := map[string]hypervisor.Backend{}
	nics := p.NICs()
	if len(nics) > 0 {
		out[nics[0].Name] = hypervisor.Backend{Kind: hypervisor.User}
	}
	known := map[string]profiles.Link{}
	var names []string
	for _, l := range nics {
		known[l.Name] = l
		names = append(names, l.Name)
	}
	for _, n := range nets {
		link, what, ok := strings.Cut(n, "=")
		if !ok {
			return nil, usageError{fmt.Sprintf("--net %s: want LINK=WHAT", n)}
		}
		if _, ok := known[link]; !ok {
			return nil, usageError{fmt.Sprintf("--net %s: %s has no NIC %q; it has %s", n, p.Name, link,
				strings.Join(names, ", "))}
		}
		b, err := hypervisor.ParseBackend(what)
		if err != nil {
			return nil, usageError{"--net: " + err.Error()}
		}
		out[link] = b
	}
	for name, b := range out {
		if b.Kind == hypervisor.User {
			b.Subnet, b.Gateway = userNetwork(known[name])
			out[name] = b
		}
	}
	return out, nil
}

// runGuest starts the guest and stays with it to the end.
func runGuest(ctx context.Context, c *console, m *guest.Master, s guest.Settings, timeout time.Duration,
	untilReady bool) error {
	tty, err := openTerminal(c)
	if err != nil {
		return err
	}
	defer tty.restore()
	// The guest outlives the signal that asks for its end by as long as it takes to switch off in order.
	g, err := guest.Start(context.WithoutCancel(ctx), m, s)
	if err != nil {
		return err
	}
	tty.say("%s boots by %s on %s (%s); Ctrl-] ends it", s.Name, s.Firmware, g.Accel, g.AccelReason)
	keys, stopKeys := context.WithCancel(ctx)
	defer stopKeys()
	escapes := tty.forward(keys, g.Console)
	ready := make(chan error, 1)
	go func() {
		wait, cancel := context.WithCancel(keys)
		if timeout > 0 {
			wait, cancel = context.WithTimeoutCause(keys, timeout, fmt.Errorf("%v have passed (--timeout)", timeout))
		}
		defer cancel()
		ready <- g.AwaitReady(wait)
	}()
	var failed error
	stop := func(patience time.Duration) {
		go g.Stop(context.WithoutCancel(ctx), patience)
	}
	interrupted := ctx.Done()
	for pressed := 0; ; {
		select {
		case <-g.Done():
			end := g.Wait()
			tty.restore()
			fmt.Fprintf(c.err, "rempart: %s has ended: %s\n", s.Name, end.Cause)
			if end.Cause == qemu.Reset {
				return failed // a guest that wants to start again is not a failure
			}
			return errors.Join(failed, end.Err())
		case err := <-ready:
			switch {
			case err == nil && untilReady:
				stop(stopTime)
			case err != nil && keys.Err() == nil && (timeout > 0 || untilReady) && !errors.Is(err, guest.ErrEnded):
				failed = err
				stop(stopTime)
			}
		case <-escapes:
			if pressed++; pressed == 1 {
				tty.say("pressing the power button; Ctrl-] again ends %s at once", s.Name)
				stop(stopTime)
			} else {
				stop(0)
			}
		case <-interrupted:
			interrupted = nil
			stop(stopTime)
		}
	}
}
