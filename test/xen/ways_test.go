package xen

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/builder/hypervisor/xen"
	"rempart/builder/master"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/xenstore"
	"rempart/test/rig"
)

// way is a way to boot a master under Xen. Those that are not core run with ALL=1.
type way struct {
	mode   xen.Mode
	loader xen.Loader
	layout xen.Layout
	core   bool
	state  string // what the guest calls its state disk
}

func (w way) String() string { return fmt.Sprintf("%s-%s-%s", w.mode, w.loader, w.layout) }

// patience bounds waiting for READY. A HVM guest's kernel and initrd are 16 MiB that come through QEMU's firmware
// interface by port access, for its machine of Xen has no DMA there (hw/i386/pc.c, xen_load_linux), or 16 KiB at a time
// from the disk, all in a dom0 that is software itself: minutes, where the others are READY before its kernel runs.
func (w way) patience() time.Duration {
	if w.mode == xen.HVM {
		return 4 * patience
	}
	return patience
}

// ways are all there are: a mode, loader or layout that Validate accepts and that is not here fails TestAllWays.
func ways() []way {
	return []way{
		{xen.PV, xen.Direct, xen.Whole, true, "xvdb"},
		{xen.PVH, xen.Direct, xen.Partitions, true, "xvda2"},
		{xen.PV, xen.Pygrub, xen.Whole, true, "xvdb"},
		{xen.PVH, xen.GRUB, xen.Whole, false, "xvdb"},
		{xen.PV, xen.Direct, xen.Partitions, false, "xvda2"},
		{xen.PVH, xen.Direct, xen.Whole, false, "xvdb"},
		{xen.HVM, xen.Direct, xen.Whole, false, "xvdf"},
		{xen.HVM, xen.Direct, xen.Partitions, false, "xvdf"},
		{xen.HVM, xen.BIOS, xen.Whole, false, "xvdf"},
	}
}

// TestAllWays: nothing that can be configured goes untested.
func TestAllWays(t *testing.T) {
	for _, mode := range xen.Modes() {
		for _, loader := range xen.Loaders() {
			for _, layout := range xen.Layouts() {
				g := xen.Guest{Mode: mode, Loader: loader, Layout: layout}
				said := fmt.Sprint(g.Validate())
				refused := strings.Contains(said, "boots PV") || strings.Contains(said, "is for PVH") ||
					strings.Contains(said, "holds no kernel") || strings.Contains(said, "part of an emulated machine")
				tested := slices.ContainsFunc(ways(), func(w way) bool {
					return w.mode == mode && w.loader == loader && w.layout == layout
				})
				if refused == tested {
					t.Errorf("%s, %s, %s: refused: %v, tested: %v; want one of the two", mode, loader, layout, refused, tested)
				}
			}
		}
	}
}

// TestKernel: the kernel of a master says that it boots in the modes in which the other tests boot it.
func TestKernel(t *testing.T) {
	_, m := theHost(t)
	image, err := os.ReadFile(filepath.Join(m.Dir, master.KernelFile))
	if err != nil {
		t.Fatal(err)
	}
	want := xen.Modes()
	slices.Sort(want)
	if got, err := xen.ModesOf(image); err != nil || !slices.Equal(got, want) {
		t.Errorf("ModesOf = %v, %v; want %v", got, err, want)
	}
}

// TestWays boots the master each way to READY, as it says in xenstore, looks at what xl says runs, and has it end in
// order.
func TestWays(t *testing.T) {
	for i, w := range ways() {
		t.Run(w.String(), func(t *testing.T) {
			if !w.core {
				demand(t, everything)
			}
			_, m := theHost(t)
			g := newGuest(t, fmt.Sprintf("fw-%d", i)+string(w.mode), w.mode, w.loader, w.layout)
			began, clock := time.Now(), dom0Clock(t)
			create(t, g)
			created := time.Since(began)
			r := awaitReady(t, g.Name, w.patience())
			t.Logf("created after %.0f s, READY after %.0f s; by the guest's clock READY after %.1f s, firstboot from %.1f s; "+
				"memory %d MiB, available %d MiB", created.Seconds(), time.Since(began).Seconds(), r.Times.Ready, r.Times.Init,
				r.Memory.Total>>20, r.Memory.Available>>20)
			judge(t, m, w, r)
			judgeList(t, g)
			if w.loader == xen.BIOS {
				judgeEmulated(t, g)
			}
			judgeCommands(t, m, g.Name)
			judgeClock(t, g.Name, clock)
			awaitConsole(t, g.Name, contract.ReadyPrefix+" "+m.Profile.Name)
			if i%2 == 0 {
				ctx, cancel := context.WithTimeout(t.Context(), 2*ends)
				defer cancel()
				if err := toolstack().Shutdown(ctx, g.Name, ends); err != nil {
					t.Errorf("xl shutdown: %v", err)
				}
			} else {
				orderPowerOff(t, g.Name)
			}
			judgeEnd(t, g)
		})
	}
}

