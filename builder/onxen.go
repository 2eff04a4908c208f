package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/files"
	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/keeper"
	"rempart/builder/guest/running"
	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/xen"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/xenstore"
	"rempart/profiles"
)

// onXen are the options that make a created guest one of Xen.
type onXen struct {
	flags                *pflag.FlagSet
	mode, loader, script string
	weight               int
}

func onXenFlags(flags *pflag.FlagSet) *onXen {
	o := &onXen{flags: flags}
	choice(flags, &o.mode, "xen", xen.Modes(), "", "have Xen run it, through xl")
	choice(flags, &o.loader, "loader", xen.Loaders(), xen.Direct, "of a guest of Xen, where its kernel comes from")
	flags.IntVar(&o.weight, "weight", 0, "of a guest of Xen, its share of the processors, 1 to 65535; Xen's own is 256")
	flags.StringVar(&o.script, "vif-script", "",
		"of a guest of Xen, hotplug script of its NICs, such as the vif-rempart of `rempart host`")
	return o
}

// describe lays the options on the description of a guest.
func (o *onXen) describe(d *home.Description) error {
	alone, others := []string{"loader", "weight", "vif-script"}, []string{"firmware", "accel", "format"}
	if o.mode == "" {
		for _, name := range alone {
			if o.flags.Changed(name) {
				return usageError{fmt.Sprintf("--%s is for a guest of Xen: want --xen too", name)}
			}
		}
		return nil
	}
	for _, name := range others {
		if o.flags.Changed(name) {
			return usageError{fmt.Sprintf("--%s is for a guest of QEMU, and --xen has Xen run it: want one of the two",
				name)}
		}
	}
	d.Xen = &home.Xen{Mode: xen.Mode(o.mode), Loader: xen.Loader(o.loader), Weight: o.weight, Script: o.script}
	d.DiskFormat = hypervisor.Raw
	return nil
}

// pluggable tells what is wrong with what the links of a guest are plugged into. Of one of QEMU it returns the
// backends.
func pluggable(p *profiles.Profile, d *home.Description, nets []string) (map[string]hypervisor.Backend, error) {
	if d.Xen == nil {
		return plug(p, nets)
	}
	_, err := bridgesOf(p, d.Nets)
	return nil, err
}

// bridgesOf are the bridges that the links of a guest of Xen are plugged into, as `rempart export --bridge` takes them.
func bridgesOf(p *profiles.Profile, nets map[string]string) ([]string, error) {
	var all, names []string
	var errs []error
	known := map[string]bool{}
	for _, l := range p.NICs() {
		known[l.Name] = true
		names = append(names, l.Name)
		what, ok := nets[l.Name]
		if !ok {
			errs = append(errs, usageError{fmt.Sprintf("link %s is plugged into nothing, and Xen makes no network: want --net "+
				"%[1]s=bridge:NAME", l.Name)})
			continue
		}
		bridge, err := home.ParseBridge(what)
		if err != nil {
			errs = append(errs, usageError{fmt.Sprintf("--net %s: %v", l.Name, err)})
		}
		all = append(all, l.Name+"="+bridge)
	}
	for link := range nets {
		if !known[link] {
			errs = append(errs, usageError{fmt.Sprintf("--net %s: %s has no NIC of that name; it has %s", link, p.Name,
				strings.Join(names, ", "))})
		}
	}
	return all, errors.Join(errs...)
}

// xenConfigFile is what xl starts a guest from, in its folder.
const xenConfigFile = "xen.cfg"

// describeOnXen writes down what xl starts a guest from, once nothing is in the way of that here.
func describeOnXen(g *home.Guest, m *guest.Master) (file string, err error) {
	x := &xlOptions{layout: string(xen.Whole), grub: xen.DebianGRUB, check: true}
	nics, err := x.created(g, m)
	if err != nil {
		return "", err
	}
	text, err := x.config(m, nics)
	if err != nil {
		return "", err
	}
	file = filepath.Join(g.Dir, xenConfigFile)
	return file, files.Write(file, text, 0o600)
}

// launchXen has Xen run a guest, which an xl watches over that stays behind: it starts the guest again when that
// restarts or crashes, and has the guest's lock until it is gone for good.
func launchXen(ctx context.Context, g *home.Guest) (_ *running.Guest, err error) {
	m, _, err := masterOf(g)
	if err != nil {
		return nil, err
	}
	if err := g.Ensure(ctx); err != nil {
		return nil, err
	}
	place, err := running.Place()
	if err != nil {
		return nil, err
	}
	r, err := running.Register(place, g.Name)
	if err != nil {
		return nil, err
	}
	file, err := describeOnXen(g, m)
	info := running.Info{Xen: true}
	if err == nil {
		info.Master, err = filepath.Abs(m.Dir)
	}
	if err == nil {
		err = hostKey(&info, g.Identity())
	}
	if err == nil {
		err = r.Announce(info)
	}
	if err == nil {
		err = g.Runs(place) // before it does: whatever ends this process meanwhile, it is found
	}
	if err != nil {
		return nil, errors.Join(err, r.Forget())
	}
	tools := xen.Toolstack{Held: r.Machine()}
	if err := tools.Create(ctx, file); err != nil {
		err = fmt.Errorf("guest %s: %w; see %s", g.Name, err, xlLog(g.Name))
		return nil, errors.Join(err, halfMade(ctx, tools, g.Name, err), r.Forget(),
			g.End(home.Ended{Cause: "not started", Detail: err.Error(), At: time.Now().UTC()}))
	}
	return r, r.Leave()
}

// xlLog is where xl says what became of a guest (libxl_create_logfile of libxl_utils.c, by xl's name for it).
func xlLog(name string) string { return "/var/log/xen/xl-" + name + ".log" }

