// Package rig is what tests and benchmarks of booted guests stand on: a master built once by the real binary, guests
// booted from it under QEMU in software, and waiting for what they report, always bounded. A guest that disappoints
// leaves its console in the artifacts folder.
//
// What it deliberately does not do: decide what is right. Tests do.
package rig

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/qemu"
	"rempart/builder/master"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// Patience is how long a guest may take for anything on two slow cores without hardware virtualisation. It bounds
// waiting for failures; nothing is asserted about time.
const Patience = 2 * time.Minute

// Top is the folder of the source tree.
func Top() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// Rempart is the binary under test, as `make` built it: with the guest programs inside.
func Rempart(tb testing.TB) string {
	tb.Helper()
	if _, err := os.Stat(binary); err != nil {
		tb.Fatalf("these tests run bin/rempart: run `make` first: %v", err)
	}
	return binary
}

var binary = filepath.Join(Top(), "bin", "rempart")

// Master is a built master.
type Master struct {
	Dir      string
	Profile  *profiles.Profile
	Manifest *master.Manifest
}

var (
	buildMutex sync.Mutex
	built      = map[string]*Master{} // by profile; the folder goes with Clean
	buildDir   string
)

// Build returns the master of a profile (a file or a built-in's name), built at the first call. Clean removes it.
func Build(tb testing.TB, profile string) *Master {
	tb.Helper()
	buildMutex.Lock()
	defer buildMutex.Unlock()
	if m := built[profile]; m != nil {
		return m
	}
	m, err := build(Rempart(tb), profile)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// Prebuild is Build before any test runs, for a TestMain whose tests run where no mirror can be reached. Test binaries
// started after it find the masters by the environment; who called it cleans.
func Prebuild(all ...string) error {
	buildMutex.Lock()
	defer buildMutex.Unlock()
	var found []string
	for _, profile := range all {
		m, err := build(binary, profile)
		if err != nil {
			return err
		}
		found = append(found, profile+"="+m.Dir)
	}
	return os.Setenv(prebuiltVar, strings.Join(found, "\n"))
}

// prebuiltVar holds lines of "PROFILE=FOLDER".
const prebuiltVar = "REMPART_TEST_MASTERS"

// build makes or finds a master; the mutex is held.
func build(program, profile string) (*Master, error) {
	m := &Master{}
	for line := range strings.Lines(os.Getenv(prebuiltVar)) {
		if name, dir, _ := strings.Cut(strings.TrimSpace(line), "="); name == profile {
			m.Dir = dir
		}
	}
	var err error
	if m.Dir == "" {
		if buildDir == "" {
			if buildDir, err = os.MkdirTemp("", "rempart-rig-"); err != nil {
				return nil, err
			}
		}
		m.Dir = filepath.Join(buildDir, fmt.Sprint("master-", len(built)))
		out, err := exec.Command(program, "build", profile, "--renew-lock", "--output", m.Dir).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("rempart build %s: %w\n%s", profile, err, out)
		}
		if bytes.Contains(out, []byte("WARNING")) {
			fmt.Fprintf(os.Stderr, "NOTE, from building %s:\n%s", profile, out)
		}
	}
	if m.Profile, err = profiles.Load(profile); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(m.Dir, master.ManifestFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if m.Manifest, err = master.ReadManifest(f); err != nil {
		return nil, err
	}
	built[profile] = m
	return m, nil
}

// Clean removes every master; a TestMain calls it last.
func Clean() {
	if buildDir != "" {
		os.RemoveAll(buildDir)
	}
}

// Options say how to boot a guest. The zero value is a direct boot from system.raw with the profile's memory, a state
// disk of its own, and every link unplugged.
type Options struct {
	Firmware hypervisor.Firmware
	Format   hypervisor.Format
	System   string // another system disk than the master's
	State    string // another state disk than a fresh one; "none": no state disk
	Identity string // identity disk; empty: none
	Data     []hypervisor.DataDisk
	Memory   int64  // bytes
	Append   string // more of the kernel command line, for Direct and MicroVM
	Backends []hypervisor.Backend
	NICs     int    // number of NICs; 0: one for each link
	Chipset  string // of the machine; empty: rempart's own choice
	// Patience is how long to wait for what the guest shall report; 0: Patience.
	Patience time.Duration
	// Sed is a sed(1) script run over each of QEMU's arguments: the way to have a machine that rempart never makes.
	Sed string
	// More are further arguments of QEMU, as a shell reads them.
	More string
}

// Guest is a booted guest.
type Guest struct {
	*qemu.Guest
	State    string // its state disk
	tb       testing.TB
	control  net.Conn
	commands string // socket
	patience time.Duration
	mu       sync.Mutex
	console  bytes.Buffer
	last     contract.Report
	heard    bool
	changed  chan struct{} // closed and replaced at each report and at each piece of console
	silent   chan struct{} // closed when all that an ended guest said has been read
}

// Boot starts a guest. It is stopped when the test ends, if it has not been before.
func (m *Master) Boot(tb testing.TB, o Options) *Guest {
	tb.Helper()
	dir, err := os.MkdirTemp("", "rempart-guest-") // short, for the socket's sake
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &Guest{tb: tb, changed: make(chan struct{}), silent: make(chan struct{}),
		patience: cmp.Or(o.Patience, Patience)}
	machine, err := m.machine(dir, o)
	if err != nil {
		cancel()
		tb.Fatal(err)
	}
	if machine.State != nil {
		g.State = machine.State.Path
	}
	g.commands = machine.Commands.Path
	installation, err := qemu.Find(ctx, machine.Arch)
	if err != nil {
		cancel()
		tb.Fatal(err)
	}
	machine.Sandbox = installation.Sandbox
	log := slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	program := installation.Binary
	if o.Sed != "" || o.More != "" {
		if program, err = altered(dir, program, o.Sed, o.More); err != nil {
			cancel()
			tb.Fatal(err)
		}
	}
	if g.Guest, err = qemu.Start(ctx, qemu.Steady(machine), qemu.Options{Binary: program, Log: log}); err != nil {
		cancel()
		tb.Fatal(err)
	}
	if g.control, err = net.Dial("unix", machine.Control.Path); err != nil {
		tb.Error(err)
	}
	var readers sync.WaitGroup
	if g.control != nil {
		readers.Go(g.readReports)
	}
	readers.Go(g.readConsole)
	go func() {
		readers.Wait()
		close(g.silent)
	}()
	tb.Cleanup(func() {
		g.Guest.Stop(ctx, 0)
		cancel()
		if g.control != nil {
			g.control.Close()
		}
		<-g.silent
		if tb.Failed() {
			g.keep(dir)
		}
		os.RemoveAll(dir)
	})
	return g
}

// machine describes the guest that o asks for.
func (m *Master) machine(dir string, o Options) (hypervisor.Machine, error) {
	if o.Firmware == "" {
		o.Firmware = hypervisor.Direct
	}
	if o.Format == "" {
		o.Format = hypervisor.Raw
	}
	if o.Memory == 0 {
		o.Memory = m.Profile.Memory
	}
	links := m.Manifest.Links
	for i := len(links); i < o.NICs; i++ {
		links = append(links[:i:i], fmt.Sprint("spare", i))
	}
	if o.NICs > 0 {
		links = links[:o.NICs]
	}
	machine := hypervisor.Machine{
		Name: m.Profile.Name, Arch: m.Manifest.Master.Arch, Memory: o.Memory, VCPUs: 1, Firmware: o.Firmware,
		System:   hypervisor.Disk{Path: filepath.Join(m.Dir, "system."+string(o.Format)), Format: o.Format},
		Control:  hypervisor.Channel{Path: filepath.Join(dir, "control")},
		Commands: hypervisor.Channel{Path: filepath.Join(dir, "commands")},
		Accel:    hypervisor.TCG, RebootEnds: true, Chipset: o.Chipset,
	}
	if o.System != "" {
		machine.System.Path = o.System
	}
	if o.Identity != "" {
		machine.Identity = &hypervisor.Disk{Path: o.Identity, Format: hypervisor.Raw}
	}
	machine.Data = o.Data
	for i, mac := range hypervisor.MACs(m.Profile.Name, links) {
		nic := hypervisor.NIC{Link: links[i], MAC: mac, Backend: hypervisor.Backend{Kind: hypervisor.Unplugged}}
		if i < len(o.Backends) {
			nic.Backend = o.Backends[i]
		}
		machine.NICs = append(machine.NICs, nic)
	}
	switch o.State {
	case "none":
	case "":
		state := filepath.Join(dir, "state.raw")
		if err := Blank(state, m.Profile.State.Size); err != nil {
			return machine, err
		}
		machine.State = &hypervisor.Disk{Path: state, Format: hypervisor.Raw}
	default:
		machine.State = &hypervisor.Disk{Path: o.State, Format: hypervisor.Raw}
	}
	if o.Firmware.ReadsKernelFromHost() {
		machine.Kernel = &hypervisor.Kernel{
			Image: filepath.Join(m.Dir, master.KernelFile), Initrd: filepath.Join(m.Dir, master.InitrdFile),
			Cmdline: strings.TrimSpace(m.Manifest.Cmdline + " " + o.Append),
		}
	} else if o.Append != "" {
		return machine, errors.New("only a kernel from the host takes another command line")
	}
	if o.Firmware == hypervisor.UEFI {
		flash, err := qemu.FindFlash(os.DirFS("/usr/share"), machine.Arch)
		if err != nil {
			return machine, err
		}
		vars, err := os.ReadFile(filepath.Join("/usr/share", flash.Vars))
		if err != nil {
			return machine, err
		}
		flash.Code, flash.Vars = filepath.Join("/usr/share", flash.Code), filepath.Join(dir, "vars.fd")
		if err := os.WriteFile(flash.Vars, vars, 0o600); err != nil {
			return machine, err
		}
		machine.Flash = &flash
	}
	return machine, nil
}

// altered writes a program that starts QEMU with altered arguments, as the same process.
func altered(dir, binary, script, more string) (string, error) {
	name := filepath.Join(dir, "qemu")
	text := fmt.Sprintf("#!/bin/sh\n"+
		"for a; do\n\tshift\n\tset -- \"$@\" \"$(printf %%s \"$a\" | sed '%s')\"\ndone\nexec %s \"$@\" %s\n",
		script, binary, more)
	return name, os.WriteFile(name, []byte(text), 0o700)
}

// Blank makes a sparse file of zeros.
func Blank(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Close()
}
