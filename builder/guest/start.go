package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"rempart/builder/files"
	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/qemu"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// Settings are how a guest is to run.
type Settings struct {
	Name     string // empty: the profile's
	Firmware hypervisor.Firmware
	Format   hypervisor.Format // empty: what is there
	System   string            // path of another system disk than the master's own, raw; empty: that
	Memory   int64             // bytes; 0: the profile's
	VCPUs    int               // 0: 1
	Accel    hypervisor.Accel
	Commands string // path of the socket that takes commands for it; empty: none
	Identity string // path of the identity disk; empty: none
	Data     []hypervisor.DataDisk
	// StandIns has disks that go with the guest stand in for those data disks of the profile that Data lacks.
	StandIns bool
	State    string                        // path of the state disk; empty: a temporary one that goes with the guest
	Backends map[string]hypervisor.Backend // by link; missing: Unplugged
	Console  io.Writer                     // gets everything the guest says on its serial port
	Log      *slog.Logger
	// Held is a lock that the hypervisor has until it ends; nil: none.
	Held *os.File
	// RebootEnds ends the guest when it resets itself.
	RebootEnds bool
	// Overlay is the path of what a guest of another system writes to, and Health when it is healthy: such a guest has no
	// state and no identity disk, only the addresses of the latter.
	Overlay string
	Health  Health
	// Vars is the path where the variables of its UEFI firmware are kept, made where there are none; empty: it begins
	// with fresh ones at each start, as a guest does that may not remember anything there.
	Vars string
	// Append is added to the kernel command line; only where the host supplies the kernel.
	Append string
}

// Guest is a guest that runs.
type Guest struct {
	*qemu.Guest
	Accel       hypervisor.Accel
	AccelReason string

	dir  string // temporary files
	ends chan struct{}

	mu     sync.Mutex
	report contract.Report // the last, which is a claim: the guest may be compromised
	ready  chan struct{}   // closed with the first line of the console that starts with contract.ReadyPrefix
	failed chan struct{}   // the same for contract.FailedPrefix
	said   *lines
	// Of another system: the line that the console must show, and when it has.
	pattern *regexp.Regexp
	matched chan struct{}
}

// Links are the names and hardware addresses of a profile's NICs, in bus order. Links that the guest makes itself need
// none.
func Links(name string, p *profiles.Profile) ([]hypervisor.NIC, error) {
	links := p.NICs()
	names := make([]string, len(links))
	for i, l := range links {
		names[i] = l.Name
	}
	macs := hypervisor.MACs(name, names)
	nics := make([]hypervisor.NIC, len(links))
	for i, l := range links {
		nics[i] = hypervisor.NIC{Link: l.Name, MAC: macs[i]}
		if l.MAC != "" {
			mac, err := parseMAC(l)
			if err != nil {
				return nil, err
			}
			nics[i].MAC = mac
		}
	}
	return nics, nil
}

func parseMAC(l profiles.Link) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(l.MAC)
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", l.Name, err)
	}
	return mac, nil
}

// Start starts a guest from a master. It ends with ctx at the latest.
func Start(ctx context.Context, m *Master, s Settings) (g *Guest, err error) {
	arch := m.Manifest.Master.Arch
	in, err := qemu.Find(ctx, arch)
	if err != nil {
		return nil, err
	}
	g = &Guest{ready: make(chan struct{}), failed: make(chan struct{}), ends: make(chan struct{}),
		matched: make(chan struct{})}
	g.said = &lines{each: g.line}
	reports := g.note
	if m.Foreign() {
		if g.pattern, err = regexp.Compile(s.Health.Console); err != nil {
			return nil, err
		}
		g.said.begun = g.match
		reports = nil // whatever writes there speaks another language
	}
	if g.Accel, g.AccelReason, err = qemu.Choose(ctx, in, arch, s.Accel); err != nil {
		return nil, err
	}
	if g.dir, err = os.MkdirTemp("", "rempart-run-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(g.dir))
		}
	}()
	machine, err := g.describe(ctx, m, s, in, arch)
	if err != nil {
		return nil, err
	}
	if short := qemu.ShortOfMemory(machine); short != "" && s.Log != nil {
		s.Log.Warn(short)
	}
	g.Guest, err = qemu.Start(ctx, qemu.Steady(machine), qemu.Options{Binary: in.Binary, Log: s.Log, Reports: reports,
		Held: s.Held})
	if err != nil {
		return nil, err
	}
	go g.follow(s.Console)
	if m.Foreign() {
		go g.prove(s.Health)
	}
	return g, nil
}

