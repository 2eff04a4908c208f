package qemu

import (
	"bufio"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"rempart/builder/hypervisor"
)

// findQEMU is the QEMU of this machine.
func findQEMU(t *testing.T) Installation {
	t.Helper()
	in, err := Find(context.Background(), "amd64")
	if err != nil {
		t.Fatalf("%v (apt package qemu-system-x86)", err)
	}
	return in
}

// talker is a boot sector that writes a line to the first serial port and then does nothing.
var talker = append([]byte{
	0xfa,             // cli
	0xbe, 0x16, 0x7c, // mov si, 0x7c16: the text
	0xba, 0xf8, 0x03, // mov dx, 0x3f8: COM1
	0x31, 0xc0, // xor ax, ax
	0x8e, 0xd8, // mov ds, ax
	0xac,       // next: lodsb
	0x84, 0xc0, // test al, al
	0x74, 0x03, // jz stop
	0xee,       // out dx, al
	0xeb, 0xf8, // jmp next
	0xf4,       // stop: hlt
	0xeb, 0xfd, // jmp stop
}, "READY says the boot sector\r\n\x00"...)

func startTalker(t *testing.T, ctx context.Context) *Guest {
	t.Helper()
	disk := make([]byte, trialDisk)
	copy(disk, talker)
	disk[510], disk[511] = 0x55, 0xaa
	path := filepath.Join(t.TempDir(), "a,b.raw") // a comma must survive QEMU's option syntax
	if err := os.WriteFile(path, disk, 0o400); err != nil {
		t.Fatal(err)
	}
	in := findQEMU(t)
	macs := hypervisor.MACs("talker", []string{"a", "b"})
	g, err := Start(ctx, hypervisor.Machine{Name: "talker", Arch: "amd64", Memory: 32 << 20, Firmware: hypervisor.BIOS,
		Accel: hypervisor.TCG, Sandbox: in.Sandbox, System: hypervisor.Disk{Path: path, Format: hypervisor.Raw},
		NICs: []hypervisor.NIC{{Link: "a", MAC: macs[0], Backend: hypervisor.Backend{Kind: hypervisor.Unplugged}},
			{Link: "b", MAC: macs[1], Backend: hypervisor.Backend{Kind: hypervisor.Wire}}}},
		Options{Binary: in.Binary, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Stop(context.Background(), 0) })
	g.Console.SetReadDeadline(time.Now().Add(time.Minute))
	said := bufio.NewScanner(g.Console)
	for said.Scan() {
		if strings.HasPrefix(said.Text(), "READY") {
			return g
		}
	}
	t.Fatalf("the console ended without READY: %v; QEMU: %s", said.Err(), g.stderr)
	return nil
}

func TestStartAndStop(t *testing.T) {
	g := startTalker(t, context.Background())
	if g.Wires[0] != nil || g.Wires[1] == nil {
		t.Errorf("Wires = %v; want only the second", g.Wires)
	}
	var blocks []struct {
		Device   string
		Inserted struct {
			Node string `json:"node-name"`
			RO   bool
		}
	}
	if err := g.Monitor().Execute(context.Background(), "query-block", nil, &blocks); err != nil || len(blocks) != 1 ||
		!blocks[0].Inserted.RO {
		t.Errorf("query-block = %+v, %v; want one read-only disk", blocks, err)
	}
	start := time.Now()
	end := g.Stop(context.Background(), 500*time.Millisecond) // it has no ear for its power button
	if end.Cause != Quit || end.Err() != nil || time.Since(start) > 10*time.Second {
		t.Errorf("Stop = %+v after %s; want quit soon", end, time.Since(start))
	}
	if err := syscall.Kill(g.PID(), 0); err == nil {
		t.Errorf("process %d is still there", g.PID())
	}
}

