package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"rempart/builder/guest"
	"rempart/builder/guest/carry"
	"rempart/builder/guest/home"
	"rempart/builder/guest/storage"
	"rempart/builder/hypervisor"
	"rempart/builder/master/store"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// createCommand is `rempart create`.
func createCommand() *command {
	return &command{
		name:     "create",
		synopsis: "NAME --master REF | NAME --image FILE",
		summary:  "make a guest from a master of the store",
		help: `
REF is a tag, or the first digits of a digest; see ` + "`rempart help master`" + `. The guest has a folder of its own in
$REMPART_GUESTS, else /var/lib/rempart/guests for root, else ~/.local/share/rempart/guests: in it its state disk and its
identity disk (name, hardware addresses, SSH host key, keys, secrets), made once. The system disk is the store's and
shared, attached read-only; while a guest uses a master, the store keeps it.

--net LINK=WHAT is that of ` + "`rempart run`" + `. --data NAME=FILE[,ro] attaches a disk image of yours, raw or qcow2,
which the guest mounts where its profile says (disks: {NAME: /srv/NAME}); it is never copied, moved or removed. A guest
of another system finds it by the serial data-NAME.

--volumes GROUP makes the state disk a volume of LVM, GROUP/NAME_var, and GROUP/POOL one of a thin pool, whose copies
take no time. Its size is rounded up to whole extents. With --root-volume there is GROUP/NAME_root as well, for Xen:
a read-only snapshot of a volume with the master, which reprovisioning derives anew.

--xen has Xen run it, on the dom0 of its host and as root: start, stop, reprovision and the others call xl. Each link is
plugged into a bridge of the host, --net LINK=bridge:NAME. Without --root-volume it has the system.raw of the store.

--image FILE makes it of another system's disk: an image in any format that ` + "`rempart convert`" + ` reads. Its
bytes are taken into the store as a master, which stays as it is; the guest runs on an overlay of its own, as large as
--state-size says, and ` + "`rempart reprovision`" + ` gives it a new one. It has NICs and disks of virtio and a serial
console, and boots by what is found on it, or by --firmware; what it has UEFI firmware remember goes with the overlay,
into backups and, since whoever broke in could write it, into quarantine: a new overlay begins without.
It says no READY: it is healthy when all holds that the --healthy options say, by default once it has run for a minute.
--master takes a master that was such an image, too.

--secret CONSUMER/NAME=FILE puts the content of a file onto the identity disk, --secret-from CONSUMER/NAME=COMMAND what
a command prints (run by /bin/sh). It is in no argument, log or master.`,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			o := machineFlags(flags)
			own := identityFlags(flags)
			other, onXen := foreignFlags(flags), onXenFlags(flags)
			ref := flags.String("master", "", "the master it is made from: a tag or digest")
			dir := flags.String("store", "", "folder of the store; default: the user's own, or /var/lib/rempart/masters")
			size := flags.String("state-size", "", "size of the state disk, such as 4G; default: the profile's")
			nets := flags.StringArray("net", nil, "plug a link in: LINK=WHAT")
			data := flags.StringArray("data", nil, "attach a disk image: NAME=FILE[,ro]; may be given again")
			keep := flags.StringArray("keep", nil,
				"carry the files of this place over when it is reprovisioned: "+strings.Join(kept(carry.Places()), ", "))
			volumes := volumesFlag(flags)
			root := flags.Bool("root-volume", false, "have its system disk in LVM too, as a read-only snapshot of the master")
			adopt := flags.Bool("adopt", false, "take over the disks that a removed guest of this name left")
			return func(ctx context.Context, c *console, args []string) error {
				if len(args) != 1 || (*ref == "") == (*other.image == "") {
					return usageError{"want a name and --master REF, or a name and --image FILE"}
				}
				if *own.disk != "" {
					return usageError{"--identity: the guest's folder has its identity disk"}
				}
				s, err := o.settings(c)
				if err != nil {
					return err
				}
				d := home.Description{Name: args[0], Firmware: s.Firmware, DiskFormat: s.Format, Memory: s.Memory,
					Accel: s.Accel, Nets: map[string]string{}}
				d.Volumes, d.Root = *volumes, *root
				if d.Root && d.Volumes == "" {
					return usageError{"--root-volume wants --volumes"}
				}
				if err := onXen.describe(&d); err != nil {
					return err
				}
				if d.State, err = parseSize("--state-size", *size); err != nil {
					return err
				}
				if d.Data, err = dataDisks(*data); err != nil {
					return err
				}
				for _, k := range *keep {
					d.Keep = append(d.Keep, strings.TrimPrefix(k, stateDir))
				}
				if err := carry.Check(d.Keep); err != nil {
					return usageError{"--keep: " + err.Error()}
				}
				masters, err := openStore(*dir)
				if err != nil {
					return err
				}
				if *other.image != "" {
					if *ref, err = other.master(ctx, c, masters, s); err != nil {
						return err
					}
				}
				return create(ctx, c, masters, *ref, d, s, own, other, *nets, *adopt)
			}
		},
	}
}

