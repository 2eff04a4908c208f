package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"rempart/builder/guest"
	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/xen"
	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// Forms that `rempart export` knows.
const (
	exportXl      = "xl"
	exportRoot    = "root"
	exportLibvirt = "libvirt"
	exportQEMU    = "qemu"
)

func exportForms() []string { return []string{exportXl, exportRoot, exportLibvirt, exportQEMU} }

// exportCommand is `rempart export`.
func exportCommand() *command {
	return &command{
		name:     "export",
		synopsis: "MASTER --to xl|root, or GUEST --to xl|libvirt|qemu",
		summary:  "describe a guest to another hypervisor",
		help: `
MASTER is the folder of a master with a system.raw. Nothing is started and nothing of this machine changes.

--to xl prints the configuration of a guest of Xen, for ` + "`xl create FILE`" + ` on the host that has the folder at
the same place. By default it is paravirtualised, its kernel comes from the folder, its system disk is system.raw, and
its state and identity disks lie beside the folder as those of ` + "`rempart run`" + ` do; with LVM:

    rempart export fw-1 --to xl --system /dev/vg/fw-1_root --state /dev/vg/fw-1_var --bridge lan0=brlan -o fw-1.cfg

Of a GUEST that ` + "`rempart create`" + ` made it takes the disks, volumes of LVM with --volumes and --root-volume,
and the addresses; it is reprovisioned with --no-start while Xen does not run it.

With --loader direct a guest of any --mode takes its kernel from the host; from its own disk pygrub boots pv, grub pvh,
and bios hvm. ` + "`rempart check --xen`" + ` says of a profile what Xen cannot do.

The system disk is attached read-only, each NIC has the hardware address that the guest finds its link by, and the
guest says READY in xenstore: xenstore-read /local/domain/$(xl domid fw-1)/data/rempart/status. --check says what this
machine lacks for it: volumes, bridges, files.

--to root writes the root alone with its hash tree, to lay into a volume for --layout partitions: xvda1 is the root,
xvda2 the state. There is no xvda3 for swap, and one that is attached is left alone: what a guest has in memory, keys
among it, is not to lie on a disk of the host in clear.

--to libvirt prints the XML of a guest that ` + "`rempart create`" + ` made, for ` + "`virsh define FILE`" + `; --bridge
plugs its links into bridges of this machine. --to qemu prints the command that runs it. The guest must not run here
meanwhile.`,
		files: true,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			to := flags.String("to", "", "what to write: "+strings.Join(exportForms(), " or "))
			oneOf(flags, "to", exportForms())
			output := flags.StringP("output", "o", "", "file to write; default: standard output")
			x := xlFlags(flags)
			return func(ctx context.Context, c *console, args []string) error {
				if len(args) != 1 {
					return usageError{"want the folder of one master"}
				}
				if !slices.Contains(exportForms(), *to) {
					return usageError{fmt.Sprintf("--to %q: want %s", *to, strings.Join(exportForms(), " or "))}
				}
				if *to == exportLibvirt || *to == exportQEMU {
					text, err := exportGuest(ctx, args[0], *to, x.bridges)
					if err != nil {
						return err
					}
					return exportText(c, *output, text)
				}
				if *to == exportXl && !guest.IsMaster(args[0]) && identity.IsHostname(args[0]) {
					text, err := exportCreatedXl(ctx, c, args[0], x)
					if err != nil {
						return err
					}
					return exportText(c, *output, text)
				}
				m, err := guest.OpenMaster(args[0])
				if err != nil {
					return err
				}
				if *to == exportRoot {
					if *output == "" {
						return usageError{"--to root wants --output FILE; it is no text"}
					}
					return writeFile(*output, m.CopyRoot)
				}
				nics, err := guest.Links(m.Profile.Name, m.Profile)
				if err != nil {
					return err
				}
				text, err := x.config(m, nics)
				if err != nil {
					return err
				}
				return exportText(c, *output, text)
			}
		},
	}
}

