package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	cryptossh "golang.org/x/crypto/ssh"

	"rempart/builder/bounded"
	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/running"
	"rempart/builder/hypervisor/xen"
	"rempart/builder/image"
	"rempart/builder/kernel"
	"rempart/builder/master/store"
	"rempart/builder/ssh"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
	"rempart/firstboot/contract/live"
	"rempart/profiles"
)

// admin carries out commands in a guest.
type admin interface {
	Run(ctx context.Context, call ctl.Call, stdin io.Reader, stdout, stderr io.Writer) (int, error)
}

// apply shows what a profile changes in a guest and puts it in force.
func apply(ctx context.Context, c *console, g admin, next *profiles.Profile, name string, seconds int, dry bool) error {
	running, digest, err := profileOf(ctx, g, next)
	if err != nil {
		return err
	}
	if fixed := profiles.Fixed(running, next); len(fixed) > 0 {
		return fmt.Errorf("%s cannot take this over while it runs:\n  %s\nbuild a master with `rempart build`, "+
			"and start the guest from that", name, strings.Join(fixed, "\n  "))
	}
	d, err := compare(running, next)
	if err != nil {
		return err
	}
	b, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if contract.ProfileDigest(b) == digest {
		fmt.Fprintf(c.out, "%s runs this very profile\n", name)
		return nil
	}
	d.print(c.out)
	summary := d.summary()
	if d.empty() {
		summary = "nothing but places in the file" // which the guest's messages name
	}
	if dry {
		fmt.Fprintf(c.out, "%s; nothing was changed (--dry-run)\n", summary)
		return nil
	}
	change, err := json.Marshal(live.Change{Base: digest, Modules: kernel.Preload(next), Profile: b,
		Sets: setsBeyond(running, next)})
	if err != nil {
		return err
	}
	if len(change) > contract.MaxLive {
		return fmt.Errorf("the sets that change are too large for %s to take over while it runs: %d MiB, at most %d fit\n"+
			"build a master with `rempart build`, and start the guest from that", name, len(change)>>20, contract.MaxLive>>20)
	}
	after := strconv.Itoa(seconds)
	if err := say(ctx, g, bytes.NewReader(change), io.Discard, c.err, "apply", "--undo-after", after); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s; undone in %d s unless you confirm: rempart confirm %s\n", summary, seconds, name)
	return nil
}

// profileOf asks a guest for the profile it runs. What that stores beside its JSON is taken from a profile that is
// likely to have the same, and the guest is asked for the rest.
func profileOf(ctx context.Context, g admin, like *profiles.Profile) (*profiles.Profile, string, error) {
	p, digest, err := plainProfileOf(ctx, g)
	if err != nil {
		return nil, "", err
	}
	p.TakeStored(like)
	return p, digest, askStored(ctx, g, p)
}

