package storage

import (
	"context"
	"fmt"

	"rempart/builder/guest/lvm"
)

// Open are the guest's own volumes that somebody has open, as people name them.
func (v Volumes) Open(ctx context.Context) (open []string, err error) {
	all, err := v.Tools.Volumes(ctx, v.Group)
	for _, kind := range []Kind{State, System} {
		if all[v.base(kind)].Open {
			open = append(open, lvm.Device(v.Group, v.base(kind)))
		}
	}
	return open, err
}

// Sealed tells when the guest's own system disk, if it is there, can be written to. A hypervisor that is told to attach
// it so obeys, and what it writes then goes through to the volume.
func (v Volumes) Sealed(ctx context.Context) error {
	all, err := v.Tools.Volumes(ctx, v.Group)
	if err != nil {
		return err
	}
	name := v.base(System)
	if system, have := all[name]; !v.Root || !have || system.ReadOnly {
		return nil
	}
	return fmt.Errorf("volume %s/%s can be written to, and nothing may that a guest runs: see what became of it by "+
		"`rempart verify %s`, and have it derived anew by `rempart reprovision %[3]s`, or lvchange --permission r "+
		"%[1]s/%[2]s",
		v.Group, name, v.Guest)
}
