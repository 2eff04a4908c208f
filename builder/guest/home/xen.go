package home

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rempart/builder/guest/storage"
	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/xen"
)

// Xen is what is said of a guest that Xen runs, through xl, and not QEMU.
type Xen struct {
	Mode   xen.Mode   `json:"mode"`
	Loader xen.Loader `json:"loader"`
	Weight int        `json:"weight,omitempty"` // share of the processors, 1 to 65535; 0: Xen's own, 256
	Script string     `json:"script,omitempty"` // hotplug script of its NICs; empty: xl's own
}

// bridgeWord is how what a link of such a guest is plugged into begins: a bridge of dom0.
const bridgeWord = "bridge:"

// ParseBridge reads what a link of a guest of Xen is plugged into.
func ParseBridge(what string) (bridge string, err error) {
	bridge, ok := strings.CutPrefix(what, bridgeWord)
	if !ok || bridge == "" {
		return "", fmt.Errorf("network %.40q: a link of a guest of Xen is plugged into a bridge of this host: want %sNAME",
			what, bridgeWord)
	}
	return bridge, nil
}

// check tells what is wrong with the parts of a description that are of a guest of Xen. What xl takes package xen
// knows: it is asked of a guest that has them.
func (x *Xen) check(d *Description) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	g := xen.Planned(d.Name, x.Mode, x.Loader, xen.Whole)
	g.VCPUs, g.Weight = d.VCPUs, x.Weight
	if d.State == 0 {
		g.State = ""
	}
	var links []string
	for link := range d.Nets {
		links = append(links, link)
	}
	slices.Sort(links)
	for i, mac := range hypervisor.MACs(d.Name, links) {
		bridge, err := ParseBridge(d.Nets[links[i]])
		if err != nil {
			bad("link %.32s: %w", links[i], err)
			continue
		}
		g.VIFs = append(g.VIFs, xen.VIF{NIC: hypervisor.NIC{Link: links[i], MAC: mac}, Bridge: bridge, Script: x.Script})
	}
	errs = append(errs, g.Validate())
	if d.Image != nil {
		bad("its master is another system's, and only what rempart built is described to Xen")
	}
	for _, disk := range d.Data {
		if disk.Format != hypervisor.Raw {
			bad("data disk %s has format %q, and xl attaches raw ones: rempart convert %s %s.raw", disk.Name, disk.Format,
				disk.Path, disk.Name)
		}
	}
	if d.DiskFormat != hypervisor.Raw {
		bad("system disk of format %q: xl attaches raw ones", d.DiskFormat)
	}
	return errors.Join(errs...)
}

// xenTime bounds asking xl which guests run: it answers at once, unless another xl or xenstored stands in its way.
const xenTime = 2 * time.Minute

// elsewhereOnXen is ErrElsewhere while Xen runs a guest that may write to this one's state disk, such as one of QEMU
// that was exported to xl, or a guest of this one's name where it is of Xen, and nobody that rempart started watches
// over it. What cannot be found out on a host of Xen is an error: whatever looks at the disks of a guest or replaces
// them would do so under a machine that runs.
func (g *Guest) elsewhereOnXen() error {
	if g.Xen == nil && g.State == 0 {
		return nil // it has nothing that another could change
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), xenTime,
		fmt.Errorf("xl did not answer within %v", xenTime))
	defer cancel()
	domains, err := xen.Toolstack{}.List(ctx)
	if err != nil && !xen.Host("/") {
		return nil // no Xen, no guest of it
	}
	if err != nil {
		return fmt.Errorf("guest %s: whether Xen runs it is not known: %w", g.Name, err)
	}
	for _, d := range domains {
		writes := g.State > 0 && slices.ContainsFunc(d.Disks, func(disk xen.Disk) bool {
			return disk.ReadWrite && same(disk.Target, g.StateDisk())
		})
		if g.Xen != nil && d.Name == g.Name || writes {
			return fmt.Errorf("%w: %s: Xen runs it as %s, number %d, which `rempart start` does not watch over; have it end: "+
				"xl shutdown --wait %[4]d, and then, if it is listed still, xl destroy %[4]d", ErrElsewhere, g.Name, d.Name, d.ID)
		}
	}
	return nil
}

// same tells whether the target of a disk of xl is what is at a path: a volume has several names.
func same(target, path string) bool {
	if target == path {
		return true
	}
	if target == "" {
		return false // an empty drive
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join("/dev", target) // as phy:GROUP/NAME (xl-disk-configuration(5))
	}
	a, errA := os.Stat(target)
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && sameDisk(a, b)
}

// releaseInterval is how long AwaitRelease leaves between two looks.
const releaseInterval = time.Second

// AwaitRelease waits until nobody has the guest's own volumes open any more: the end of a guest of Xen is told before
// dom0 has let go of its disks, and what is written to one meanwhile would be written after it was looked at.
func (g *Guest) AwaitRelease(ctx context.Context) error {
	on, ok := g.Disks().(storage.Volumes)
	if !ok {
		return nil
	}
	for {
		open, err := on.Open(ctx)
		if err != nil || len(open) == 0 {
			return err
		}
		select {
		case <-time.After(releaseInterval):
		case <-ctx.Done():
			return fmt.Errorf("guest %s has ended, and its disks are still open: %s: %w", g.Name, strings.Join(open, ", "),
				context.Cause(ctx))
		}
	}
}
