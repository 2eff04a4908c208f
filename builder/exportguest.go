package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/libvirt"
	"rempart/builder/hypervisor/qemu"
)

// exportGuest describes a guest that was created to libvirt, or as QEMU's command line. The guest must not run: what is
// described writes to its state disk.
func exportGuest(ctx context.Context, name, to string, bridges []string) ([]byte, error) {
	g, err := lockIdle(name)
	if err != nil {
		return nil, err
	}
	defer g.Unlock()
	if g.Xen != nil {
		return nil, fmt.Errorf("guest %s is one of Xen, which is described by --to xl", g.Name)
	}
	m, err := describeCreated(ctx, g)
	if err != nil {
		return nil, err
	}
	if to == exportQEMU {
		return qemuLine(g, m)
	}
	plugged := map[string]string{}
	for _, b := range bridges {
		link, bridge, ok := strings.Cut(b, "=")
		if !ok {
			return nil, usageError{fmt.Sprintf("--bridge %s: want LINK=BRIDGE", b)}
		}
		plugged[link] = bridge
	}
	return libvirt.Domain(m, plugged)
}

// exportCreatedXl describes a guest that was created to Xen, with its own disks and addresses where the options name no
// others. The guest must not run here.
func exportCreatedXl(ctx context.Context, c *console, name string, x *xlOptions) ([]byte, error) {
	g, err := lockIdle(name)
	if errors.Is(err, home.ErrUnknown) {
		return nil, fmt.Errorf("%s is no folder of a master, and %w", name, err)
	}
	if err != nil {
		return nil, err
	}
	defer g.Unlock()
	m, _, err := masterOf(g)
	if err != nil {
		return nil, err
	}
	if m.Foreign() {
		return nil, fmt.Errorf("guest %s is another system's: only what rempart built is described to Xen", name)
	}
	if err := g.Ensure(ctx); err != nil {
		return nil, err
	}
	if err := sayData(ctx, c, g, m.Profile); err != nil {
		return nil, err
	}
	nics, err := x.created(g, m)
	if err != nil {
		return nil, err
	}
	return x.config(m, nics)
}

// created takes from a guest its disks, its NICs and, of one of Xen, how that is to run it, where the options do not
// say.
func (x *xlOptions) created(g *home.Guest, m *guest.Master) ([]hypervisor.NIC, error) {
	s := g.Settings()
	id, err := guest.EnsureIdentity(s.Identity, g.Name, m.Profile, nil)
	if err != nil {
		return nil, err
	}
	if _, err := profileOfGuest(s, id, m); err != nil {
		return nil, err
	}
	x.name, x.system, x.state = cmp.Or(x.name, g.Name), cmp.Or(x.system, s.System), cmp.Or(x.state, s.State)
	x.identity = cmp.Or(x.identity, s.Identity)
	x.of(g)
	x.data = dataOnXen(g, m.Profile)
	if g.Xen != nil {
		bridges, err := bridgesOf(m.Profile, g.Nets)
		if err != nil {
			return nil, err
		}
		x.bridges = append(bridges, x.bridges...) // of two for a link the last counts
		x.unless("mode", &x.mode, string(g.Xen.Mode))
		x.unless("loader", &x.loader, string(g.Xen.Loader))
		x.weight, x.script = cmp.Or(x.weight, g.Xen.Weight), cmp.Or(x.script, g.Xen.Script)
	}
	return guest.NICs(m.Profile, s)
}

// unless gives an option a value unless it was given one.
func (x *xlOptions) unless(option string, to *string, value string) {
	if x.flags == nil || !x.flags.Changed(option) {
		*to = value
	}
}

// of takes from a guest how large it is where the options do not say.
func (x *xlOptions) of(g *home.Guest) {
	x.vcpus = cmp.Or(x.vcpus, g.VCPUs)
	if g.Memory > 0 && x.memory == "" {
		x.memory = fmt.Sprintf("%dM", (g.Memory+1<<20-1)>>20)
	}
}

// lockIdle locks a guest that neither runs nor is being changed.
func lockIdle(name string) (*home.Guest, error) {
	g, err := lockCreated(name, "rempart export")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(notPending(g), notRunning(g)); err != nil {
		g.Unlock()
		return nil, err
	}
	return g, nil
}

// describeCreated is the machine of a guest. Where it takes what acceleration there is, the description says KVM.
func describeCreated(ctx context.Context, g *home.Guest) (hypervisor.Machine, error) {
	master, _, err := masterOf(g)
	if err != nil {
		return hypervisor.Machine{}, err
	}
	if err := g.Ensure(ctx); err != nil {
		return hypervisor.Machine{}, err
	}
	s := g.Settings()
	if s.Accel == hypervisor.Auto {
		s.Accel = hypervisor.KVM
	}
	id, err := guest.EnsureIdentity(s.Identity, g.Name, master.Profile, nil)
	if err != nil {
		return hypervisor.Machine{}, err
	}
	p, err := profileOfGuest(s, id, master)
	if err != nil {
		return hypervisor.Machine{}, err
	}
	if s.Backends, err = plug(p, g.NetOptions()); err != nil {
		return hypervisor.Machine{}, err
	}
	return guest.Describe(ctx, master, s, g.Dir)
}

// qemuLine is QEMU's command line as a shell takes it: the console on the terminal, the channels as sockets in the
// guest's folder.
func qemuLine(g *home.Guest, m hypervisor.Machine) ([]byte, error) {
	m.Control.Path, m.Commands.Path = filepath.Join(g.Dir, "control"), filepath.Join(g.Dir, "commands")
	m.Monitor.Path = filepath.Join(g.Dir, "monitor")
	args, err := qemu.Args(m)
	if err != nil {
		return nil, err
	}
	binary, err := qemu.Binary(m.Arch)
	if err != nil {
		return nil, err
	}
	line := quoted(binary)
	for _, a := range append(args, "-serial", "mon:stdio") {
		if strings.HasPrefix(a, "-") {
			line += " \\\n "
		}
		line += " " + quoted(a)
	}
	return []byte(line + "\n"), nil
}

// quoted is a word as a shell takes it.
func quoted(word string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,@%+"
	if word != "" && strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
