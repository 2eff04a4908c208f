package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"aead.dev/minisign"

	"rempart/builder/disk/imagefile"
	"rempart/builder/files"
	"rempart/builder/guest/home"
	"rempart/builder/guest/reprovision"
	"rempart/builder/guest/verify"
	"rempart/builder/master"
)

// examination looks at the disks of a guest that is being put on a master, as `rempart verify` does.
type examination struct {
	g   *home.Guest
	key *minisign.PrivateKey // signs the evidence; nil: nobody does
}

// look looks at both disks of the guest, which does not run: the one at a path is its state disk.
func (x examination) look(ctx context.Context, path string) (found reprovision.Finding, err error) {
	m, _, err := masterOf(x.g)
	if err != nil {
		return found, err
	}
	report := verify.Report{Guest: x.g.Name, Master: m.Manifest.Disk.SHA256, Taken: time.Now().UTC().Truncate(time.Second)}
	// The system disk first: a state that cannot be read must not hide it.
	system, err := m.System(x.g.DiskFormat)
	if err != nil {
		return found, err
	}
	image, err := imagefile.Open(ctx, system.Path, imagefile.Options{Format: imagefile.Format(system.Format)})
	if err != nil {
		return found, err
	}
	defer image.Close()
	report.System, err = compareSystem(ctx, m.Dir, system.Path, m.Manifest,
		&verify.Disk{ReaderAt: image, Size: image.Size()})
	if err != nil {
		return found, err
	}
	for _, d := range report.System.Differences {
		found.Suspects = append(found.Suspects, "system disk: "+describe(d))
	}
	var failed error
	if report.State, failed = inspectState(ctx, path); failed == nil {
		for _, s := range report.State.Suspects {
			found.Suspects = append(found.Suspects, fmt.Sprintf("/var/%s: %s", s.Path, strings.Join(s.Why, ", ")))
		}
	}
	if found.Report, err = report.Encode(); err != nil {
		return found, err
	}
	found.Evidence = func(ctx context.Context, file string) (string, error) {
		return x.evidence(ctx, file, &report, system.Path, imagefile.Format(system.Format), path)
	}
	return found, failed
}

// inspectState looks at the state disk in a raw file or on a volume.
func inspectState(ctx context.Context, path string) (*verify.State, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	return verify.InspectState(ctx, f, size, verify.DefaultRules(), nil)
}

// evidence writes what a report rests on into a file, and its signature beside it; it tells how it is signed.
func (x examination) evidence(ctx context.Context, file string, r *verify.Report, system string,
	format imagefile.Format, state string) (signed string, err error) {
	image, err := imagefile.Open(ctx, system, imagefile.Options{Format: format})
	if err != nil {
		return "", err
	}
	defer image.Close()
	disk, err := os.Open(state)
	if err != nil {
		return "", err
	}
	defer disk.Close()
	size, err := disk.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	err = files.WriteFrom(file, 0o600, func(f *os.File) error {
		return verify.WriteEvidence(ctx, f, r, &verify.Disk{ReaderAt: image, Size: image.Size()},
			&verify.Disk{ReaderAt: disk, Size: size})
	})
	if err != nil {
		return "", err
	}
	if x.key == nil {
		return "not signed: name a minisign key by --key", nil
	}
	public, ok := x.key.Public().(minisign.PublicKey)
	if !ok {
		return "", fmt.Errorf("the key has a public half of type %T", x.key.Public())
	}
	return fmt.Sprintf("signed by minisign key %016X", public.ID()), signWith(*x.key, file)
}

// compareSystem compares a system disk, which is in a file, with a manifest, and with what else the folder of its
// master has of it.
func compareSystem(ctx context.Context, dir, file string, m *master.Manifest, disk *verify.Disk) (*verify.System,
	error) {
	own, err := ownDisk(ctx, dir, file)
	if err != nil {
		return nil, err
	}
	var reader io.ReaderAt
	if own != nil {
		defer own.Close()
		reader = own
	}
	s, err := verify.CompareSystem(ctx, disk, disk.Size, m, reader)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// ownDisk is the master's own system disk, or nil where the master has none besides the one that is verified.
func ownDisk(ctx context.Context, dir, verified string) (*imagefile.Image, error) {
	checked, err := os.Stat(verified)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{master.RawFile, master.Qcow2File} {
		file := filepath.Join(dir, name)
		info, err := os.Stat(file)
		if errors.Is(err, fs.ErrNotExist) || err == nil && os.SameFile(info, checked) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return imagefile.Open(ctx, file, imagefile.Options{})
	}
	return nil, nil
}
