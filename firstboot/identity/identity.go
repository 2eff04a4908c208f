// Package identity reads the identity disk at the start of a guest and lays out what is on it: facts for everyone, each
// consumer's secrets for that consumer alone, the seed into the kernel's random pool.
//
// It is a task with no privilege but the device node. Directories with the right owners are made by PID 1 before, and
// a file takes the group of the directory it is in: so nothing here may give files away.
//
// What it deliberately does not do: write to the disk, guess which disk is meant, or carry on with half an identity.
// A disk that cannot be understood is an error, and what waits for the identity stays closed.
package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"rempart/firstboot/block"
	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
)

// Spec is the child. A guest without an identity disk goes on without it.
func Spec() child.Spec {
	var dirs []child.GroupDir
	for _, consumer := range identity.Consumers() {
		owner, _ := identity.Owner(consumer)
		dirs = append(dirs, child.GroupDir{Path: identity.ConsumerDir(consumer), Group: owner})
	}
	return child.Spec{
		Name:   "identity",
		Run:    run,
		Task:   true,
		UID:    contract.UIDIdentity,
		Needed: func(root string) bool { _, err := find(root); return !errors.Is(err, block.ErrAbsent) },
		Own:    []string{identity.Dir},
		Shared: dirs,
		Read:   []string{"/sys/block", "/sys/devices"},
		Write:  []string{"/dev/urandom"},
		Devices: func(root string) []string {
			if d, err := find(root); err == nil {
				return []string{filepath.Join(root, "dev", d.Name)}
			}
			return nil
		},
		OOMScore:    200,
		MemoryLimit: 16 << 20,
	}
}

func find(root string) (block.Disk, error) {
	disks, err := block.Disks(filepath.Join(root, "sys"))
	if err != nil {
		return block.Disk{}, err
	}
	return block.Find(disks, identity.Serial, identity.XenVdevs()...)
}

func run(_ context.Context, env *child.Env) error {
	d, err := find(env.Root)
	if errors.Is(err, block.ErrAbsent) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("identity disk: %w", err)
	}
	if !d.ReadOnly {
		env.Tell(child.KeyWarning, "the identity disk is attached writable; attach it read-only")
	}
	id, err := read(filepath.Join(env.Root, "dev", d.Name))
	if err != nil {
		return err
	}
	if err := LayOut(env.Root, id, env.Log); err != nil {
		return err
	}
	if len(id.Seed) > 0 {
		// Everyone may mix into the pool; nothing is credited (random(4)).
		if err := os.WriteFile(filepath.Join(env.Root, "dev/urandom"), id.Seed, 0); err != nil {
			env.Tell(child.KeyWarning, "the random seed of the identity disk was not used: "+err.Error())
		}
	}
	env.Tell(child.KeyIdentity, id.Facts())
	env.Log.Info("identity", "host", id.Hostname, "links", len(id.Links), "secrets", len(id.Secrets))
	return nil
}

// read reads the disk at node.
func read(node string) (*identity.Identity, error) {
	f, err := os.Open(node)
	if err != nil {
		return nil, fmt.Errorf("identity disk: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, identity.MaxSize))
	if err != nil {
		return nil, fmt.Errorf("identity disk %s: %w", node, err)
	}
	id, err := identity.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("identity disk %s: %w", node, err)
	}
	return id, nil
}

// LayOut writes secrets and facts below root, over what an earlier run may have left. Secrets of consumers this guest
// does not have are left on the disk, and said.
func LayOut(root string, id *identity.Identity, log *slog.Logger) error {
	for _, consumer := range identity.Consumers() {
		dir := filepath.Join(root, identity.ConsumerDir(consumer))
		left, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("secrets for %s: %w", consumer, err)
		}
		for _, e := range left {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("secrets for %s: %w", consumer, err)
			}
		}
	}
	strangers := map[string]bool{}
	for _, s := range id.Secrets {
		if _, ok := identity.Owner(s.Consumer); !ok {
			if !strangers[s.Consumer] {
				log.Warn("nobody in this guest takes these secrets", "for", s.Consumer)
			}
			strangers[s.Consumer] = true
			continue
		}
		if err := write(filepath.Join(root, identity.SecretPath(s.Consumer, s.Name)), s.Value, 0o440); err != nil {
			return fmt.Errorf("secret %s/%s: %w", s.Consumer, s.Name, err)
		}
	}
	b, err := json.Marshal(id.Facts())
	if err != nil {
		return fmt.Errorf("facts of the identity: %w", err)
	}
	if err := write(filepath.Join(root, identity.FactsPath), b, 0o444); err != nil {
		return fmt.Errorf("facts of the identity: %w", err)
	}
	return nil
}

// write makes a file that appears whole: a reader that starts early finds none rather than half of one.
func write(path string, b []byte, mode os.FileMode) error {
	temporary := filepath.Join(filepath.Dir(path), "."+strings.TrimPrefix(filepath.Base(path), ".")+".new")
	// A run that was ended halfway left it, and it may not be opened for writing again.
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return os.Rename(temporary, path)
}
