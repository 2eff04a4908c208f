package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/files"
	"rempart/builder/guest"
	"rempart/builder/guest/backup"
	"rempart/builder/guest/home"
	"rempart/builder/guest/running"
	"rempart/builder/master/store"
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
` + "`rempart restore`" + ` makes a guest of it, here or on another machine, where its master must be in the store: FILE
has that, too, by --with-master, as it is signed; else ` +
			"`rempart master export` and `import`" + ` move it.
Data disks and quarantine are not in it.`,
		words: createdNames,
		files: true,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			whole := flags.Bool("with-master", false, "have the guest's master in the file, too")
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
				return atWork(c, g, what, func(c *console) error { return backUp(ctx, c, g, args[1], *whole) })
			}
		},
	}
}

func backUp(ctx context.Context, c *console, g *home.Guest, file string, whole bool) error {
	var master func(io.Writer) error
	with := "its master is"
	if whole {
		masters, err := store.Open(g.Store)
		if err != nil {
			return err
		}
		kept, err := masters.Find(g.Master)
		if err != nil {
			return err
		}
		master = func(w io.Writer) error { return masters.Export(ctx, kept, w) }
		with = "with its master"
	}
	state, release, err := stillState(ctx, g)
	if err != nil {
		return err
	}
	size, err := writeBackup(ctx, file, g, state, release, master, sparing(c))
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s: %s, %.1f MiB; %s %.12s\n", file, g.Name, float64(size)/(1<<20), with, g.Master)
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
	master func(io.Writer) error, tell func(done, total int64)) (size int64, err error) {
	begun := false
	err = files.WriteFrom(file, 0o600, func(f *os.File) error {
		begun = true
		// What was read of a snapshot holds if it still does.
		err := errors.Join(backup.WriteWhole(ctx, f, g, state, master, tell), release())
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
it. Whoever wrote FILE decides what the guest's state is; files of this machine it cannot name. A master that is in FILE
and not in the store goes there, if a trusted key signed it: see ` + "`rempart help master`" + `.`,
		files: true,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			name := flags.String("as", "", "name of the guest; default: the one it had")
			dir := flags.String("store", "", "folder of the store that has its master; default: the user's own")
			unsigned := flags.Bool("allow-unsigned", false, "take a master from the file that no trusted key signed")
			volumes := volumesFlag(flags)
			return func(ctx context.Context, c *console, args []string) error {
				if len(args) != 1 {
					return usageError{"want the file of one backup"}
				}
				return restore(ctx, c, args[0], *name, *dir, *volumes, *unsigned)
			}
		},
	}
}

func restore(ctx context.Context, c *console, file, name, dir, volumes string, unsigned bool) error {
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
	h, err := home.Default()
	if err != nil {
		return err
	}
	if _, err := h.Open(d.Name); err == nil {
		return fmt.Errorf("%w: %s; give this one another name by --as", home.ErrExists, d.Name)
	}
	kept, err := masterFor(ctx, b, masters, d.Master, unsigned)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
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

// masterFor is the master of a guest that is restored: one of the store, or that of the backup, which goes into the
// store. Where the backup brought it nobody here has vouched for it by a tag: a trusted key must have signed it then.
// One that is refused never gets into the store, or a backup without a master could name it.
func masterFor(ctx context.Context, b *backup.Reader, masters *store.Store, digest string, unsigned bool) (
	*store.Master, error) {
	kept, err := masters.Find(digest)
	switch {
	case err == nil && (!b.HasMaster() || len(kept.Tags) > 0):
		return kept, nil
	case err == nil:
		return kept, vouched(masters, kept, unsigned)
	case !errors.Is(err, store.ErrUnknown):
		return nil, err
	case !b.HasMaster():
		return nil, fmt.Errorf("%w; export it where the guest was (rempart master export %.12s FILE), and import it here",
			err, digest)
	}
	err = b.Master(func(archive *tar.Reader) (err error) {
		kept, err = masters.ImportArchive(ctx, archive, func(m *store.Master) error {
			if m.Digest != digest {
				return fmt.Errorf("%w: the master in it is %.12s, and its guest's %.12s", backup.ErrDamaged, m.Digest, digest)
			}
			return vouched(masters, m, unsigned)
		})
		return err
	})
	return kept, err
}

// vouched tells why a master that a backup brought is not believed.
func vouched(masters *store.Store, m *store.Master, unsigned bool) error {
	_, err := masters.Signer(m)
	if err == nil || unsigned && (errors.Is(err, store.ErrUnsigned) || errors.Is(err, store.ErrUntrusted)) {
		return nil
	}
	return fmt.Errorf("%w: no tag of the store leads to it; `rempart master trust` believes a key, "+
		"--allow-unsigned does without", err)
}