// config is the configuration of a guest of Xen, which this machine can run where that is asked.
func (x *xlOptions) config(m *guest.Master, nics []hypervisor.NIC) ([]byte, error) {
	g, err := x.guest(m, nics)
	if err != nil {
		return nil, err
	}
	text, err := xen.Config(g)
	if err == nil && x.check {
		if err := x.checkHost(m, g); err != nil {
			return nil, fmt.Errorf("this machine cannot run %s yet:\n%w", g.Name, err)
		}
	}
	return text, err
}

// exportText writes a description to a file, or prints it.
func exportText(c *console, output string, text []byte) error {
	if output == "" {
		_, err := c.out.Write(text)
		return err
	}
	return writeFile(output, func(f *os.File) error {
		_, err := f.Write(text)
		return err
	})
}

// xlOptions are those of a guest of Xen.
type xlOptions struct {
	flags                            *pflag.FlagSet // nil: none was given
	name, mode, loader, layout, grub string
	system, state, identity          string
	memory                           string
	script                           string
	vcpus, weight                    int
	bridges, vifs                    []string
	data                             []xen.DataDisk // of a guest that was created
	onReboot, onCrash, onWatchdog    string
	check                            bool
}

func xlFlags(flags *pflag.FlagSet) *xlOptions {
	x := &xlOptions{flags: flags}
	flags.StringVar(&x.name, "name", "", "name of the guest; default: the profile's")
	choice(flags, &x.mode, "mode", xen.Modes(), xen.PV, "how Xen virtualises it")
	choice(flags, &x.loader, "loader", xen.Loaders(), xen.Direct, "where its kernel comes from")
	choice(flags, &x.layout, "layout", xen.Layouts(), xen.Whole, "what its system volume holds")
	flags.StringVar(&x.grub, "grub", xen.DebianGRUB, "GRUB for --loader grub")
	flags.StringVar(&x.system, "system", "", "volume or raw file with the system disk; default: system.raw of the master")
	flags.StringVar(&x.state, "state", "", "volume or raw file for the state disk; default: beside the master")
	flags.StringVar(&x.identity, "identity", "", "volume or raw file with the identity disk; default: beside the master, "+
		"where there is one")
	flags.StringVar(&x.memory, "memory", "", "memory, such as 256M; default: the profile's")
	flags.IntVar(&x.vcpus, "vcpus", 0, "virtual processors; default: those of the GUEST, else 1")
	flags.IntVar(&x.weight, "weight", 0, "share of the processors against other guests, 1 to 65535; Xen's own is 256")
	flags.StringArrayVar(&x.bridges, "bridge", nil, "LINK=BRIDGE that a link is plugged into (repeat)")
	flags.StringArrayVar(&x.vifs, "vif", nil, "LINK=NAME of a link's interface in dom0 (repeat)")
	flags.StringVar(&x.script, "vif-script", "", "hotplug script of its NICs, such as the vif-rempart of `rempart host`")
	choice(flags, &x.onReboot, "on-reboot", xen.Actions(), xen.Restart, "what Xen does when it restarts")
	choice(flags, &x.onCrash, "on-crash", xen.Actions(), xen.Restart, "what Xen does when its kernel panics")
	choice(flags, &x.onWatchdog, "on-watchdog", xen.Actions(), xen.Restart,
		"what Xen does when its watchdog barks")
	flags.BoolVar(&x.check, "check", false, "say what this machine lacks to run it")
	return x
}

// choice declares an option that takes one of some words.
func choice[S ~string](flags *pflag.FlagSet, p *string, name string, all []S, value S, text string) {
	flags.StringVar(p, name, string(value), text+": "+strings.Join(words(all), ", "))
	oneOf(flags, name, all)
}

func words[S ~string](all []S) []string {
	text := make([]string, len(all))
	for i, s := range all {
		text[i] = string(s)
	}
	return text
}