// plainProfileOf asks a guest for the profile it runs, without what that stores beside its JSON.
func plainProfileOf(ctx context.Context, g admin) (*profiles.Profile, string, error) {
	out := &bounded.Buffer{Most: contract.MaxLive}
	if err := say(ctx, g, nil, out, io.Discard, "profile"); err != nil {
		return nil, "", err
	}
	p, err := profiles.Decode(out.Bytes())
	if err != nil {
		return nil, "", fmt.Errorf("the guest's profile: %w; is it of another rempart version?", err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		return nil, "", err
	}
	return p, contract.ProfileDigest(b), nil
}

// say runs a command in a guest; an exit status other than 0 is an error with what the guest said.
func say(ctx context.Context, g admin, stdin io.Reader, stdout, stderr io.Writer, args ...string) error {
	const most = 64 << 10
	words := &bounded.Buffer{Most: most}
	status, err := g.Run(ctx, ctl.Call{Args: args}, stdin, stdout, words)
	text := strings.TrimSpace(printable(words.String()))
	switch {
	case err != nil:
		return err
	case status != ctl.Done && text == "":
		return fmt.Errorf("the guest's %s ended with status %d", args[0], status)
	case status != ctl.Done:
		return errors.New(text)
	case text != "":
		fmt.Fprintln(stderr, text)
	}
	return nil
}

// printable takes from what a guest says what could do something to a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// tell runs a command of a guest and prints what it answers.
func tell(ctx context.Context, c *console, g admin, args ...string) error {
	out := &bounded.Buffer{Most: 64 << 10}
	if err := say(ctx, g, nil, out, c.err, args...); err != nil {
		return err
	}
	_, err := io.WriteString(c.out, printable(out.String()))
	return err
}

// diffGuest shows what a guest does differently from the master it boots next.
func diffGuest(ctx context.Context, c *console, g admin, r *running.Guest) error {
	next, err := nextMaster(r)
	if err != nil {
		return err
	}
	if next == "" {
		return fmt.Errorf("which master %s boots is not known: its kernel comes from its disk, not from a master's folder",
			r.Name)
	}
	m, err := guest.OpenMaster(next)
	if err != nil {
		return err
	}
	running, digest, err := profileOf(ctx, g, m.Profile)
	if err != nil {
		return err
	}
	if m.Manifest.Master.Profile == digest {
		fmt.Fprintf(c.out, "%s runs what its master %s says\n", r.Name, next)
		return nil
	}
	d, err := compare(m.Profile, running)
	if err != nil {
		return err
	}
	d.print(c.out)
	fmt.Fprintf(c.out, "%s against its master %s: %s\n", r.Name, next, d.summary())
	return errDifferent
}

// confirmedProfile is the profile a guest runs, its digest, and an error when it is not there to stay.
func confirmedProfile(ctx context.Context, c *console, g admin, name string) (*profiles.Profile, string, error) {
	running, digest, err := plainProfileOf(ctx, g)
	if err != nil {
		return nil, "", err
	}
	state := &bounded.Buffer{Most: 1 << 20}
	if err := say(ctx, g, nil, state, c.err, "status", "--json"); err != nil {
		return nil, "", err
	}
	var report contract.Report
	if err := json.Unmarshal(state.Bytes(), &report); err != nil {
		return nil, "", fmt.Errorf("the guest's status: %w", err)
	}
	if report.Live.UndoAt != 0 {
		return nil, "", fmt.Errorf("the change in %s waits to be confirmed: rempart confirm %[1]s", name)
	}
	if report.Live.Profile != digest { // an unconfirmed one, say, that was undone since it was asked for
		return nil, "", fmt.Errorf("the profile of %s changed meanwhile; look at it, and try again: rempart diff %[1]s", name)
	}
	return running, digest, nil
}

// commit rebuilds the master a guest boots next from the profile it runs. It speaks to the guest before and after, not
// while it builds: the hypervisor's channel has one caller at a time, and a build may take minutes.
func commit(ctx context.Context, c *console, r *running.Guest, packages packageOptions,
	with func(do func(g admin) error) error) error {
	var profile *profiles.Profile
	var digest string
	ask := func(g admin) (err error) {
		profile, digest, err = confirmedProfile(ctx, c, g, r.Name)
		return err
	}
	if err := with(ask); err != nil {
		return err
	}
	next, err := nextMaster(r)
	if err != nil {
		return err
	}
	m, err := guest.OpenMaster(next)
	if err != nil {
		return err
	}
	if m.Manifest.Master.Profile == digest {
		fmt.Fprintf(c.out, "%s runs what its master %s says already\n", r.Name, next)
		return nil
	}
	created, err := openCreated(r.Name)
	if err != nil && !errors.Is(err, home.ErrUnknown) {
		return err
	}
	if created != nil && created.Root {
		return fmt.Errorf("the system disk of %s is a volume, which a change of master derives anew: build and publish one "+
			"of the changed profile (rempart build PROFILE --publish), then rempart upgrade %[1]s --to REF", r.Name)
	}
	if created == nil && store.Kept(r.Master) {
		return fmt.Errorf("%s is in a store, where a master never changes; build and publish one of the changed profile"+
			" instead (rempart build PROFILE --publish), and start %s from that", r.Master, r.Name)
	}
	profile.TakeStored(m.Profile)
	if err := with(func(g admin) error { return askStored(ctx, g, profile) }); err != nil {
		return err
	}
	*packages.arch = m.Manifest.Master.Arch
	plan, err := planMaster(ctx, c, profile, packages, 0)
	if err != nil {
		return err
	}
	planned := digest
	switch err := with(ask); {
	case err != nil:
		return fmt.Errorf("asking again before the master is replaced: %w", err)
	case digest != planned:
		return fmt.Errorf("the profile of %s changed while its master was built, which is left as it is; "+
			"look at it, and try again: rempart diff %[1]s", r.Name)
	}
	if created != nil {
		return commitCreated(ctx, c, r.Name, plan, m.Formats())
	}
	if err := plan.Write(ctx, r.Master, m.Formats()); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s: the next start of %s is what runs now, root %s\n", r.Master, r.Name,
		plan.Manifest.Verity.RootHash[:16])
	return nil
}