func TestKilledFromOutsideIsACrash(t *testing.T) {
	g := startTalker(t, context.Background())
	if err := syscall.Kill(g.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if end := g.Wait(); end.Cause != Crashed || end.Err() == nil {
		t.Errorf("Wait of a killed QEMU = %+v; want crashed", end)
	}
}

func TestContextEndsTheGuest(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	g := startTalker(t, ctx)
	cancel()
	select {
	case <-g.Done():
	case <-time.After(time.Minute):
		t.Fatal("QEMU outlives its context")
	}
}

func TestStartTellsWhatQEMUSays(t *testing.T) {
	in := findQEMU(t)
	_, err := Start(context.Background(), hypervisor.Machine{Name: "x", Arch: "amd64", Memory: 32 << 20,
		Firmware: hypervisor.BIOS, Accel: hypervisor.TCG,
		System: hypervisor.Disk{Path: "/nonexistent/disk", Format: hypervisor.Raw}},
		Options{Binary: in.Binary, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/disk") {
		t.Errorf("Start without a disk = %v; want QEMU's own words about /nonexistent/disk", err)
	}
}

// The trial guest really is a guest that ends: on the translator, which always works, it must.
func TestTrialGuestEnds(t *testing.T) {
	if err := trial(context.Background(), findQEMU(t), hypervisor.TCG); err != nil {
		t.Errorf("trial(tcg) = %v; want nil", err)
	}
}

// An accelerator nobody can have is found out.
func TestTrialGuestFails(t *testing.T) {
	if err := trial(context.Background(), findQEMU(t), "nonesuch"); err == nil {
		t.Error("trial(nonesuch) = nil; want an error")
	}
}

func TestChoose(t *testing.T) {
	in := findQEMU(t)
	accel, why, err := Choose(context.Background(), in, "amd64", hypervisor.Auto)
	if err != nil || why == "" {
		t.Fatalf("Choose(auto) = %s, %q, %v; want an accelerator and a reason", accel, why, err)
	}
	_, _, forced := Choose(context.Background(), in, "amd64", hypervisor.KVM)
	if (accel == hypervisor.KVM) != (forced == nil) {
		t.Errorf("Choose(auto) = %s (%s), Choose(kvm) = %v; want them to agree", accel, why, forced)
	}
	if accel, _, err := Choose(context.Background(), in, "arm64", hypervisor.Auto); runtimeIsNot("arm64") &&
		(accel != hypervisor.TCG || err != nil) {
		t.Errorf("Choose(auto) for another processor = %s, %v; want tcg", accel, err)
	}
}

func runtimeIsNot(arch string) bool { return hostArch() != arch }

func TestFindFlash(t *testing.T) {
	fsys := fstest.MapFS{
		"OVMF/OVMF_CODE_4M.fd": {}, "OVMF/OVMF_VARS_4M.fd": {},
		"OVMF/OVMF_CODE.fd": {}, // without its variables it is of no use
	}
	got, err := FindFlash(fsys, "amd64")
	want := hypervisor.Flash{Code: "OVMF/OVMF_CODE_4M.fd", Vars: "OVMF/OVMF_VARS_4M.fd", Format: hypervisor.Raw}
	if err != nil || got != want {
		t.Errorf("FindFlash = %+v, %v; want %+v", got, err, want)
	}
	if _, err := FindFlash(fstest.MapFS{}, "amd64"); err == nil || !strings.Contains(err.Error(), "apt install ovmf") {
		t.Errorf("FindFlash of nothing = %v; want how to install it", err)
	}
}

func TestSteady(t *testing.T) {
	m := Steady(example(hypervisor.MicroVM))
	if hostArch() == "amd64" && !strings.Contains(m.Kernel.Cmdline, " tsc_early_khz=") {
		t.Errorf("Steady(microvm).Kernel.Cmdline = %q; want tsc_early_khz", m.Kernel.Cmdline)
	}
	if m := Steady(example(hypervisor.Direct)); strings.Contains(m.Kernel.Cmdline, "tsc") {
		t.Errorf("Steady(direct).Kernel.Cmdline = %q; want it untouched", m.Kernel.Cmdline)
	}
}
