package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/guest"
	"rempart/builder/packettest"
	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// testCommand is `rempart test`.
func testCommand() *command {
	return &command{
		name:     "test",
		synopsis: "PROFILE|DIR",
		summary:  "boot a master and try every flow its policy allows or forbids, with real packets",
		help: `
The guest is booted in QEMU with every link plugged into a network inside this process, where the hosts of every zone,
the gateways and a piece of the internet have TCP/IP stacks of their own, also behind VLANs, bonds and bridges. They
try what the policy allows and forbids, over IPv4 and IPv6, and the table shows for each flow what was expected and
what was seen on the wire. A flow counts as blocked when its packets were delivered to the guest, none came out of it
by any link, and none was answered, while allowed flows passed over the same links before and after. From power-on
until the guest is READY everything forbidden is tried all the time, too. Nothing leaves this process; no root is
needed.

Exit status: 0 when everything is as the profile says, 3 when a flow is not, 1 when the guest did not become READY.`,
		words: profiles.Builtin,
		files: true,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			o := guestFlags(flags)
			asJSON := flags.Bool("json", false, "print the result as JSON")
			captures := flags.String("pcap", "", "folder for a capture of each link; default: kept only when a flow is wrong")
			timeout := flags.Duration("timeout", 3*time.Minute, "how long the guest may take to be READY")
			return func(ctx context.Context, c *console, args []string) error {
				if len(args) != 1 {
					return usageError{"want one profile or folder of a master"}
				}
				s, err := o.settings(c)
				if err != nil {
					return err
				}
				m, done, err := o.master(ctx, c, args[0], scratchDir)
				if err != nil {
					return err
				}
				defer done()
				t := packetTest{c: c, master: m, settings: s, timeout: *timeout, captures: *captures, json: *asJSON}
				return t.run(ctx)
			}
		},
	}
}

// packetTest is one `rempart test`.
type packetTest struct {
	c        *console
	master   *guest.Master
	settings guest.Settings
	timeout  time.Duration
	captures string
	json     bool
}

func (t packetTest) run(ctx context.Context) (err error) {
	s := t.settings
	keep := t.captures != ""
	if !keep {
		if t.captures, err = os.MkdirTemp("", "rempart-pcap-"); err != nil {
			return err
		}
	}
	defer func() {
		if err == nil && !keep {
			os.RemoveAll(t.captures)
		} else if !t.json {
			fmt.Fprintf(t.c.err, "rempart: captures and console: %s\n", t.captures)
		}
	}()
	if err := os.MkdirAll(t.captures, 0o777); err != nil {
		return err
	}
	transcript, err := os.Create(filepath.Join(t.captures, "console.log"))
	if err != nil {
		return err
	}
	defer transcript.Close()
	s.Console = transcript
	profile, err := t.instance(&s)
	if err != nil {
		return err
	}
	report, err := trial{master: t.master, settings: s, profile: profile, timeout: t.timeout, captures: t.captures,
		say: t.say}.run(ctx)
	if err != nil {
		return err
	}
	if err := t.print(t.c.out, report); err != nil {
		return err
	}
	if !report.OK() {
		return errDifferent
	}
	return nil
}

// instance is the profile as that of one guest: where it leaves addresses to each, some are made up, and an identity
// disk holds them, and the certificate of DNS over TLS.
func (t packetTest) instance(s *guest.Settings) (*profiles.Profile, error) {
	p := t.master.Profile
	if len(identity.Lacking(p)) == 0 && !p.DNS.ServesTLS() {
		return p, nil
	}
	if !s.Firmware.TakesIdentity() {
		return nil, usageError{fmt.Sprintf("%s leaves addresses or a certificate to each guest, and one booted by %s has no"+
			" place for the disk they are on; use another --firmware", p.Name, s.Firmware)}
	}
	s.Identity = filepath.Join(t.captures, "identity.raw")
	id, err := guest.EnsureIdentity(s.Identity, p.Name, p, nil)
	if err != nil {
		return nil, err
	}
	if err := guest.MakeUpAddresses(id, p); err != nil {
		return nil, err
	}
	if err := guest.WriteIdentity(s.Identity, id); err != nil {
		return nil, err
	}
	return guest.Applied(id, p)
}

func (t packetTest) say(format string, args ...any) {
	fmt.Fprintf(t.c.err, "rempart: "+format+"\n", args...)
}

func (t packetTest) print(w io.Writer, r packettest.Report) error {
	if !t.json {
		return r.Table(w, t.c.colour)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(r)
}
