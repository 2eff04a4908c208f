package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"rempart/builder/disk"
	"rempart/builder/disk/qcow2"
	"rempart/builder/master"
)

// Formats of the system disk that Write knows.
const (
	Raw   = "raw"
	Qcow2 = "qcow2"
)

// Formats are all formats, in the order of the help.
func Formats() []string { return []string{Raw, Qcow2} }

// Write makes output the folder of the planned master: the disk in the formats given, kernel, initrd and command line
// for direct boot, manifest and bill of materials. The folder changes in one step; on any error it is as it was.
// It fails with ErrForeign when the folder holds anything else.
func (p *Plan) Write(ctx context.Context, output string, formats []string) (err error) {
	s, err := newStaging(output)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.abandon()
		}
	}()
	start := time.Now()
	if err := p.Manifest.Disk.Fill(ctx, p.Disk, master.BlockSize); err != nil {
		return err
	}
	p.Phases = append(p.Phases, Phase{"digest", time.Since(start)})

	for _, format := range Formats() {
		if !slices.Contains(formats, format) {
			continue
		}
		start := time.Now()
		if err := p.writeDisk(ctx, s, format); err != nil {
			return err
		}
		p.Phases = append(p.Phases, Phase{format, time.Since(start)})
	}
	for _, small := range []struct {
		name    string
		content []byte
	}{
		{master.KernelFile, p.Kernel},
		{master.InitrdFile, p.Initrd},
		{master.CmdlineFile, []byte(p.Cmdline + "\n")},
	} {
		if err := p.writeFile(s, small.name, small.content); err != nil {
			return err
		}
	}
	sbom, err := master.SBOM(p.Manifest, p.programs)
	if err != nil {
		return err
	}
	if err := p.writeFile(s, master.SBOMFile, sbom); err != nil {
		return err
	}
	manifest, err := p.Manifest.Encode()
	if err != nil {
		return err
	}
	if err := writeWhole(s, master.ManifestFile, manifest); err != nil {
		return err
	}
	return s.publish()
}

func (p *Plan) writeDisk(ctx context.Context, s *staging, format string) error {
	if format == Raw {
		f, err := s.create(master.RawFile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := disk.WriteRaw(ctx, f, p.Disk); err != nil {
			return err
		}
		p.output(master.RawFile, p.Disk.Size(), p.Manifest.Disk.SHA256)
		return f.Close()
	}
	f, err := s.create(master.Qcow2File)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := qcow2.Write(ctx, f, p.Disk, qcow2.Options{}); err != nil {
		return err
	}
	size, sum, err := digestFile(f)
	if err != nil {
		return err
	}
	p.output(master.Qcow2File, size, sum)
	return f.Close()
}

func digestFile(f *os.File) (int64, string, error) {
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return 0, "", fmt.Errorf("%s: reading back: %w", f.Name(), err)
	}
	return n, hex.EncodeToString(h.Sum(nil)), nil
}

func (p *Plan) writeFile(s *staging, name string, content []byte) error {
	sum := sha256.Sum256(content)
	p.output(name, int64(len(content)), hex.EncodeToString(sum[:]))
	return writeWhole(s, name, content)
}

func writeWhole(s *staging, name string, content []byte) error {
	f, err := s.create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	return f.Close()
}

func (p *Plan) output(name string, size int64, sum string) {
	p.Manifest.Outputs = append(p.Manifest.Outputs, master.Output{Name: name, Size: size, SHA256: sum})
}
