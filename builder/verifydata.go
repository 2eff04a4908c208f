package main

import (
	"context"
	"errors"
	"fmt"

	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/running"
	"rempart/builder/guest/verify"
)

// dataDisk is a data disk that is verified.
type dataDisk struct {
	home.Data
	exec bool // the profile says that programs on it may be run
}

// dataOf takes the data disks of a guest that its profile declares: of others the guest makes nothing. What a guest
// that runs writes to them would not hold still.
func (v *verification) dataOf(c *console, g *home.Guest, m *guest.Master) error {
	if len(g.Data) == 0 {
		return nil
	}
	if _, err := g.Running(); err == nil {
		fmt.Fprintf(c.err, "%s runs: its data disks can be verified once it is stopped\n", g.Name)
		return nil
	} else if !errors.Is(err, running.ErrAbsent) {
		return err
	}
	for _, d := range g.Data {
		declared := m.Profile.Disk(d.Name)
		if declared == nil {
			fmt.Fprintf(c.err, "data disk %s is not declared by the profile, and is not looked at\n", d.Name)
			continue
		}
		v.data = append(v.data, dataDisk{d, declared.Exec})
	}
	return nil
}

// lookAtData looks at them.
func (v *verification) lookAtData(ctx context.Context) error {
	for _, d := range v.data {
		found, err := d.inspect(ctx)
		if err != nil {
			return err
		}
		v.report.Data = append(v.report.Data, found)
	}
	return nil
}

func (d dataDisk) inspect(ctx context.Context) (*verify.Data, error) {
	image, err := d.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("data disk %s: %w", d.Name, err)
	}
	defer image.Close()
	return verify.InspectData(ctx, d.Name, image, image.Size(), d.exec)
}

// tellData prints what was found on data disks.
func tellData(c *console, all []*verify.Data) {
	for _, d := range all {
		if d.Other != "" {
			fmt.Fprintf(c.out, "data disk %s: %s\n", d.Name, d.Other)
		} else {
			fmt.Fprintf(c.out, "data disk %s: %s, %d suspect\n", d.Name, count(d.Files, "file"), len(d.Suspects))
		}
		tellSuspects(c, d.Suspects)
	}
}
