package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/files"
	"rempart/builder/guest"
	"rempart/builder/guest/backup"
	"rempart/builder/guest/home"
	"rempart/builder/guest/running"
)

// backupCommand is `rempart backup`.
func backupCommand() *command {
	return &command{
		name:     "backup",
		synopsis: "GUEST FILE",
		summary:  "write a guest as one file",
		help: `
The guest must not run, unless its state disk is a volume of LVM: then a snapshot is written, which is as after a power
cut at that moment. FILE, compressed and for its owner only, has all that makes the guest this one: its description, its
state, and its identity with addresses, private keys and secrets; keep it as you would those. It appears whole or not at
all.
` + "`rempart restore`" + ` makes a guest of it, here or on another machine, where its master must be in the store:
` + "`rempart master export`" + ` and ` + "`import`" + ` move that. Data disks and quarantine are not in it.`,
		words: createdNames,
		files: true,
		setup: func(*pflag.FlagSet) func(context.Context, *console, []string) error {
			return func(ctx context.Context, c *console, args []string) error {
				if len(args) != 2 {
					return usageError{"want a guest and the file to write"}
				}
				const what = "rempart backup"
				g, err := lockUnchanged(args[0], what)
				if err != nil {
					return err
				}
				defer g.Unlock()
				return atWork(c, g, what, func(c *console) error { return backUp(ctx, c, g, args[1]) })
			}
		},
	}
}

func backUp(ctx context.Context, c *console, g *home.Guest, file string) error {
	state, release, err := stillState(ctx, g)
	if err != nil {
		return err
	}
	size, err := writeBackup(ctx, file, g, state, release, sparing(c))
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s: %s, %.1f MiB; its master is %.12s\n", file, g.Name, float64(size)/(1<<20), g.Master)
	return nil
}

// tellEvery is how long something that takes long goes on without a word of how far it is.
const tellEvery = 5 * time.Second

// sparing tells how far something is, in words, where it takes long.
func sparing(c *console) func(done, total int64) {
	next := time.Now().Add(tellEvery)
	return func(done, total int64) {
		if now := time.Now(); now.After(next) && done < total {
			fmt.Fprintf(c.err, "rempart: %d of %d MiB, %d %%\n", done>>20, total>>20, done*100/total)
			next = now.Add(tellEvery)
		}
	}
}

// writeBackup writes a guest into a file with the state disk at a path, which it releases in any case, and tells how
// large the file is.
func writeBackup(ctx context.Context, file string, g *home.Guest, state string, release func() error,
	tell func(done, total int64)) (size int64, err error) {
	begun := false
	err = files.WriteFrom(file, 0o600, func(f *os.File) error {
		begun = true
		// What was read of a snapshot holds if it still does.
		err := errors.Join(backup.Write(ctx, f, g, state, tell), release())
		if info, statErr := f.Stat(); statErr == nil {
			size = info.Size()
		}
		return err
	})
	if !begun { // there is no place for the file
		err = errors.Join(err, release())
	}
	return size, err
}

// stillState is a state disk of a guest that nobody writes to, until release: its own while it does not run, else a
// snapshot where its storage has them. The guest must be locked.
func stillState(ctx context.Context, g *home.Guest) (path string, release func() error, err error) {
	r, err := g.Running()
	if errors.Is(err, running.ErrAbsent) {
		return g.StateDisk(), func() error { return nil }, nil
	}
	if err != nil {
		return "", nil, err
	}
	if g.State == 0 {
		return "", func() error { return nil }, nil
	}
	path, release, err = g.Disks().Snapshot(ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		err = fmt.Errorf("%w: %s, %s; its state changes meanwhile: stop it first: rempart stop %[2]s", home.ErrRuns,
			g.Name, whoRuns(r))
	}
	return path, release, err
}

// restoreCommand is `rempart restore`.
func restoreCommand() *command {
	return &command{
		name:     "restore",
		synopsis: "FILE",
		summary:  "make a guest of what `rempart backup` wrote",
		help: `
The guest has the state, the addresses, the keys and the secrets it had: the one it was written of must not run beside
it. Whoever wrote FILE decides what the guest's state is; files of this machine it cannot name.`,
		files: true,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			name := flags.String("as", "", "name of the guest; default: the one it had")
			dir := flags.String("store", "", "folder of the store that has its master; default: the user's own")
			volumes := volumesFlag(flags)
			return func(ctx context.Context, c *console, args []string) error {
				if len(args) != 1 {
					return usageError{"want the file of one backup"}
				}
				return restore(ctx, c, args[0], *name, *dir, *volumes)
			}
		},
	}
}

func restore(ctx context.Context, c *console, file, name, dir, volumes string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := backup.Open(f)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer b.Close()
	masters, err := openStore(dir)
	if err != nil {
		return err
	}
	d := b.Guest()
	if name != "" {
		d.Name = name
	}
	// What names places of the machine it was written on means nothing here, or something else.
	d.Data, d.Previous, d.Volumes, d.Root, d.Growing = nil, "", volumes, false, 0
	if d.Store, err = filepath.Abs(masters.Dir()); err != nil {
		return err
	}
	kept, err := masters.Find(d.Master)
	if err != nil {
		return fmt.Errorf("%w; export it where the guest was (rempart master export %.12s FILE), and import it here", err,
			d.Master)
	}
	h, err := home.Default()
	if err != nil {
		return err
	}
	g, err := h.Create(ctx, d, false)
	if err != nil {
		return err
	}
	if err = roundState(ctx, c, g); err == nil {
		err = g.Disks().Check(ctx, g.State, false)
	}
	if err == nil {
		err = b.Disks(ctx, g.Disks())
	}
	if err == nil {
		_, err = guest.ReadIdentity(g.Identity())
	}
	if err == nil {
		err = rebased(ctx, g, kept)
	}
	if err == nil {
		err = settle(masters, h, g)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", file, err), g.Abandon(ctx, false))
	}
	g.Unlock()
	if n := len(b.Guest().Data); n > 0 {
		fmt.Fprintf(c.err, "rempart: WARNING: %s had %d data disks, which are no part of a backup and are not attached now\n",
			g.Name, n)
	}
	fmt.Fprintf(c.out, "%s is back, in %s; start it with `rempart start %[1]s`\n", g.Name, g.Dir)
	return nil
}
