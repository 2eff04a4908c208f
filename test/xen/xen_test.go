// Package xen holds the tests on a real Xen: one host in software, in which guests made from one master run one after
// the other, each another way. `make test-xen` runs the core of it, with ALL=1 everything.
package xen

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/xen"
	"rempart/builder/master"
	"rempart/test/rig"
	"rempart/test/xen/host"
)

// profile is what most guests here are made from: two links that are found by their numbers, in 128 MiB. What packets
// are sent through is made from jumbo.
const (
	profile = "testdata/home.yaml"
	jumbo   = "testdata/jumbo.yaml"
)

// patience bounds waiting for a guest. On two idle cores a guest needs 20 to 60 s; ten times that is a failure.
const patience = 10 * time.Minute

// ends is how long a guest may take to end in order.
const ends = 3 * time.Minute

// Places in dom0.
const (
	files   = "/run/files"        // of the master: kernel and initrd
	bridges = "brlan brdmz brprb" // those of the firewall's links, and one more
	disk    = "/dev/vdb"          // the master's system disk, which dom0 itself cannot write
	root    = "/dev/vdd"          // the content of its root partition
	jumbos  = "/dev/vde"          // the system disk of the firewall that packets are sent through
	itself  = "/dev/vdf"          // an archive with rempart itself, for tests that have it run in dom0
	states  = 10                  // blank state disks, from /dev/vdg on
	shelf   = "/dev/vdq"          // a filesystem for what rempart keeps in dom0, with masters to be brought in
	volumes = "/dev/vdr"          // for volumes of LVM; both only from `make test-xen` on
	probe   = "probe"             // the initramfs of probes, below files
	call    = "call"              // what speaks to a guest as rempart ctl does, below files
)

