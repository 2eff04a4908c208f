// Package disks prepares the data disks of a profile: each is found by the name the hypervisor gave it, formatted when
// it is blank and may be written to, and left alone when it carries anything but ext4. It runs as a child without any
// privilege but those device nodes, as package state does, whose work it does again.
//
// What it deliberately does not do: mount or grow (PID 1's), touch a disk that the profile does not declare, or wait
// for one to be plugged in.
package disks

import (
	"context"
	"path/filepath"

	"rempart/firstboot/block"
	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/state"
	"rempart/profiles"
)

// Spec is the child. It is a task: done once it has told PID 1 what to mount.
func Spec() child.Spec {
	read, exec := state.ToolPaths()
	return child.Spec{
		Name:  "disks",
		Run:   run,
		Task:  true,
		After: []string{"state"}, // the two share the memory for what checks a filesystem
		Needed: func(root string) bool {
			p, _, err := child.ReadProfile(root)
			return err == nil && len(p.Disks) > 0
		},
		UID:      contract.UIDState,
		Read:     read,
		Exec:     exec,
		Devices:  nodes,
		OOMScore: 300, // no MemoryLimit: what e2fsck takes grows with the disk
	}
}

// nodes are the device nodes of the disks that are there.
func nodes(root string) (all []string) {
	p, _, err := child.ReadProfile(root)
	if err != nil {
		return nil
	}
	for i := range p.Disks {
		if d, err := find(root, p, i); err == nil {
			all = append(all, filepath.Join(root, "dev", d.Name))
		}
	}
	return all
}

func find(root string, p *profiles.Profile, number int) (block.Disk, error) {
	all, err := block.Disks(filepath.Join(root, "sys"))
	if err != nil {
		return block.Disk{}, err
	}
	return block.Find(all, contract.DataSerial(p.Disks[number].Name), contract.DataXenVdev(number))
}

// run prepares the disks, one after the other, and tells PID 1. Whatever is wrong with one is told, not returned:
// starting again would find the same.
func run(ctx context.Context, env *child.Env) error {
	var all []child.DiskResult
	for i := range env.Profile.Disks {
		all = append(all, child.DiskResult{Name: env.Profile.Disks[i].Name, StateResult: prepare(ctx, env, i)})
	}
	env.Tell(child.KeyDisks, all)
	return nil
}

func prepare(ctx context.Context, env *child.Env, number int) child.StateResult {
	disk := &env.Profile.Disks[number]
	d, err := find(env.Root, env.Profile, number)
	if err != nil {
		return child.StateResult{Action: state.Unfound(err), Error: err.Error()}
	}
	if d.ReadOnly && !disk.ReadOnly {
		return child.StateResult{Device: d.Name, Action: state.FailedDisk,
			Error: d.Name + " is attached read-only; attach it writable, or give it read-only: true in the profile"}
	}
	t := state.NewTools(Role(env.Profile, disk), env.Log)
	result := t.Prepare(ctx, filepath.Join(env.Root, "dev", d.Name), d.Size)
	result.Device = d.Name
	return result
}

// Role is what a data disk is for: it takes any ext4 but one that is known to be for something else, which under Xen,
// where disks are told apart by their places alone, says that two were mistaken for each other.
func Role(p *profiles.Profile, disk *profiles.Disk) state.Role {
	return state.Role{What: "data disk " + disk.Name, Label: disk.Name, Keep: disk.ReadOnly,
		Refuses: func(label string) string { return p.Mistaken(disk, label, contract.StateLabel) }}
}
