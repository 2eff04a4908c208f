package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"rempart/builder/disk"
	"rempart/builder/disk/imagefile"
	"rempart/builder/disk/ova"
	"rempart/builder/disk/qcow2"
	"rempart/builder/disk/vmdk"
	"rempart/builder/files"
	"rempart/profiles"
)

// Forms of VMDK that --to may name besides the formats.
const (
	vmdkStream = "vmdk-stream"
	vmdkSparse = "vmdk-sparse"
)

// convertCommand is `rempart convert`.
func convertCommand() *command {
	return &command{
		name:     "convert",
		synopsis: "IMAGE NEW",
		summary:  "turn a disk image into another format",
		help: `
Reads and writes raw, qcow2, VMDK and OVA, by what the names end in or the options say. Holes and zeros take no room in
what is written; the disk in it is the same byte by byte. NEW appears whole or not at all, and replaces nothing.

  .qcow2  compressed, for QEMU          --to qcow2, --zstd for another compression
  .vmdk   compressed, for VMware and VirtualBox to import   --to vmdk-stream; --to vmdk-sparse is one to run from
  .ova    a whole machine in one file: --name, --memory, --cpus and --nic describe it
  others  raw, with holes               --to raw`,
		files: true,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			v := &conversion{}
			flags.StringVar(&v.format, "format", "", "of IMAGE: raw, qcow2, vmdk or ova; default: what its name ends in")
			flags.StringVar(&v.to, "to", "", "raw, qcow2, vmdk-stream, vmdk-sparse or ova; default: what the name ends in")
			flags.BoolVar(&v.o.Backing, "backing", false, "allow a qcow2 image to name files that it lies on")
			flags.StringVar(&v.o.Snapshot, "snapshot", "", "convert a snapshot within a qcow2 image, by ID or name")
			flags.BoolVar(&v.zstd, "zstd", false, "qcow2: compress by zstd, which QEMU knows since 5.1")
			flags.StringVar(&v.machine.Name, "name", "", "ova: name of the machine; default: that of the file")
			flags.StringVar(&v.memory, "memory", "128M", "ova: RAM of the machine")
			flags.IntVar(&v.machine.CPUs, "cpus", 1, "ova: processors of the machine")
			flags.StringArrayVar(&v.machine.NICs, "nic", nil, "ova: a network that the machine is plugged into; repeat for more")
			return v.run
		},
	}
}

// conversion is one call of `rempart convert`.
type conversion struct {
	format, to, memory string
	zstd               bool
	o                  imagefile.Options
	machine            ova.Machine
}

func (v *conversion) run(ctx context.Context, c *console, args []string) error {
	if len(args) != 2 {
		return usageError{"want an image and the name of a new one"}
	}
	from, to := args[0], args[1]
	if v.format != "" {
		f, err := imagefile.ParseFormat(v.format)
		if err != nil {
			return usageError{"--format: " + err.Error()}
		}
		v.o.Format = f
	}
	if v.to == "" {
		v.to = string(imagefile.FormatOf(to))
	}
	if v.to == string(imagefile.VMDK) {
		v.to = vmdkStream
	}
	write, err := v.writer(to)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("%s is there already; remove it, or choose another name", to)
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	image, err := imagefile.Open(ctx, from, v.o)
	if err != nil {
		return err
	}
	defer image.Close()
	sayWeak(c, from, image)
	content, err := image.Sparse(ctx)
	if err != nil {
		return fmt.Errorf("image %s: %w", from, err)
	}
	// There may be secrets in an image: nobody may read the new one who may not read the old.
	mode := info.Mode().Perm()&0o444 | 0o600
	return files.WriteFrom(to, mode, func(f *os.File) error { return write(ctx, f, content) })
}

// sayWeak tells of an archive whose manifest proves less than people think.
func sayWeak(c *console, path string, i *imagefile.Image) {
	if i.WeakDigests {
		fmt.Fprintf(c.err, "rempart: WARNING: %s: its manifest has SHA1, which shows damage but not whether somebody "+
			"changed it on purpose\n", path)
	}
}

// writer is what writes the format that was asked for.
func (v *conversion) writer(to string) (func(context.Context, *os.File, *disk.Sparse) error, error) {
	switch v.to {
	case string(imagefile.Raw):
		return disk.WriteRaw, nil
	case string(imagefile.Qcow2):
		var o qcow2.Options
		if v.zstd {
			o.Compression = qcow2.Zstd
		}
		return func(ctx context.Context, f *os.File, s *disk.Sparse) error { return qcow2.Write(ctx, f, s, o) }, nil
	case vmdkStream, vmdkSparse:
		kind := vmdk.StreamOptimized
		if v.to == vmdkSparse {
			kind = vmdk.MonolithicSparse
		}
		return func(ctx context.Context, f *os.File, s *disk.Sparse) error {
			return vmdk.Write(ctx, f, filepath.Base(to), s, kind)
		}, nil
	case string(imagefile.OVA):
		if v.machine.Name == "" {
			v.machine.Name = strings.TrimSuffix(filepath.Base(to), filepath.Ext(to))
		}
		var err error
		if v.machine.Memory, err = profiles.ParseSize(v.memory); err != nil {
			return nil, usageError{"--memory: " + err.Error()}
		}
		if err := v.machine.Check(); err != nil {
			return nil, usageError{err.Error()}
		}
		return func(ctx context.Context, f *os.File, s *disk.Sparse) error { return ova.Write(ctx, f, s, v.machine) }, nil
	}
	return nil, usageError{fmt.Sprintf("--to %s: want raw, qcow2, vmdk-stream, vmdk-sparse or ova", v.to)}
}
