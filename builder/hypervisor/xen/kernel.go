package xen

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"rempart/builder/kernel/bzimage"
)

// Notes by which a kernel says how Xen may start it (xen/include/public/elfnote.h).
const (
	noteOwner     = "Xen"
	noteEntry     = 1  // XEN_ELFNOTE_ENTRY: where a PV guest begins
	notePhysEntry = 18 // XEN_ELFNOTE_PHYS32_ENTRY: where a PVH guest begins
)

// maxImage bounds the file of a kernel, maxNotes all of its notes, in bytes.
const (
	maxImage = 128 << 20
	maxNotes = 1 << 20
)

// ModesOf are the modes in which Xen can start a kernel, the image of a boot loader. HVM, where it starts as on any
// machine, is always among them. An error wraps bzimage.ErrPacked where what the kernel says cannot be read.
func ModesOf(image []byte) ([]Mode, error) {
	unpacked, err := bzimage.Unpack(image)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(unpacked))
	if err != nil {
		return nil, fmt.Errorf("the kernel in the image: %w", err)
	}
	modes, left := []Mode{HVM}, int64(maxNotes)
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(p.Open(), left))
		if err != nil {
			return nil, fmt.Errorf("the notes of the kernel: %w", err)
		}
		left -= int64(len(b)) // segments may lie on one another, and there may be thousands
		for _, kind := range notes(b, f.ByteOrder) {
			switch kind {
			case noteEntry:
				modes = append(modes, PV)
			case notePhysEntry:
				modes = append(modes, PVH)
			}
		}
	}
	slices.Sort(modes)
	return slices.Compact(modes), nil
}

// notes are the types of Xen's notes among others: sizes of name and content, type, and both, each filled up to 4 bytes
// (elf(5), "Notes").
func notes(b []byte, order binary.ByteOrder) []uint32 {
	const header = 12
	var kinds []uint32
	filled := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	for len(b) >= header {
		name, content, kind := order.Uint32(b), order.Uint32(b[4:]), order.Uint32(b[8:])
		b = b[header:]
		if uint64(len(b)) < filled(name)+filled(content) {
			break
		}
		if string(b[:name]) == noteOwner+"\x00" {
			kinds = append(kinds, kind)
		}
		b = b[filled(name)+filled(content):]
	}
	return kinds
}

// checkKernel tells what keeps Xen from starting a kernel in a mode. Where the kernel cannot be asked, xl says it.
func checkKernel(path string, mode Mode) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // as in volume
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.Join(err, fmt.Errorf("%s is no file", path))
	}
	image, err := io.ReadAll(io.LimitReader(f, maxImage))
	if err != nil {
		return err
	}
	modes, err := ModesOf(image)
	if errors.Is(err, bzimage.ErrPacked) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if !slices.Contains(modes, mode) {
		return fmt.Errorf("%s does not support %s, Xen starts it as %v only: choose another mode, or build the master with "+
			"a kernel that has CONFIG_XEN_%s", path, mode, modes, map[Mode]string{PV: "PV", PVH: "PVH"}[mode])
	}
	return nil
}
