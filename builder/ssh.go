package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
	cryptossh "golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"rempart/builder/guest"
	"rempart/builder/guest/running"
	"rempart/builder/ssh"
	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// sshCommand is `rempart ssh`.
func sshCommand() *command {
	return &command{
		name:     "ssh",
		synopsis: "GUEST [COMMAND [WORD...]]",
		summary:  "run a command in a guest by SSH, or take its prompt",
		help: `
GUEST is the name of a guest that ` + "`rempart run`" + ` runs, or made from a profile earlier; or the folder of a
master that one was run from, with --name when the guest's is not the profile's. Its host key is that of its identity
disk, so there is nothing to believe at the first connection, and a guest put back on its master is the same host.

Without COMMAND the guest's own prompt answers; ` + "`help`" + ` in it lists what there is. Your keys are those of
--key, else of your SSH agent and ~/.ssh/id_*. The address is --address, else the first the guest has on a link that
its admins come by.

Exit status: that of the command; 1 when the guest could not be reached.`,
		words: guestNames,
		files: true,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			name := flags.String("name", "", "name of the guest that was run from a folder; default: the profile's")
			disk := flags.String("identity", "", "file of the guest's identity disk; default: where `rempart run` keeps it")
			address := flags.StringP("address", "a", "", "where the guest is: ADDRESS, NAME, or either with :PORT")
			keys := sshKeys(flags)
			flags.SetInterspersed(false) // what follows the guest's name is the guest's
			return func(ctx context.Context, c *console, args []string) error {
				if len(args) == 0 {
					return usageError{"want a guest"}
				}
				t, err := findGuest(args[0], *name, *disk, *address)
				if err != nil {
					return err
				}
				client, err := ssh.Dial(ctx, t, keys(c).Signers)
				if err != nil {
					return err
				}
				defer client.Close()
				return runInGuest(ctx, c, client, args[1:])
			}
		},
	}
}

// findGuest finds out where a guest is and which host key it has.
func findGuest(arg, name, disk, address string) (ssh.Target, error) {
	t := ssh.Target{Name: arg}
	if err := ownSystem(arg, "its SSH, where it has one, is its own: any client of SSH will do"); err != nil {
		return t, err
	}
	if g := runningGuest(arg); g != nil && disk == "" && g.HostKey != "" {
		if address == "" {
			address = g.SSH
		}
		t.Address = address
		var err error
		if t.HostKey, _, _, _, err = cryptossh.ParseAuthorizedKey([]byte(g.HostKey)); err != nil {
			return t, fmt.Errorf("guest %s: host key: %w", arg, err)
		}
		if address == "" {
			m, err := guest.OpenMaster(g.Master)
			if err != nil {
				return t, err
			}
			if t.Address, err = addressOf(&identity.Identity{}, m.Profile); err != nil {
				return t, fmt.Errorf("guest %s: %w; say where it is by --address, or use `rempart ctl`", arg, err)
			}
		}
		t.Address = withPort(t.Address)
		return t, nil
	}
	dir := arg
	if !guest.IsMaster(dir) {
		if !identity.IsHostname(arg) {
			return t, fmt.Errorf("there is no guest %q: want the name of one, or the folder of a master", arg)
		}
		if g, err := openCreated(arg); err == nil && disk == "" {
			if address == "" {
				return t, fmt.Errorf("%s does not run; start it with `rempart start %[1]s`, or say where else it runs by "+
					"--address", g.Name)
			}
			disk = g.Identity()
		}
		kept, _, err := keepDir(arg)
		if err != nil {
			return t, err
		}
		dir = kept
	}
	var profile *profiles.Profile
	if m, err := guest.OpenMaster(dir); err == nil {
		profile = m.Profile
		if name == "" {
			name = m.Profile.Name
		}
		t.Name = name
		if disk == "" {
			disk = m.IdentityPath(name)
		}
	} else if disk == "" {
		if errors.Is(err, fs.ErrNotExist) {
			return t, fmt.Errorf("there is no guest of that name here: %s; `rempart list` shows them; of one that runs "+
				"elsewhere name its identity disk by --identity", arg)
		}
		return t, fmt.Errorf("there is no guest %s: %w; name its identity disk by --identity", arg, err)
	}
	id, err := guest.ReadIdentity(disk)
	if errors.Is(err, fs.ErrNotExist) {
		return t, fmt.Errorf("guest %s was never run from here: %w", t.Name, err)
	}
	if err != nil {
		return t, err
	}
	line, err := guest.HostKeyLine(id)
	if err != nil {
		return t, fmt.Errorf("identity disk %s: %w", disk, err)
	}
	if t.HostKey, _, _, _, err = cryptossh.ParseAuthorizedKey([]byte(line)); err != nil {
		return t, fmt.Errorf("identity disk %s: %w", disk, err)
	}
	if address == "" {
		if address, err = addressOf(id, profile); err != nil {
			return t, fmt.Errorf("guest %s: %w; say where it is by --address", t.Name, err)
		}
	}
	t.Address = withPort(address)
	return t, nil
}

