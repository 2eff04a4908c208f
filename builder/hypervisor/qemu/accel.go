package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"rempart/builder/hypervisor"
)

// trialTime is how long the trial guest may take: with a KVM that works it is done in 0.2 s, on one that only
// pretends (nested, or filtered) it takes from 4 s to for ever.
const trialTime = 2500 * time.Millisecond

// trialExit is QEMU's exit status when the trial guest wrote trialByte to isa-debug-exit: (byte << 1) | 1, see
// hw/misc/debugexit.c.
const (
	trialByte = 0x10
	trialExit = trialByte<<1 | 1
)

// trialSector is a boot sector that waits for one tick of the BIOS clock and leaves through isa-debug-exit. To get
// there a guest has to run all of SeaBIOS (16 and 32 bit code, PCI, a virtio disk, timer interrupts): the device node
// /dev/kvm may exist, and even execute single instructions, on hosts where no guest ever gets this far.
var trialSector = []byte{
	0x31, 0xc0, // xor ax, ax
	0x8e, 0xd8, // mov ds, ax
	0xfb,             // sti
	0xa1, 0x6c, 0x04, // mov ax, [0x46c]: the BIOS data area's count of timer ticks
	0x3b, 0x06, 0x6c, 0x04, // again: cmp ax, [0x46c]
	0x74, 0xfa, // je again
	0xba, trialPort, 0x00, // mov dx, trialPort
	0xb0, trialByte, // mov al, trialByte
	0xee,       // out dx, al
	0xf4,       // stop: hlt
	0xeb, 0xfd, // jmp stop
}

const (
	trialPort = 0xf4    // QEMU's documented port for isa-debug-exit
	trialDisk = 1 << 20 // bytes; SeaBIOS boots nothing from a disk without a whole cylinder
)

// Choose turns what a person asked for into an accelerator that works, and a sentence that says why. With KVM asked
// for by name it fails when a guest does not run on it.
func Choose(ctx context.Context, in Installation, arch string, want hypervisor.Accel) (
	hypervisor.Accel, string, error) {
	if want == hypervisor.TCG {
		return hypervisor.TCG, "asked for", nil
	}
	err := errOtherProcessor
	if arch == hostArch() {
		err = TryKVM(ctx, in)
	}
	switch {
	case err == nil:
		return hypervisor.KVM, "a trial guest ran on it", nil
	case want == hypervisor.KVM:
		return "", "", fmt.Errorf("accelerator kvm: %w; use --accel tcg", err)
	case ctx.Err() != nil:
		return "", "", ctx.Err()
	}
	return hypervisor.TCG, "KVM cannot be used: " + err.Error(), nil
}

var errOtherProcessor = errors.New("the guest is for another processor")

// TryKVM runs a tiny guest on KVM and returns nil when it ran to its end in time.
func TryKVM(ctx context.Context, in Installation) error {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("there is no /dev/kvm")
	case errors.Is(err, os.ErrPermission):
		return errors.New("/dev/kvm may not be opened by this user (it usually takes the group kvm)")
	case err != nil:
		return fmt.Errorf("/dev/kvm: %w", err)
	}
	kvm.Close()
	if hostArch() != "amd64" {
		return nil // the trial guest is x86; elsewhere KVM is taken at its word
	}
	return trial(ctx, in, hypervisor.KVM)
}

// trial runs the trial guest.
func trial(ctx context.Context, in Installation, accel hypervisor.Accel) error {
	dir, err := os.MkdirTemp("", "rempart-trial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	image := filepath.Join(dir, "disk")
	sector := make([]byte, trialDisk)
	copy(sector, trialSector)
	sector[510], sector[511] = 0x55, 0xaa // the PC boot signature
	if err := os.WriteFile(image, sector, 0o600); err != nil {
		return err
	}
	processor := (&builder{m: hypervisor.Machine{Arch: "amd64", Accel: accel}}).processor()
	ctx, cancel := context.WithTimeout(ctx, trialTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, in.Binary, "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35,sata=off,usb=off", "-accel", string(accel), "-cpu", processor, "-m", "32",
		"-blockdev", "driver=raw,node-name=disk,read-only=on,file.driver=file,file.filename="+escape(image),
		"-device", "virtio-blk-pci,drive=disk,bootindex=0",
		"-device", fmt.Sprintf("isa-debug-exit,iobase=0x%x,iosize=4", trialPort))
	var stderr tail
	cmd.Stderr = &stderr
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("a trial guest did not get anywhere in %s", trialTime)
	case errors.As(err, &exit) && exit.ExitCode() == trialExit:
		return nil
	case err == nil:
		return errors.New("a trial guest ended without its signal")
	}
	return fmt.Errorf("a trial guest failed: %w: %s", err, firstLine(stderr.String()))
}