// commitCreated publishes a master, and has a created guest boot it next.
func commitCreated(ctx context.Context, c *console, name string, plan *image.Plan, formats []string) error {
	g, err := lockCreated(name, "rempart commit")
	if err != nil {
		return err
	}
	defer g.Unlock()
	if err := notPending(g); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "rempart-commit-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	folder := filepath.Join(work, "master")
	if err := plan.Write(ctx, folder, formats); err != nil {
		return err
	}
	masters, err := store.Open(g.Store)
	if err != nil {
		return err
	}
	kept, err := masters.Publish(ctx, folder)
	if err != nil {
		return err
	}
	if g.Master != kept.Digest {
		g.Previous, g.Master = g.Master, kept.Digest
	}
	if err := masters.With(kept.Digest, func(*store.Master) error { return g.Save() }); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "the next start of %s is what runs now: master %.12s, root %s\n", name, kept.Digest,
		plan.Manifest.Verity.RootHash[:16])
	return nil
}

// confirm keeps a change, by a connection made for that: it shows that the changed policy lets its author in. Where no
// admin is let in anyway the hypervisor's channel is the way in, and does.
func confirm(ctx context.Context, c *console, name string, keys ssh.Keys) error {
	r, err := openGuest(name)
	if maybeOfXen(err) {
		r, err = &running.Guest{}, nil
	}
	if err != nil {
		return err
	}
	if r.SSH == "" {
		fmt.Fprintf(c.err, "rempart: %s has no way in by SSH from here: confirming by the hypervisor's channel\n", name)
		return withGuest(ctx, name, func(g admin, _ *running.Guest) error { return tell(ctx, c, g, "confirm") })
	}
	// Not by withGuest: the hypervisor's channel has one caller at a time, and the change does not wait for its turn.
	target, err := sshTarget(r)
	if err != nil {
		return err
	}
	client, err := ssh.Dial(ctx, target, keys.Signers)
	if err != nil {
		return fmt.Errorf("%w; the change is not confirmed. If you know better, rempart ctl %s confirm", err, name)
	}
	defer client.Close()
	return tell(ctx, c, overSSH{client}, "confirm")
}

// sshTarget is a running guest as SSH sees it from here.
func sshTarget(r *running.Guest) (ssh.Target, error) {
	key, _, _, _, err := cryptossh.ParseAuthorizedKey([]byte(r.HostKey))
	if err != nil {
		return ssh.Target{}, fmt.Errorf("host key of %s: %w", r.Name, err)
	}
	return ssh.Target{Name: r.Name, Address: r.SSH, HostKey: key}, nil
}

// overSSH has commands carried out by SSH.
type overSSH struct{ client *cryptossh.Client }

// Run implements admin.
func (o overSSH) Run(ctx context.Context, call ctl.Call, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	return ssh.Run(ctx, o.client, call.Args, ssh.Streams{In: stdin, Out: stdout, Err: stderr}, nil)
}

// withGuest does something with a running guest, by the hypervisor's channel. On the dom0 of a Xen host it may be one
// that xl lists.
func withGuest(ctx context.Context, name string, do func(admin, *running.Guest) error) error {
	if err := ownSystem(name, "it takes no commands of rempart"); err != nil {
		return err
	}
	g, err := openGuest(name)
	if maybeOfXen(err) {
		tools := xen.Toolstack{}
		return withXenGuest(ctx, tools, name, func(a admin) error {
			master, err := tools.MasterOf(ctx, name)
			if err != nil {
				return err
			}
			return do(a, &running.Guest{Info: running.Info{Name: name, Master: master}})
		})
	}
	if err != nil {
		return err
	}
	if g.Xen {
		return withXenGuest(ctx, xen.Toolstack{}, name, func(a admin) error { return do(a, g) })
	}
	client, err := dialGuest(ctx, g.Commands())
	if err != nil {
		return fmt.Errorf("guest %s: %w", name, err)
	}
	defer client.Close()
	return do(client, g)
}
