package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/disk/imagefile"
	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/storage"
	"rempart/builder/hypervisor"
	"rempart/builder/image/foreign"
	"rempart/builder/master/store"
)

// imageOptions say how an image is opened that becomes a master.
type imageOptions struct {
	format  *string
	backing *bool
	arch    *string
}

func imageFlags(flags *pflag.FlagSet) imageOptions {
	return imageOptions{
		format:  flags.String("image-format", "", "of the image: raw, qcow2, vmdk or ova; default: what its name ends in"),
		backing: flags.Bool("backing", false, "allow a qcow2 image to name files that it lies on; they are taken in with it"),
		arch:    flags.String("image-arch", "amd64", "Debian architecture that the image is for"),
	}
}

// take makes a master of an image, tagged with the name of its file.
func (o imageOptions) take(ctx context.Context, c *console, masters *store.Store, path string,
	ways []hypervisor.Firmware) (*store.Master, error) {
	open := imagefile.Options{Backing: *o.backing}
	if *o.format != "" {
		f, err := imagefile.ParseFormat(*o.format)
		if err != nil {
			return nil, usageError{"--image-format: " + err.Error()}
		}
		open.Format = f
	}
	i, err := imagefile.Open(ctx, path, open)
	if err != nil {
		return nil, err
	}
	defer i.Close()
	sayWeak(c, path, i)
	content, err := i.Sparse(ctx)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", path, err)
	}
	name := imageName(path)
	fmt.Fprintf(c.err, "rempart: taking in %s, %d MiB\n", path, i.Size()>>20)
	m, err := masters.Make(ctx, func(folder string) error {
		return foreign.Write(ctx, folder, name, *o.arch, content, ways)
	})
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", path, err)
	}
	if err := tag(c, masters, m.Digest, name); err != nil {
		return nil, err
	}
	fmt.Fprintf(c.err, "rempart: it is master %s, %.12s, and boots by %s\n", name, m.Digest,
		strings.Join(m.Manifest.Image.Firmware, " or "))
	return m, nil
}

// imageName is what the master of an image is called: the name of its file as far as a tag takes it.
func imageName(path string) string {
	name := strings.ToLower(strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	name = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c) {
			return c
		}
		return '-'
	}, name)
	const most = 64
	if name = strings.TrimLeft(name[:min(len(name), most)], "._-"); store.CheckTag(name) != nil {
		return "image"
	}
	return name
}

// foreignOptions say what a guest of another system is like, which has no profile to say it.
type foreignOptions struct {
	imageOptions
	image           *string
	links           *[]string
	after           *time.Duration
	lines, tcp      *string
	firmwareChanged func() bool
}

func foreignFlags(flags *pflag.FlagSet) foreignOptions {
	return foreignOptions{
		imageOptions:    imageFlags(flags),
		image:           flags.String("image", "", "make it of the disk of another system: a raw, qcow2, VMDK or OVA file"),
		links:           flags.StringArray("nic", nil, "--image: a NIC by a name of yours (repeat); default: net0"),
		after:           flags.Duration("healthy-after", 0, "--image: it is healthy once it has run for so long"),
		lines:           flags.String("healthy-line", "", "--image: ... once a line of its console matches this expression"),
		tcp:             flags.String("healthy-tcp", "", "--image: ... once somebody answers at its PORT, or ADDRESS:PORT"),
		firmwareChanged: func() bool { return flags.Changed("firmware") },
	}
}

// given tells which options of another system's guest were given: none of them is for a guest of a built master.
func (o foreignOptions) given() bool {
	return *o.image != "" || len(*o.links) > 0 || *o.after != 0 || *o.lines+*o.tcp != ""
}

// imageMemory is the RAM of a guest of another system unless something is said: what installers of common
// distributions want at the least.
const imageMemory = 1 << 30

// imageAfter is how long such a guest must run to be called healthy where nothing better is said.
const imageAfter = time.Minute

// describe completes the description of a guest whose master is the disk of another system.
func (o foreignOptions) describe(m *guest.Master, d *home.Description, nets []string) error {
	d.Image = &home.Image{Links: *o.links, Health: guest.Health{After: *o.after, Console: *o.lines, TCP: *o.tcp}}
	if len(d.Image.Links) == 0 {
		d.Image.Links = []string{"net0"}
	}
	if d.Image.Health == (guest.Health{}) {
		d.Image.Health.After = imageAfter
	}
	if d.Memory == 0 {
		d.Memory = imageMemory
	}
	if d.DiskFormat != "" {
		return usageError{"--format: the image is kept as qcow2; --image-format says what the file is"}
	}
	if !o.firmwareChanged() {
		if ways := m.Manifest.Image.Firmware; len(ways) > 0 {
			d.Firmware = hypervisor.Firmware(ways[0])
		}
	}
	if d.State > 0 && d.State < m.Manifest.Disk.Size {
		return usageError{fmt.Sprintf("--state-size %d: the image's disk has %d bytes, and its overlay no fewer", d.State,
			m.Manifest.Disk.Size)}
	}
	d.State = max(d.State, m.Manifest.Disk.Size)
	m.Plugged(d.Image.Links)
	backends, err := plug(m.Profile, nets)
	if err != nil {
		return err
	}
	if err := askable(d.Image, backends); err != nil {
		return usageError{"--healthy-tcp: " + err.Error()}
	}
	if err := d.Image.Health.Check(); err != nil {
		return usageError{err.Error()}
	}
	return nil
}