func volumesFlag(flags *pflag.FlagSet) *string {
	return flags.String("volumes", "", "have its state disk in LVM: VOLUMEGROUP, or VOLUMEGROUP/THINPOOL")
}

// stateDir is where a guest has its state disk, with the slash that is before what lies there.
const stateDir = contract.StateDir + "/"

// kept are places of the state disk as people name them.
func kept(places []string) []string {
	all := make([]string, len(places))
	for i, p := range places {
		all[i] = stateDir + p
	}
	return all
}

// parseSize reads an option that is a size in bytes; none is 0.
func parseSize(option, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := profiles.ParseSize(text)
	if err != nil {
		return 0, usageError{option + ": " + err.Error()}
	}
	return n, nil
}

// create makes a guest: first what it is made of, its description last.
func create(ctx context.Context, c *console, masters *store.Store, ref string, d home.Description, s guest.Settings,
	own identityOptions, other foreignOptions, nets []string, adopt bool) error {
	kept, err := masters.Find(ref)
	if err != nil {
		return err
	}
	m, err := guest.OpenMaster(kept.Dir)
	if err != nil {
		return err
	}
	if _, err := m.System(d.DiskFormat); err != nil {
		return err
	}
	d.Master = kept.Digest
	if m.Foreign() {
		err = other.describe(m, &d, nets)
	} else {
		err = built(m, &d, other)
	}
	if err != nil {
		return err
	}
	if d.Store, err = filepath.Abs(masters.Dir()); err != nil {
		return err
	}
	for _, n := range nets {
		link, what, _ := strings.Cut(n, "=")
		d.Nets[link] = what
	}
	if _, err := pluggable(m.Profile, &d, nets); err != nil {
		return err
	}
	h, err := home.Default()
	if err != nil {
		return err
	}
	g, err := h.Create(ctx, d, adopt)
	if err != nil {
		return err
	}
	err = furnish(ctx, c, masters, h, g, m, s, own)
	if err != nil {
		return errors.Join(err, g.Abandon(ctx, adopt))
	}
	defer g.Unlock()
	fmt.Fprintf(c.out, "%s: made from %s, %.12s, in %s; start it with `rempart start %[1]s`\n", g.Name,
		printable(kept.Manifest.Master.Name), kept.Digest, g.Dir)
	return sayData(ctx, c, g, m.Profile)
}

// built completes the description of a guest whose master was built.
func built(m *guest.Master, d *home.Description, other foreignOptions) error {
	if other.given() {
		return usageError{"--nic and --healthy: what this master was built of says what NICs it has and when it is READY"}
	}
	if d.State == 0 {
		d.State = m.Manifest.State
	}
	if d.State < m.Manifest.State {
		return usageError{fmt.Sprintf("--state-size %d: the profile asks for %d bytes at least", d.State, m.Manifest.State)}
	}
	if m.Manifest.State == 0 && d.State > 0 {
		return usageError{"--state-size: the profile has no state disk"}
	}
	return nil
}