// awaitReady waits for READY in xenstore.
func awaitReady(t *testing.T, name string, bound time.Duration) contract.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	r, err := toolstack().Await(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// judge compares a report with what the guest was given.
func judge(t *testing.T, m *rig.Master, w way, r contract.Report) {
	t.Helper()
	if !r.Ready || !r.Root.ReadOnlyDisk || !r.Root.Verified || r.Policy != "loaded" || r.Name != m.Profile.Name {
		t.Errorf("report = %+v; want READY, on a verified root on a disk that is read-only", r)
	}
	if r.State.Device != w.state || r.State.Action != "formatted" {
		t.Errorf("state = %+v; want %s, formatted", r.State, w.state)
	}
	for i, l := range r.Links {
		want := m.Profile.Links[i]
		if l.Name != want.Name || !l.Up || l.Error != "" || len(l.Addresses) != len(want.Addresses) {
			t.Errorf("link %d = %+v; want %s with its addresses", i, l, want.Name)
		}
	}
	if len(r.Links) != len(m.Profile.Links) {
		t.Errorf("%d links; want %d", len(r.Links), len(m.Profile.Links))
	}
}

// judgeCommands has a guest carry out commands, one caller after the other, by xenstore: without its network.
func judgeCommands(t *testing.T, m *rig.Master, name string) {
	t.Helper()
	out := command(t, name, "links", "--json")
	for _, l := range m.Profile.Links {
		if want := fmt.Sprintf("\"name\": %q", l.Name); !strings.Contains(out, want) {
			t.Errorf("links of %s = %q; want %s in it", name, out, want)
		}
	}
	if out := command(t, name, "status"); !strings.Contains(out, contract.ReadyPrefix) {
		t.Errorf("status of %s = %q; want %s in it", name, out, contract.ReadyPrefix)
	}
}

// judgeClock compares the clock of a guest, as it stands in its log, with that of its host: what the guest wrote down
// last was after the host began to make it, and is over.
func judgeClock(t *testing.T, name string, began time.Time) {
	t.Helper()
	out := command(t, name, "log", "-n", "1", "--json")
	var entry struct{ Time time.Time }
	if err := json.Unmarshal([]byte(out), &entry); err != nil {
		t.Fatalf("the last line of the log of %s: %v\n%s", name, err, out)
	}
	const coarse = 2 * time.Second // both clocks begin with whole seconds
	if now := dom0Clock(t); entry.Time.Before(began.Add(-coarse)) || entry.Time.After(now.Add(coarse)) {
		t.Errorf("by its own clock %s wrote into its log at %v; want between %v and %v, by its host's", name, entry.Time,
			began, now)
	}
}

// dom0Clock is the time of dom0, to the second.
func dom0Clock(t *testing.T) time.Time {
	t.Helper()
	out := run(t, "date", "+%s")
	seconds, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		t.Fatalf("date: %v", err)
	}
	return time.Unix(seconds, 0)
}

// command has a guest carry out a command.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	return run(t, append([]string{files + "/" + call, name}, args...)...)
}

// judgeList compares what xl says of the running guest with what was asked for.
func judgeList(t *testing.T, g xen.Guest) {
	t.Helper()
	domains, err := toolstack().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(domains, func(d xen.Domain) bool { return d.Name == g.Name })
	if i < 0 {
		t.Fatalf("xl lists %+v; want %s among them", domains, g.Name)
	}
	d := domains[i]
	if d.Mode != g.Mode || d.Memory != g.Memory || d.VCPUs != 1 || len(d.Disks) != 2 || len(d.VIFs) != len(g.VIFs) {
		t.Fatalf("xl lists %+v; want %+v", d, g)
	}
	if d.Disks[0].Target != g.System || d.Disks[0].ReadWrite || d.Disks[1].Target != g.State || !d.Disks[1].ReadWrite {
		t.Errorf("disks = %+v; want %s read-only and %s", d.Disks, g.System, g.State)
	}
	c := asked(t, g.Name)
	// libxl tells the target without, and to a KiB with, the memory of graphics (libxl__get_targetmem_fudge).
	const graphics = 16 << 20
	if got := c.Build.Target << 10; max(got-d.Memory, d.Memory-got) > graphics {
		t.Errorf("it has %d bytes of memory, and may have %d; want the same: it does not balloon", got, d.Memory)
	}
	for what, action := range map[string]struct {
		asked xen.Action
		told  string
	}{"power off": {xen.Destroy, c.OnPoweroff}, "reboot": {g.OnReboot, c.OnReboot}, "crash": {g.OnCrash, c.OnCrash},
		"watchdog": {g.OnWatchdog, c.OnWatchdog}} {
		// xl leaves out what is the default of its library.
		if told := cmp.Or(xen.Action(action.told), xen.Destroy); told != action.asked {
			t.Errorf("on %s: %s; want %s", what, told, action.asked)
		}
	}
	for i, v := range d.VIFs {
		if v.MAC != g.VIFs[i].MAC.String() || v.Bridge != g.VIFs[i].Bridge {
			t.Errorf("vif %d = %+v; want %s on %s", i, v, g.VIFs[i].MAC, g.VIFs[i].Bridge)
		}
	}
}