// asked is the link by which a guest is asked at a port of its own.
func asked(links []string, backends map[string]hypervisor.Backend) (string, error) {
	for _, l := range links {
		if backends[l].Kind == hypervisor.User {
			return l, nil
		}
	}
	return "", errors.New("a port of the guest is reached by a link on a user-mode network, and it has none; say " +
		"ADDRESS:PORT as this machine reaches it")
}

// askable tells why a guest cannot be asked whether it is healthy, with its links plugged in so.
func askable(i *home.Image, backends map[string]hypervisor.Backend) error {
	if _, own := i.Health.Port(); !own {
		return nil
	}
	_, err := asked(i.Links, backends)
	return err
}

// master takes in the image that --image names, and tells the digest of the master that it became.
func (o foreignOptions) master(ctx context.Context, c *console, masters *store.Store, s guest.Settings) (
	string, error) {
	var ways []hypervisor.Firmware
	if o.firmwareChanged() {
		ways = []hypervisor.Firmware{s.Firmware}
	}
	if _, err := os.Stat(*o.image); err != nil {
		return "", err
	}
	m, err := o.take(ctx, c, masters, *o.image, ways)
	if err != nil {
		return "", err
	}
	return m.Digest, nil
}

// foreignOnly refuses what only guests of built masters have.
func foreignOnly(g *home.Guest, what, why string) error {
	if g.Image == nil {
		return nil
	}
	return fmt.Errorf("guest %s is another system's, made of an image: %s: %s", g.Name, what, why)
}

// furnishForeign makes the overlay of a guest of another system, or takes over the one that is there, and what keeps
// its hardware addresses.
func furnishForeign(ctx context.Context, masters *store.Store, h home.Home, g *home.Guest, m *guest.Master) error {
	if _, err := os.Lstat(g.StateDisk()); err == nil {
		i, err := guest.OpenOverlay(ctx, g.StateDisk(), m)
		if err != nil {
			return fmt.Errorf("%w; --adopt takes over an overlay with the master it was made on, and no other", err)
		}
		g.State = i.Size()
		if err := i.Close(); err != nil {
			return err
		}
	} else if err := g.Disks().Make(ctx, storage.Disk{Kind: storage.State}, 0, func(path string) error {
		return guest.MakeOverlay(ctx, path, m, g.State)
	}); err != nil {
		return err
	}
	if _, err := guest.EnsureIdentity(g.Identity(), g.Name, m.Profile, nil); err != nil {
		return err
	}
	return settle(masters, h, g)
}

// userGuest is the address that QEMU's user-mode network gives its only guest by DHCP (its manual page, -netdev user,
// dhcpstart).
var userGuest = netip.MustParseAddr("10.0.2.15")

// leadToHealth has a port of this machine's own loopback lead to the port of the guest that it is asked at.
func leadToHealth(s *guest.Settings, links []string) error {
	port, own := s.Health.Port()
	if !own {
		return nil
	}
	link, err := asked(links, s.Backends)
	if err != nil {
		return err
	}
	local, err := freePort()
	if err != nil {
		return fmt.Errorf("a port to ask the guest by: %w", err)
	}
	b := s.Backends[link]
	b.Forward = hypervisor.Forward{From: local, To: netip.AddrPortFrom(userGuest, port)}
	s.Backends[link] = b
	s.Health.TCP = local.String()
	return nil
}

// ownSystem tells that a guest, if it was created, is another system's, which something is not for.
func ownSystem(name, why string) error {
	if g, err := openCreated(name); err == nil {
		return foreignOnly(g, "`rempart console "+name+"` is the way in", why)
	}
	return nil // whoever looks for it says what is wrong
}

// rebased has the overlay of a guest that came from elsewhere lie on its master in the store here. Whoever wrote it:
// one that could have QEMU open any other file is refused.
func rebased(ctx context.Context, g *home.Guest, kept *store.Master) error {
	m, err := guest.OpenMaster(kept.Dir)
	if err != nil {
		return err
	}
	if m.Foreign() != (g.Image != nil) {
		return fmt.Errorf("master %.12s is not of the guest's kind: one of the two is another system's", kept.Digest)
	}
	if g.Image == nil {
		return nil
	}
	if err := guest.MoveOverlay(g.StateDisk(), m); err != nil {
		return err
	}
	i, err := guest.OpenOverlay(ctx, g.StateDisk(), m)
	if err != nil {
		return err
	}
	return i.Close()
}
