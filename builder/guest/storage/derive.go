package storage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"rempart/builder/files"
	"rempart/builder/guest/lvm"
)

// Master is the system disk of a master, as a file of its store.
type Master struct {
	Digest string // of the master
	Path   string // raw
	Size   int64  // bytes
	SHA256 string // of these, in hexadecimal digits
}

// layEnd is the name under which a guest lays a master into a volume.
func (v Volumes) layEnd() string { return v.base(System) + ".lay" }

// masterDigits is how much of a master's digest is in the name of its volume: enough that nobody makes another.
const masterDigits = 32

// master is the name of the volume that a master lies in.
func (v Volumes) master(m Master) string {
	name := "rempart_" + m.Digest[:min(len(m.Digest), masterDigits)]
	if v.Pool != "" {
		name += "." + v.Pool
	}
	return name
}

// OwnsSystem is Disks.OwnsSystem.
func (v Volumes) OwnsSystem() bool { return v.Root }

// Derive is Disks.Derive. The first guest of a master in a volume group lays it into a volume, where each byte is read
// back, and which nobody writes to from then on; it stays when its guests have gone. A thick snapshot has an extent for
// what is written, and nobody writes.
func (v Volumes) Derive(ctx context.Context, m Master, to Disk) error {
	if err := v.layMaster(ctx, m); err != nil {
		return fmt.Errorf("master %.12s in volume group %s: %w", m.Digest, v.Group, err)
	}
	return v.appear(ctx, to, func(part string) error {
		if v.Pool != "" {
			return v.Tools.SnapshotThin(ctx, v.Group, v.master(m), part, true)
		}
		g, err := v.Tools.Group(ctx, v.Group)
		if err != nil {
			return err
		}
		return v.Tools.Snapshot(ctx, v.Group, v.master(m), part, g.Extent, true)
	})
}

// layMaster lays a master into its volume unless it is there.
func (v Volumes) layMaster(ctx context.Context, m Master) error {
	name, part := v.master(m), v.layEnd()
	if have, err := v.laid(ctx, m); err != nil || have {
		return err
	}
	if err := errors.Join(lvm.CheckName(v.Group, name), v.remove(ctx, part)); err != nil {
		return err
	}
	err := v.create(ctx, part, m.Size)
	if err == nil {
		err = lay(ctx, m, lvm.Device(v.Group, part))
	}
	if err == nil {
		err = v.Tools.SetReadOnly(ctx, v.Group, part)
	}
	if err == nil {
		err = v.Tools.Rename(ctx, v.Group, part, name)
	}
	if err == nil {
		return nil
	}
	cleared := v.remove(context.WithoutCancel(ctx), part)
	// Another guest of the master may have been faster.
	if have, laidErr := v.laid(ctx, m); laidErr == nil && have {
		return cleared
	}
	return errors.Join(err, cleared)
}

// laid tells whether a master's volume is there, and as it was made.
func (v Volumes) laid(ctx context.Context, m Master) (bool, error) {
	all, err := v.Tools.Volumes(ctx, v.Group)
	if err != nil {
		return false, err
	}
	name := v.master(m)
	one, have := all[name]
	switch {
	case !have:
		return false, nil
	case !one.ReadOnly || one.Size < m.Size:
		return false, fmt.Errorf("volume %s/%s can be written to, or is too small for a master: it is none of rempart's any "+
			"more; lvrename %[1]s %[2]s OTHER", v.Group, name)
	case !one.Active:
		return false, fmt.Errorf("volume %s/%s is not active; lvchange --activate y %[1]s/%[2]s", v.Group, name)
	}
	return true, nil
}

// lay writes a master into a device, which has zeros behind it then, and reads back what is there.
func lay(ctx context.Context, m Master, device string) error {
	in, err := os.Open(m.Path)
	if err != nil {
		return err
	}
	defer in.Close()
	length, err := Length(device)
	if err != nil {
		return err
	}
	if err := zeroFrom(ctx, device, m.Size/piece*piece); err != nil {
		return err
	}
	out, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer out.Close()
	n, err := io.Copy(out, files.Interruptible(ctx, io.LimitReader(in, m.Size)))
	if err == nil {
		err = out.Sync()
	}
	if err != nil || n != m.Size {
		return fmt.Errorf("%d of %d bytes are in %s: %w", n, m.Size, device, errors.Join(err, ctx.Err()))
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, files.Interruptible(ctx, io.NewSectionReader(out, 0, m.Size))); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != m.SHA256 {
		return fmt.Errorf("%s has sha256 %s, the master %s", device, got, m.SHA256)
	}
	behind, err := io.ReadAll(io.NewSectionReader(out, m.Size, length-m.Size))
	if err == nil && len(bytes.Trim(behind, "\x00")) != 0 {
		err = fmt.Errorf("%s is not zero behind the master", device)
	}
	return err
}