// furnish makes the disks of a guest, and then has it be one.
func furnish(ctx context.Context, c *console, masters *store.Store, h home.Home, g *home.Guest, m *guest.Master,
	s guest.Settings, own identityOptions) error {
	s.Name, s.Identity = g.Name, g.Identity()
	if m.Foreign() {
		return furnishForeign(ctx, masters, h, g, m)
	}
	if g.State > 0 {
		if err := makeState(ctx, c, g); err != nil {
			return err
		}
	}
	if g.Root {
		if err := deriveSystem(ctx, g, masters); err != nil {
			return err
		}
	}
	if _, err := own.ensure(ctx, c, s, m.Profile); err != nil {
		return err
	}
	return settle(masters, h, g)
}

// makeState makes the state disk of a guest unless there is one, which it takes over.
func makeState(ctx context.Context, c *console, g *home.Guest) error {
	state, on := storage.Disk{Kind: storage.State}, g.Disks()
	if err := roundState(ctx, c, g); err != nil {
		return err
	}
	if have, err := on.There(ctx, state); err != nil || have {
		return err
	}
	if err := on.Check(ctx, g.State, false); err != nil {
		return err
	}
	return on.Make(ctx, state, g.State, nil)
}

// deriveSystem makes the system disk of a guest from its master.
func deriveSystem(ctx context.Context, g *home.Guest, masters *store.Store) error {
	kept, err := masters.Find(g.Master)
	if err != nil {
		return err
	}
	from, err := guest.Volume(kept.Dir, kept.Digest, kept.Manifest)
	if err != nil {
		return err
	}
	system := storage.Disk{Kind: storage.System}
	if err := g.Disks().Remove(ctx, system); err != nil { // that of a removed guest is derived again
		return err
	}
	return g.Disks().Derive(ctx, from, system)
}

// roundState has the description of a guest say how large its state disk really is.
func roundState(ctx context.Context, c *console, g *home.Guest) error {
	size, err := g.Disks().Size(ctx, g.State)
	if err != nil {
		return fmt.Errorf("%w; --volumes wants a volume group that is there: vgs", err)
	}
	if size != g.State {
		fmt.Fprintf(c.err, "rempart: the state disk has %d bytes, %d in whole extents of %s\n", g.State, size, g.Volumes)
		g.State = size
	}
	return nil
}

// settle has a guest whose disks are there be one, whose master stays while it is.
func settle(masters *store.Store, h home.Home, g *home.Guest) error {
	if err := masters.AddHome(h.Dir); err != nil {
		return err
	}
	return masters.With(g.Master, func(*store.Master) error { return g.Save() })
}

// dataDisks reads the --data options, and looks at the files.
func dataDisks(given []string) ([]home.Data, error) {
	var all []home.Data
	for _, g := range given {
		name, path, ok := strings.Cut(g, "=")
		path, readOnly := strings.CutSuffix(path, ",ro")
		if !ok || path == "" {
			return nil, usageError{fmt.Sprintf("--data %s: want NAME=FILE or NAME=FILE,ro", g)}
		}
		if err := hypervisor.CheckDataName(name); err != nil {
			return nil, usageError{"--data: " + err.Error()}
		}
		path, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		d := home.Data{Name: name, Path: path, ReadOnly: readOnly}
		if d.Format, err = imageFormat(path); err != nil {
			return nil, fmt.Errorf("data disk %s: %w", name, err)
		}
		all = append(all, d)
	}
	return all, nil
}

// qcow2Magic begins a qcow2 image (docs/interop/qcow2.txt of QEMU).
const qcow2Magic = "QFI\xfb"

// imageFormat looks at what a disk image is, once: what a guest writes to a raw one must not make it another format
// later, which could name files of the host.
func imageFormat(path string) (hypervisor.Format, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() && info.Mode().Type()&os.ModeDevice == 0 {
		return "", fmt.Errorf("%s is a %v; want an image or a block device", path, info.Mode().Type())
	}
	begin := make([]byte, len(qcow2Magic))
	if _, err := f.ReadAt(begin, 0); err != nil {
		return "", fmt.Errorf("%s: %w; is it empty?", path, err)
	}
	if string(begin) == qcow2Magic {
		return hypervisor.QCOW2, nil
	}
	return hypervisor.Raw, nil
}