// Describe is the machine that Start would start, but for channels of the process that starts it; what belongs to this
// guest of the firmware is in dir. Accel must be decided.
func Describe(ctx context.Context, m *Master, s Settings, dir string) (hypervisor.Machine, error) {
	g := &Guest{Accel: s.Accel, dir: dir}
	return g.describe(ctx, m, s, qemu.Installation{}, m.Manifest.Master.Arch)
}

// describe is the machine for a master and settings.
func (g *Guest) describe(ctx context.Context, m *Master, s Settings, in qemu.Installation, arch string) (
	hypervisor.Machine, error) {
	machine := hypervisor.Machine{Name: s.Name, Arch: arch, Memory: s.Memory, VCPUs: max(s.VCPUs, 1), Firmware: s.Firmware,
		Accel: g.Accel, Sandbox: in.Sandbox, RebootEnds: s.RebootEnds}
	if s.Commands != "" {
		machine.Commands.Path = s.Commands
	}
	if machine.Name == "" {
		machine.Name = m.Profile.Name
	}
	if machine.Memory == 0 {
		machine.Memory = m.Manifest.Memory
	}
	var err error
	if s.System != "" {
		machine.System = hypervisor.Disk{Path: s.System, Format: hypervisor.Raw, Device: isDevice(s.System)}
	} else if machine.System, err = m.System(s.Format); err != nil {
		return machine, err
	}
	if m.Foreign() {
		if err := m.overlay(ctx, &machine, s.Overlay); err != nil {
			return machine, err
		}
	}
	if m.Manifest.State > 0 {
		path := s.State
		if path == "" {
			path = filepath.Join(g.dir, "state.raw")
		}
		if _, err := EnsureState(path, m.Manifest.State); err != nil {
			return machine, err
		}
		machine.State = &hypervisor.Disk{Path: path, Format: hypervisor.Raw, Device: isDevice(path)}
	}
	if machine.NICs, err = NICs(m.Profile, s); err != nil {
		return machine, err
	}
	switch {
	case s.Identity == "" || m.Foreign(): // another system would not know what to do with it
	case s.Firmware.TakesIdentity():
		machine.Identity = &hypervisor.Disk{Path: s.Identity, Format: hypervisor.Raw}
	case s.Log != nil:
		s.Log.Warn("this guest runs without its identity disk, and with the values of the profile", "firmware", s.Firmware)
	}
	if s.StandIns {
		more, err := standIns(m.Profile, s.Data, g.dir)
		if err != nil {
			return machine, err
		}
		s.Data = slices.Concat(s.Data, more)
	}
	for _, d := range s.Data {
		d.Disk.Device = isDevice(d.Disk.Path)
		machine.Data = append(machine.Data, d)
	}
	for i := range machine.NICs {
		b, ok := s.Backends[machine.NICs[i].Link]
		if !ok {
			b.Kind = hypervisor.Unplugged
		}
		machine.NICs[i].Backend = b
	}
	if s.Firmware.ReadsKernelFromHost() {
		if machine.Kernel, err = m.Kernel(); err != nil {
			return machine, err
		}
		if s.Append != "" {
			machine.Kernel.Cmdline += " " + s.Append
		}
	} else if s.Append != "" {
		return machine, fmt.Errorf("firmware %s reads the command line from the disk; only direct and microvm can add to it",
			s.Firmware)
	}
	if s.Firmware == hypervisor.UEFI {
		machine.Flash, err = g.flash(arch, s)
	}
	return machine, err
}

// isDevice tells whether a block device is at a path.
func isDevice(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice
}

// share is where distributions keep firmware.
const share = "/usr/share"