// guest is the guest of Xen that the options make of a master.
func (x *xlOptions) guest(m *guest.Master, nics []hypervisor.NIC) (xen.Guest, error) {
	g := xen.Guest{Name: cmp.Or(x.name, m.Profile.Name), Mode: xen.Mode(x.mode), Loader: xen.Loader(x.loader),
		Layout: xen.Layout(x.layout), Memory: m.Manifest.Memory, VCPUs: x.vcpus, Weight: x.weight,
		Data:     x.data,
		OnReboot: xen.Action(x.onReboot), OnCrash: xen.Action(x.onCrash), OnWatchdog: xen.Action(x.onWatchdog)}
	if m.Foreign() {
		return g, fmt.Errorf("master %s is another system's disk: make a guest of it, and export that to libvirt or QEMU; "+
			"Xen runs it from a raw disk or volume of its own, which `rempart convert` makes", m.Profile.Name)
	}
	if x.memory != "" {
		var err error
		if g.Memory, err = profiles.ParseSize(x.memory); err != nil {
			return g, usageError{"--memory: " + err.Error()}
		}
	}
	if err := x.disks(m, &g); err != nil {
		return g, err
	}
	switch g.Loader {
	case xen.Direct:
		k, err := m.Kernel()
		if err != nil {
			return g, err
		}
		if g.Kernel, err = absolute(k); err != nil {
			return g, err
		}
	case xen.GRUB:
		g.GRUB = x.grub
	}
	for _, nic := range nics {
		g.VIFs = append(g.VIFs, xen.VIF{NIC: nic, Script: x.script})
	}
	return g, errors.Join(
		eachLink(g.VIFs, "--bridge", x.bridges, func(v *xen.VIF, bridge string) { v.Bridge = bridge }),
		eachLink(g.VIFs, "--vif", x.vifs, func(v *xen.VIF, name string) { v.Name = name }))
}

func absolute(k *hypervisor.Kernel) (*hypervisor.Kernel, error) {
	image, err := filepath.Abs(k.Image)
	if err != nil {
		return nil, err
	}
	initrd, err := filepath.Abs(k.Initrd)
	return &hypervisor.Kernel{Image: image, Initrd: initrd, Cmdline: k.Cmdline}, err
}

// disks are the volumes that were given, and where nothing was those of the master.
func (x *xlOptions) disks(m *guest.Master, g *xen.Guest) error {
	system := x.system
	if system == "" {
		if g.Layout == xen.Partitions {
			return usageError{"--layout partitions wants --system VOLUME, which `rempart export --to root` wrote"}
		}
		found, err := m.System(hypervisor.Raw)
		if err != nil {
			return err
		}
		system = found.Path
	}
	state := x.state
	if state == "" && m.Manifest.State > 0 {
		state = m.StatePath(g.Name)
	}
	id := x.identity
	if path := m.IdentityPath(g.Name); id == "" {
		if _, err := os.Stat(path); err == nil {
			id = path
		}
	}
	for _, d := range []struct {
		from string
		to   *string
	}{{system, &g.System}, {state, &g.State}, {id, &g.Identity}} {
		if d.from == "" {
			continue
		}
		var err error
		if *d.to, err = filepath.Abs(d.from); err != nil {
			return err
		}
	}
	return nil
}

// checkHost checks a guest against this machine.
func (x *xlOptions) checkHost(m *guest.Master, g xen.Guest) error {
	needs := xen.Needs{System: m.Manifest.Disk.Size, State: m.Manifest.State}
	if g.Layout == xen.Partitions {
		region, err := m.Manifest.RootRegion()
		if err != nil {
			return err
		}
		needs.System = region.Length
	}
	k, err := m.Kernel()
	if err != nil {
		return err
	}
	if needs.Kernel, err = filepath.Abs(k.Image); err != nil {
		return err
	}
	return g.Check("/", needs)
}

// eachLink obeys options of the form LINK=VALUE.
func eachLink(vifs []xen.VIF, option string, given []string, set func(v *xen.VIF, value string)) error {
	var errs []error
	for _, text := range given {
		name, value, ok := strings.Cut(text, "=")
		i := slices.IndexFunc(vifs, func(v xen.VIF) bool { return v.Link == name })
		switch {
		case !ok || value == "":
			errs = append(errs, usageError{fmt.Sprintf("%s %s: want LINK=NAME", option, text)})
		case i < 0:
			var links []string
			for _, v := range vifs {
				links = append(links, v.Link)
			}
			errs = append(errs, usageError{fmt.Sprintf("%s %s: there is no NIC %q; there are %s", option, text, name,
				strings.Join(links, ", "))})
		default:
			set(&vifs[i], value)
		}
	}
	return errors.Join(errs...)
}