// judgeEmulated looks at the emulated machine of a guest whose BIOS read the system disk: what it has had of it since
// its start cannot be written to, and nothing has it open for that. The kernel has its driver of Xen have it now.
func judgeEmulated(t *testing.T, g xen.Guest) {
	t.Helper()
	const look = `for p in /proc/[0-9]*; do
	read -r comm <$p/comm || continue
	case $comm in *qemu*) ;; *) continue ;; esac
	tr '\0' '\n' <$p/cmdline | grep -e "^file=$1,"
	for f in $p/fd/*; do
		[ $f -ef "$1" ] && grep -e ^flags: $p/fdinfo/${f##*/}
	done
done; true`
	drives := 0
	for line := range strings.Lines(run(t, "sh", "-c", look, "sh", g.System)) {
		line = strings.TrimSpace(line)
		if flags, isOpen := strings.CutPrefix(line, "flags:"); isOpen {
			n, err := strconv.ParseUint(strings.TrimSpace(flags), 8, 32)
			if err != nil || n&unix.O_ACCMODE != unix.O_RDONLY {
				t.Errorf("QEMU has %s open with flags %q, %v; want read-only", g.System, flags, err)
			}
			continue
		}
		drives++
		if !slices.Contains(strings.Split(line, ","), "readonly=on") {
			t.Errorf("QEMU's drive of the system disk is %q; want readonly=on", line)
		}
	}
	if drives != 1 {
		t.Errorf("QEMU has %d drives with %s; want one", drives, g.System)
	}
}

// orderPowerOff ends a guest by an order in xenstore.
func orderPowerOff(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), ends)
	defer cancel()
	id, err := toolstack().ID(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	run(t, "xenstore-write", xenstore.DomainPath(id)+"/"+xenstore.OrderPath, "poweroff")
	if err := awaitGone(ctx, name); err != nil {
		t.Fatalf("after an order in xenstore: %v", err)
	}
}

// awaitConsole waits until a running guest has said something on its console.
func awaitConsole(t *testing.T, name, want string) {
	t.Helper()
	run(t, "sh", "-c", `until grep -qF "$2" "$1"; do sleep 0.2; done`, "sh", console(name), want)
}

// judgeEnd looks at what a guest left that ended in order: a filesystem that nothing has to be made good in. What it
// said last is no evidence: xenconsoled drops what it has not read when the domain goes (tools/console/daemon/io.c).
func judgeEnd(t *testing.T, g xen.Guest) {
	t.Helper()
	disk := stateFile(g.State)
	if out, err := exec.CommandContext(t.Context(), "/sbin/e2fsck", "-fn", disk).CombinedOutput(); err != nil {
		t.Errorf("e2fsck -fn: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), "/sbin/dumpe2fs", "-h", disk).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("has_journal")) || bytes.Contains(out, []byte("needs_recovery")) {
		t.Errorf("after an end in order its journal is to be replayed: %v\n%s", err, out)
	}
}

// TestXlAcceptsTheGoldenFiles has xl read every configuration of the golden files.
func TestXlAcceptsTheGoldenFiles(t *testing.T) {
	h, _ := theHost(t)
	names, err := filepath.Glob(filepath.Join(rig.Top(), "builder/hypervisor/xen/testdata/*.cfg"))
	if err != nil || len(names) == 0 {
		t.Fatalf("golden files: %q, %v", names, err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Put(t.Context(), files+"/golden.cfg", 0o600, b); err != nil {
			t.Fatal(err)
		}
		if _, err := toolstack().Dry(t.Context(), files+"/golden.cfg"); err != nil {
			t.Errorf("%s: %v", filepath.Base(name), err)
		}
	}
}