// runningGuest finds a guest that `rempart run` runs now; nil: none of that name.
func runningGuest(name string) *running.Guest {
	g, err := openGuest(name)
	if err != nil {
		return nil // it may run elsewhere
	}
	return g
}

// withPort adds the port of SSH to an address or name that has none.
func withPort(address string) string {
	if a, err := netip.ParseAddr(address); err == nil {
		return net.JoinHostPort(a.String(), ssh.Port)
	}
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), ssh.Port)
}

var errNoAddress = errors.New("neither its profile nor its identity disk says an address that admins reach")

// addressOf is the first address of a guest on a link that its admins come by.
func addressOf(id *identity.Identity, p *profiles.Profile) (string, error) {
	if p == nil || p.Admin.None {
		return "", errNoAddress
	}
	given := map[string][]netip.Prefix{}
	for _, l := range id.Links {
		given[l.Name] = l.Addresses
	}
	for _, l := range p.Links {
		for _, a := range append(l.Addresses[:len(l.Addresses):len(l.Addresses)], given[l.Name]...) {
			if adminsReach(p, l.Name, a) {
				return a.Addr().String(), nil
			}
		}
	}
	return "", errNoAddress
}

// adminsReach tells whether the admin path is open to any address of a prefix on one of a profile's links.
func adminsReach(p *profiles.Profile, link string, prefix netip.Prefix) bool {
	prefix = prefix.Masked()
	if slices.ContainsFunc(p.Admin.Prefixes, prefix.Overlaps) {
		return true
	}
	for _, z := range p.Zones {
		if !slices.Contains(p.Admin.Zones, z.Name) {
			continue
		}
		for _, m := range z.Members {
			switch {
			case m.Link != link:
			case m.Rest && !claimed(p, link, prefix),
				!m.Rest && (len(m.Prefixes) == 0 || slices.ContainsFunc(m.Prefixes, prefix.Overlaps)):
				return true
			}
		}
	}
	return false
}

// claimed tells whether a prefix on a link is wholly in that of a zone, so that no zone that is the rest has any of it.
func claimed(p *profiles.Profile, link string, prefix netip.Prefix) bool {
	for _, z := range p.Zones {
		for _, m := range z.Members {
			if m.Link == link && slices.ContainsFunc(m.Prefixes, func(part netip.Prefix) bool {
				return part.Bits() <= prefix.Bits() && part.Contains(prefix.Addr())
			}) {
				return true
			}
		}
	}
	return false
}

// sshKeys adds the option for keys, and returns a function for the keys of whoever calls: those named, else the agent's
// and the usual files.
func sshKeys(flags *pflag.FlagSet) func(*console) ssh.Keys {
	files := flags.StringArrayP("key", "k", nil, "file of a private key; may be given again")
	return func(c *console) ssh.Keys { return ownKeys(c, *files) }
}

func ownKeys(c *console, files []string) ssh.Keys {
	k := ssh.Keys{Files: files}
	if len(files) == 0 {
		k.Agent = os.Getenv("SSH_AUTH_SOCK")
		if home, err := os.UserHomeDir(); err == nil {
			k.Files = ssh.Defaults(home)
		}
	}
	if f, ok := c.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		k.Passphrase = func(file string) ([]byte, error) {
			fmt.Fprintf(c.err, "passphrase of %s: ", filepath.Base(file))
			defer fmt.Fprintln(c.err)
			return term.ReadPassword(int(f.Fd()))
		}
	}
	return k
}

// runInGuest runs a command, or takes the prompt with the person's terminal.
func runInGuest(ctx context.Context, c *console, client *cryptossh.Client, words []string) error {
	streams := ssh.Streams{In: c.in, Out: c.out, Err: c.err}
	var t *ssh.Terminal
	if len(words) > 0 {
		// A prompt needs a terminal's words; an answer does not, and the guest may be in the hands of a stranger.
		if isTerminal(os.Stdout) {
			streams.Out = &plain{w: c.out}
		}
		streams.Err = &plain{w: c.err}
	} else {
		tty, err := openTerminal(c)
		if err != nil {
			return err
		}
		defer tty.restore()
		if tty.raw != nil {
			sizes, stop := watchSize(tty.fd)
			defer stop()
			columns, rows, err := term.GetSize(tty.fd)
			if err != nil {
				columns, rows = 80, 24 // what a terminal is that does not say (VT100)
			}
			t = &ssh.Terminal{Kind: os.Getenv("TERM"), Columns: columns, Rows: rows, Changed: sizes}
		}
	}
	status, err := ssh.Run(ctx, client, words, streams, t)
	switch {
	case err != nil:
		return err
	case status != 0:
		return exitStatus(status)
	}
	return nil
}

// watchSize tells each change of a terminal's size, until stop.
func watchSize(fd int) (sizes <-chan [2]int, stop func()) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	out, done := make(chan [2]int), make(chan struct{})
	go func() {
		for {
			select {
			case <-changed:
			case <-done:
				return
			}
			columns, rows, err := term.GetSize(fd)
			if err != nil {
				continue
			}
			select {
			case out <- [2]int{columns, rows}:
			case <-done:
				return
			}
		}
	}()
	return out, func() { signal.Stop(changed); close(done) }
}