func TestMain(m *testing.M) {
	status := m.Run()
	if world.host != nil {
		if err := world.host.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	if world.dir != "" {
		os.RemoveAll(world.dir)
	}
	rig.Clean()
	os.Exit(status)
}

// How much more than in `make test` is tested: $XEN.
const (
	more       = iota + 1 // make test-xen; without either: make test
	everything            // make test-xen ALL=1
)

// askedFor is how much of it all.
func askedFor() int { return map[string]int{"more": more, "all": everything}[os.Getenv("XEN")] }

// demand skips what is beyond what was asked for.
func demand(t *testing.T, level int) {
	t.Helper()
	if askedFor() < level {
		t.Skip("SKIPPED, NOT PASSED: it takes long; run", map[int]string{more: "make test-xen",
			everything: "make test-xen ALL=1"}[level])
	}
}

// world is the one host of all tests here.
var world struct {
	sync.Mutex
	dir    string
	host   *host.Host
	master *rig.Master
	jumbo  *rig.Master
	failed bool
	used   int // state disks
}

// theHost boots the host at the first call.
func theHost(t *testing.T) (*host.Host, *rig.Master) {
	t.Helper()
	world.Lock()
	defer world.Unlock()
	if world.failed {
		t.Fatal("the Xen host could not be started; see the first failure")
	}
	if world.host != nil {
		return world.host, world.master
	}
	world.failed = true
	world.master, world.jumbo = rig.Build(t, profile), rig.Build(t, jumbo)
	disks, err := makeDisks(t.Context(), rig.Rempart(t), world.master, world.jumbo)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	// Not the test's context: the host outlives it.
	h, err := host.Start(context.Background(), disks)
	if err != nil {
		t.Fatal(err)
	}
	world.host, world.failed = h, false
	t.Logf("the host took its first order after %.0f s", time.Since(began).Seconds())
	run(t, "mkdir", files)
	run(t, "tar", "-x", "-f", "/dev/vdc", "-C", files)
	// The MTU once they are there: one that a bridge is made with it loses to its ports (br_mtu_auto_adjust of br_if.c).
	run(t, "sh", "-c", "for b in "+bridges+"; do ip link add $b type bridge && ip link set $b mtu 9000 up || exit 1; done")
	return world.host, world.master
}

// makeDisks makes what dom0 has as disks: the master, its kernel and initrd, its root, and blank ones for state.
func makeDisks(ctx context.Context, program string, m, jumbo *rig.Master) ([]host.Disk, error) {
	initrd, err := host.Probe(ctx, m)
	if err != nil {
		return nil, err
	}
	caller, err := host.Static(ctx, "rempart/test/xen/call")
	if err != nil {
		return nil, err
	}
	if world.dir, err = os.MkdirTemp("", "rempart-xen-disks-"); err != nil {
		return nil, err
	}
	made := map[string][]byte{probe: initrd, call: caller}
	var parts []part
	for _, name := range []string{master.KernelFile, master.InitrdFile, master.ManifestFile, probe, call} {
		parts = append(parts, part{name, made[name], filepath.Join(m.Dir, name)})
	}
	content := filepath.Join(world.dir, "files.tar")
	alone := filepath.Join(world.dir, "rempart.tar")
	err = errors.Join(writeArchive(content, parts...), writeArchive(alone, part{name: "rempart", file: program}))
	if err != nil {
		return nil, err
	}
	partition := filepath.Join(world.dir, "root.raw")
	if err := copyRoot(m, partition); err != nil {
		return nil, err
	}
	disks := []host.Disk{{Path: filepath.Join(m.Dir, master.RawFile), ReadOnly: true},
		{Path: content, ReadOnly: true}, {Path: partition, ReadOnly: true},
		{Path: filepath.Join(jumbo.Dir, master.RawFile), ReadOnly: true}, {Path: alone, ReadOnly: true}}
	for i := range states {
		state := stateFile(stateDisk(i))
		if err := rig.Blank(state, m.Profile.State.Size); err != nil {
			return nil, err
		}
		disks = append(disks, host.Disk{Path: state})
	}
	if askedFor() < more {
		return disks, nil
	}
	own, err := keptDisks(ctx, program)
	return append(disks, own...), err
}

// part is a file of an archive: its content, or the file with it.
type part struct {
	name    string
	content []byte
	file    string
}

// writeArchive writes files as a disk that dom0 unpacks.
func writeArchive(name string, parts ...part) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, p := range parts {
		if p.content == nil {
			if p.content, err = os.ReadFile(p.file); err != nil {
				return err
			}
		}
		if err := w.WriteHeader(&tar.Header{Name: p.name, Size: int64(len(p.content)), Mode: 0o755}); err != nil {
			return err
		}
		if _, err := w.Write(p.content); err != nil {
			return err
		}
	}
	return w.Close()
}

// copyRoot takes the root partition's content out of a master.
func copyRoot(m *rig.Master, name string) error {
	region, err := m.Manifest.RootRegion()
	if err != nil {
		return err
	}
	from, err := os.Open(filepath.Join(m.Dir, master.RawFile))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create(name)
	if err != nil {
		return err
	}
	defer to.Close()
	_, err = io.Copy(to, io.NewSectionReader(from, region.Offset, region.Length))
	return err
}

// newState is a blank disk for the state of one guest.
func newState(t *testing.T) string {
	t.Helper()
	world.Lock()
	defer world.Unlock()
	if world.used == states {
		t.Fatalf("more than the %d state disks there are", states)
	}
	world.used++
	return stateDisk(world.used - 1)
}

// stateDisk is what dom0 calls one of the disks for state.
func stateDisk(i int) string { return fmt.Sprintf("/dev/vd%c", 'g'+i) }

// stateFile is the same disk on the machine of the tests.
func stateFile(disk string) string { return filepath.Join(world.dir, filepath.Base(disk)+".raw") }