// halfMade ends what an xl left that was ended on its way, as its error tells. One that fails by itself leaves nothing:
// a guest of that name, which may be why it failed, is somebody else's.
func halfMade(ctx context.Context, tools xen.Toolstack, name string, err error) error {
	var exit *exec.ExitError
	if ctx.Err() == nil && (!errors.As(err, &exit) || exit.Exited()) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), xenTime)
	defer cancel()
	if _, err := tools.ID(ctx, name); err != nil {
		if errors.Is(err, xen.ErrAbsent) {
			return nil
		}
		return err
	}
	return tools.Destroy(ctx, name)
}

// xenEnd is how long a guest may be listed after its end in order, before it is ended otherwise; between two looks
// passes xenGlance.
const (
	xenEnd    = 20 * time.Second
	xenGlance = time.Second
)

// stopXen stops a guest of Xen, in order or when that takes longer than patience as a power cut does, and waits until
// nobody starts it again and dom0 has let go of its disks. A guest that restarts when it is told to end, as one in a
// stranger's hands may, is ended at once.
func stopXen(ctx context.Context, r *running.Guest, patience time.Duration) (how string, err error) {
	g, err := openCreated(r.Name)
	if err != nil {
		return "", err
	}
	tools := xen.Toolstack{}
	before, err := tools.ID(ctx, r.Name)
	if err != nil && !errors.Is(err, xen.ErrAbsent) {
		return "", err
	}
	if err == nil {
		err = tools.Shutdown(ctx, r.Name, patience)
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	how = "stopped"
	if err != nil && !errors.Is(err, xen.ErrAbsent) {
		how = "destroyed: " + err.Error()
	}
	wait, cancel := context.WithTimeoutCause(ctx, xenTime, fmt.Errorf("it is not over after %v", xenTime))
	defer cancel()
	var unasked error
	for began := time.Now(); ; {
		glance, done := context.WithTimeout(wait, xenGlance)
		err := r.AwaitEnd(glance)
		looked := glance.Err() == nil // or it was no time to look any more
		done()
		if err == nil {
			break
		}
		if looked {
			return "", fmt.Errorf("whether guest %s has ended is not known: %w", r.Name, err)
		}
		if wait.Err() != nil {
			return "", fmt.Errorf("guest %s does not end: %w; see %s", r.Name, errors.Join(context.Cause(wait), unasked),
				xlLog(r.Name))
		}
		now, err := tools.ID(wait, r.Name)
		if err != nil && !errors.Is(err, xen.ErrAbsent) {
			unasked = err // perhaps the next time
		}
		if err != nil || how == "stopped" && now == before && time.Since(began) < xenEnd {
			continue // it is going
		}
		if now != before {
			how = "destroyed: it started again when it was told to end"
		}
		_ = tools.Destroy(wait, r.Name) // fails where xl is about to do the same
	}
	if err := g.AwaitRelease(wait); err != nil {
		return "", err
	}
	return how, g.End(home.Ended{Cause: how, At: time.Now().UTC()})
}

// awaitXen waits until a guest of Xen says that it is ready, or is gone.
func awaitXen(ctx context.Context, r *running.Guest) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		switch err := r.AwaitEnd(ctx); {
		case err == nil:
			cancel(fmt.Errorf("it has ended; see %s", xlLog(r.Name)))
		case ctx.Err() == nil:
			cancel(fmt.Errorf("whether it has ended is not known: %w", err))
		}
	}()
	_, err := xen.Toolstack{}.Await(ctx, r.Name)
	return err
}

// xenTime bounds asking xl and xenstore about a guest, on a host that has other work too.
const xenTime = 2 * time.Minute

// xenStatus finds out how a guest of Xen is that runs.
func xenStatus(ctx context.Context, s *guestStatus) error {
	ctx, cancel := context.WithTimeout(ctx, xenTime)
	defer cancel()
	tools := xen.Toolstack{}
	s.Phase = phaseUnknown
	id, err := tools.ID(ctx, s.Name)
	if errors.Is(err, xen.ErrAbsent) {
		s.Phase, s.Why = keeper.Starting, "xl is about to start it, or to start it again; see "+xlLog(s.Name)
		return nil
	}
	if err != nil {
		return err
	}
	s.Domain = id
	status, err := tools.Status(ctx, id)
	switch {
	case errors.Is(err, xenstore.ErrAbsent):
		s.Phase = keeper.Starting
		return nil
	case err != nil:
		return err
	case status == contract.ReadyPrefix:
		s.Phase = keeper.Ready
		return nil
	}
	s.Phase, s.Why = keeper.Failed, "it says "+status
	if r, err := tools.Report(ctx, id); err == nil && len(r.Failures) > 0 {
		s.Why = printable(r.Failures[0])
	}
	return nil
}

// keepXen starts a guest of Xen and stays until it is gone for good, or ctx is done, which ends it in order.
func keepXen(ctx context.Context, g *home.Guest) error {
	r, err := launchXen(ctx, g)
	if err != nil {
		return err
	}
	g.Unlock()
	if err := r.AwaitEnd(ctx); err == nil {
		return g.End(home.Ended{Cause: "ended", Detail: "see " + xlLog(g.Name), At: time.Now().UTC()})
	} else if ctx.Err() == nil {
		return err
	}
	_, err = stopXen(context.WithoutCancel(ctx), r, stopTime)
	return err
}

// whoRuns says what has a guest run.
func whoRuns(r *running.Guest) string {
	if r.Xen {
		return "Xen runs it"
	}
	return fmt.Sprintf("kept by process %d", r.PID)
}