// flash is UEFI firmware with this guest's own copy of its variables.
func (g *Guest) flash(arch string, s Settings) (*hypervisor.Flash, error) {
	flash, err := qemu.FindFlash(os.DirFS(share), arch)
	if err != nil {
		return nil, err
	}
	template, err := os.ReadFile(filepath.Join(share, flash.Vars))
	if err != nil {
		return nil, fmt.Errorf("UEFI firmware: %w", err)
	}
	flash.Code, flash.Vars = filepath.Join(share, flash.Code), filepath.Join(g.dir, "uefi-vars")
	if s.Vars == "" {
		err = os.WriteFile(flash.Vars, template, 0o600)
	} else {
		flash.Vars = s.Vars
		err = keepVars(s.Vars, template, flash.Format, s.Log)
	}
	if err != nil {
		return nil, fmt.Errorf("UEFI firmware: %w", err)
	}
	return &flash, nil
}

// keepVars makes a variable store that is kept, unless it is there. One of another size is of another build of the
// firmware, which would not start with it: that is told, and it begins anew.
func keepVars(path string, template []byte, format hypervisor.Format, log *slog.Logger) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case format != hypervisor.Raw || info.Size() == int64(len(template)): // only a raw one is as large as what it holds
		return nil
	case log != nil:
		log.Warn("the variables that the firmware kept are of another build of it: it begins with fresh ones", "file", path,
			"bytes", info.Size(), "want", len(template))
	}
	return files.Write(path, template, 0o600)
}

// follow reads the console until it ends.
func (g *Guest) follow(console io.Writer) {
	defer close(g.ends)
	buf := make([]byte, 4096)
	for {
		n, err := g.Console.Read(buf)
		if console != nil {
			// Whoever watches may have gone; the guest must be read all the same, or it stalls.
			_, _ = console.Write(buf[:n])
		}
		_, _ = g.said.Write(buf[:n]) // never fails
		if err != nil {
			return // QEMU has ended; how, Wait tells
		}
	}
}

// Wait waits for the guest's end, and cleans up what it left.
func (g *Guest) Wait() qemu.End {
	end := g.Guest.Wait()
	select {
	case <-g.ends:
	case <-time.After(time.Second): // a console writer that is stuck must not keep us
	}
	g.Console.Close()
	os.RemoveAll(g.dir)
	return end
}

// note keeps a report.
func (g *Guest) note(r contract.Report) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.report = r
}

// Report is the last report of the guest, which may be compromised: a claim. The zero value before the first.
func (g *Guest) Report() contract.Report {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.report
}

// Errors of AwaitReady.
var (
	// ErrFailed is returned when the guest says that it is closed or degraded.
	ErrFailed = errors.New("the guest failed")
	// ErrEnded is returned when the guest ended before it was ready.
	ErrEnded = errors.New("the guest ended before it was ready")
)

// AwaitReady waits until the guest says that it is ready. A guest may say FAILED and become ready after all, when a
// child succeeds at its next start: it is given a little time for that.
func (g *Guest) AwaitReady(ctx context.Context) error {
	select {
	case <-g.ready:
		return nil
	case <-g.Done():
		select {
		case <-g.ready: // it was, and ended since
			return nil
		default:
			return fmt.Errorf("%w: %s", ErrEnded, g.lastWords())
		}
	case <-ctx.Done():
		return fmt.Errorf("the guest is not ready: %w: %s", context.Cause(ctx), g.lastWords())
	case <-g.failed:
	}
	const patience = 5 * time.Second
	select {
	case <-g.ready:
		return nil
	case <-g.Done():
	case <-ctx.Done():
	case <-time.After(patience):
	}
	return fmt.Errorf("%w: %s", ErrFailed, g.said.failure())
}

// lastWords are the last line of the console, and what the guest's last report said is wrong.
func (g *Guest) lastWords() string {
	words := fmt.Sprintf("its last words were %q", g.said.lastLine())
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.report.Failures) > 0 {
		words += fmt.Sprintf("; it reported %q", g.report.Failures)
	}
	return words
}