// run runs a program in dom0.
func run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := world.host.Run(ctx, nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// toolstack is dom0's.
func toolstack() xen.Toolstack {
	return xen.Toolstack{Run: func(ctx context.Context, args ...string) ([]byte, error) {
		return world.host.Run(ctx, nil, args...)
	}}
}

// newGuest is a guest from the master.
func newGuest(t *testing.T, name string, mode xen.Mode, loader xen.Loader, layout xen.Layout) xen.Guest {
	t.Helper()
	_, m := theHost(t)
	g := xen.Guest{Name: name, Mode: mode, Loader: loader, Layout: layout, Memory: m.Profile.Memory, System: disk,
		State: newState(t), OnCrash: xen.Destroy, OnReboot: xen.Destroy, OnWatchdog: xen.Restart}
	if layout == xen.Partitions {
		g.System = root
	}
	switch loader {
	case xen.Direct:
		g.Kernel = &hypervisor.Kernel{Image: files + "/" + master.KernelFile, Initrd: files + "/" + master.InitrdFile,
			Cmdline: m.Manifest.Cmdline}
	case xen.GRUB:
		g.GRUB = xen.DebianGRUB
	}
	for i, mac := range hypervisor.MACs(m.Profile.Name, m.Manifest.Links) {
		g.VIFs = append(g.VIFs, xen.VIF{NIC: hypervisor.NIC{Link: m.Manifest.Links[i], MAC: mac},
			Bridge: strings.Fields(bridges)[i]})
	}
	return g
}

// create starts a guest, which ends with the test.
func create(t *testing.T, g xen.Guest) {
	t.Helper()
	config, err := xen.Config(g)
	if err != nil {
		t.Fatal(err)
	}
	file := files + "/" + g.Name + ".cfg"
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := world.host.Put(ctx, file, 0o600, config); err != nil {
		t.Fatal(err)
	}
	if _, err := toolstack().Dry(ctx, file); err != nil {
		t.Errorf("xl does not accept what we write: %v\n%s", err, config)
	}
	t.Cleanup(func() { clean(t, g.Name) })
	// In a dom0 in software on a busy machine hotplug scripts may take longer than libxl's forty seconds
	// (LIBXL_HOTPLUG_TIMEOUT), of which the machine is to blame, not the guest.
	for tries := 1; ; tries++ {
		err := toolstack().Create(ctx, file)
		if err == nil {
			return
		}
		if tries == 3 || !strings.Contains(err.Error(), "because of timeout") {
			t.Fatal(err)
		}
		fmt.Fprintf(os.Stderr, "NOTE: guest %s is created again, hotplug scripts were too slow: %v\n", g.Name, err)
		_, _ = world.host.Run(ctx, nil, "xl", "destroy", g.Name) // what is left of it, if anything is
	}
}

// clean ends what a test left, and shows the console of a guest that disappointed, and what xl, QEMU and Xen say of it.
func clean(t *testing.T, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), ends)
	defer cancel()
	if t.Failed() {
		out, err := world.host.Run(ctx, nil, "tail", "-n", "20", console(name))
		t.Logf("the console of %s (%v):\n%s", name, err, out)
		out, err = world.host.Run(ctx, nil, "sh", "-c", `cd /var/log/xen; tail -n 20 xl-"$1".log qemu-dm-"$1".log 2>/dev/null
xl dmesg | tail -n 20`, "sh", name)
		t.Logf("what xl, QEMU and Xen said (%v):\n%s", err, out)
	}
	if _, err := toolstack().ID(ctx, name); err == nil {
		// Fails when xl is about to do the same because the guest has ended by itself.
		_ = toolstack().Destroy(ctx, name)
	}
	if err := awaitGone(ctx, name); err != nil {
		t.Error(err)
	}
}

// awaitGone waits until nothing is left of a guest.
func awaitGone(ctx context.Context, name string) error {
	for {
		if _, err := toolstack().ID(ctx, name); errors.Is(err, xen.ErrAbsent) {
			return nil
		} else if err != nil {
			return fmt.Errorf("guest %s does not go: %w", name, err)
		}
		// The first event comes at once, the second when a domain has ended. One that ends in between is noticed late.
		glance, done := context.WithTimeout(ctx, 10*time.Second)
		_, _ = world.host.Run(glance, nil, "xenstore-watch", "-n", "2", "@releaseDomain")
		done()
	}
}

// console is where xenconsoled keeps what a guest says.
func console(name string) string { return "/var/log/xen/console/guest-" + name + ".log" }
