package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"aead.dev/minisign"

	"rempart/builder/disk/imagefile"
	"rempart/builder/files"
	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/reprovision"
	"rempart/builder/guest/storage"
	"rempart/builder/guest/verify"
	"rempart/builder/hypervisor"
	"rempart/builder/master"
)

// examination looks at the disks of a guest that is being put on a master, as `rempart verify` does.
type examination struct {
	g   *home.Guest
	key *minisign.PrivateKey // signs the evidence; nil: nobody does
}

// look looks at both disks of the guest, which does not run: the one at a path is its state disk.
func (x examination) look(ctx context.Context, path string) (found reprovision.Finding, err error) {
	m, kept, err := masterOf(x.g)
	if err != nil {
		return found, err
	}
	report := verify.Report{Guest: x.g.Name, Master: kept.Digest, Disk: m.Manifest.Disk.SHA256,
		Taken: time.Now().UTC().Truncate(time.Second)}
	// Neither disk that cannot be read may hide the other.
	var failed error
	var state sync.WaitGroup
	state.Go(func() { report.State, failed = inspectState(ctx, path) }) // the guest waits: side by side
	system, err := systemDisk(x.g, m)
	if err == nil {
		report.System, err = lookAtSystem(ctx, system, m)
	}
	state.Wait()
	if ctx.Err() != nil {
		return found, ctx.Err()
	}
	if err != nil {
		found.Suspects = append(found.Suspects, fmt.Sprintf("system disk: it cannot be read: %v", err))
	} else {
		for _, d := range report.System.Differences {
			found.Suspects = append(found.Suspects, "system disk: "+describe(d))
		}
	}
	if failed == nil {
		for _, s := range report.State.Suspects {
			found.Suspects = append(found.Suspects, fmt.Sprintf("/var/%s: %s", s.Path, strings.Join(s.Why, ", ")))
		}
	}
	if found.Report, err = report.Encode(); err != nil {
		return found, err
	}
	found.Evidence = func(ctx context.Context, file string) (string, error) {
		return x.evidence(ctx, file, &report, system, path)
	}
	return found, failed
}

// systemDisk is the system disk that a guest runs from: its own where it has one, else that of its master.
func systemDisk(g *home.Guest, m *guest.Master) (hypervisor.Disk, error) {
	if own := g.Settings().System; own != "" {
		return hypervisor.Disk{Path: own, Format: hypervisor.Raw}, nil
	}
	return m.System(g.DiskFormat)
}

// lookAtSystem compares the system disk of a guest with its master. A packed file that is, byte by byte, the one that
// the manifest names shows what was packed: only of another one is all unpacked, to tell what differs.
func lookAtSystem(ctx context.Context, system hypervisor.Disk, m *guest.Master) (*verify.System, error) {
	if system.Format == hypervisor.QCOW2 {
		if same, err := isOutput(ctx, system.Path, m.Manifest); err != nil {
			return nil, err
		} else if same {
			return &verify.System{Size: m.Manifest.Disk.Size, Exact: true, Differences: []verify.Difference{}}, nil
		}
	}
	image, err := imagefile.Open(ctx, system.Path, imagefile.Options{Format: imagefile.Format(system.Format)})
	if err != nil {
		return nil, err
	}
	defer image.Close()
	return compareSystem(ctx, m.Dir, system.Path, m.Manifest, &verify.Disk{ReaderAt: image, Size: image.Size()})
}

// isOutput tells whether a file has the bytes that a manifest says of the file of its name.
func isOutput(ctx context.Context, path string, m *master.Manifest) (bool, error) {
	n := slices.IndexFunc(m.Outputs, func(o master.Output) bool { return o.Name == filepath.Base(path) })
	if n < 0 {
		return false, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, files.Interruptible(ctx, f))
	return size == m.Outputs[n].Size && hex.EncodeToString(h.Sum(nil)) == m.Outputs[n].SHA256, err
}

// inspectState looks at the state disk in a raw file or on a volume.
func inspectState(ctx context.Context, path string) (*verify.State, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := storage.Length(path)
	if err != nil {
		return nil, err
	}
	return verify.InspectState(ctx, f, size, verify.DefaultRules(), nil)
}

// evidence writes what a report rests on into a file, and its signature beside it; it tells how it is signed. Of a disk
// that the report has nothing of, because it is gone or cannot be read, there is none.
func (x examination) evidence(ctx context.Context, file string, r *verify.Report, system hypervisor.Disk,
	state string) (signed string, err error) {
	var disks [2]*verify.Disk
	for n, d := range []struct {
		seen   bool
		path   string
		format hypervisor.Format
	}{{r.System != nil, system.Path, system.Format}, {r.State != nil, state, hypervisor.Raw}} {
		if !d.seen {
			continue
		}
		image, err := imagefile.Open(ctx, d.path, imagefile.Options{Format: imagefile.Format(d.format)})
		if err != nil {
			return "", err
		}
		defer image.Close()
		disks[n] = &verify.Disk{ReaderAt: image, Size: image.Size()}
	}
	err = files.WriteFrom(file, 0o600, func(f *os.File) error {
		return verify.WriteEvidence(ctx, f, r, disks[0], disks[1])
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
