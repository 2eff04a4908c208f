package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/debian"
	"rempart/builder/image"
	"rempart/builder/master/store"
	"rempart/profiles"
)

// buildCommand is `rempart build`.
func buildCommand() *command {
	return &command{
		name:     "build",
		synopsis: "PROFILE --output DIR | --publish",
		summary:  "build a master from a profile",
		help: `
PROFILE is a file, the name of a built-in profile, or - for standard input. DIR will hold
  system.raw, system.qcow2   the read-only system disk, boots by BIOS and UEFI
  vmlinuz, initrd, cmdline   the same kernel for direct boot
  manifest.json              the digest of every region of the disk and every file of the root
  sbom.cdx.json              bill of materials (CycloneDX)
DIR appears whole or not at all; an older master in it stays until the new one is finished. Same profile, same lock
and same rempart give the same bytes on any machine.`,
		words: profiles.Builtin,
		files: true,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			output := flags.StringP("output", "o", "", "folder for the master")
			formats := flags.StringSlice("format", image.Formats(), "formats of the system disk")
			oneOf(flags, "format", image.Formats())
			publish := flags.Bool("publish", false, "put the master into the store, and tag it with its name")
			into := flags.String("store", "", "folder of the store; default: the user's own, or /var/lib/rempart/masters")
			size := flags.String("size", "", "size of the system disk, such as 256M; default: what the content needs")
			timings := flags.Bool("timings", false, "print how long each phase took")
			packages := packageFlags(flags)
			return func(ctx context.Context, c *console, args []string) error {
				if len(args) != 1 {
					return usageError{"want one profile"}
				}
				if *output == "" && !*publish {
					return usageError{"want --output DIR, or --publish"}
				}
				temporary := *output == ""
				if temporary {
					dir, err := os.MkdirTemp("", "rempart-build-")
					if err != nil {
						return err
					}
					defer os.RemoveAll(dir)
					*output = filepath.Join(dir, "master")
				}
				for _, f := range *formats {
					if !slices.Contains(image.Formats(), f) {
						return usageError{fmt.Sprintf("--format %s: want %s", f, strings.Join(image.Formats(), ", "))}
					}
				}
				var bytes int64
				if *size != "" {
					var err error
					if bytes, err = profiles.ParseSize(*size); err != nil {
						return usageError{"--size: " + err.Error()}
					}
				}
				p, err := profiles.Load(args[0])
				if err != nil {
					return err
				}
				warn(c, p)
				start := time.Now()
				plan, err := planMaster(ctx, c, p, packages, bytes)
				if err != nil {
					return err
				}
				if err := plan.Write(ctx, *output, *formats); err != nil {
					return err
				}
				if *timings {
					for _, phase := range plan.Phases {
						fmt.Fprintf(c.out, "%-10s %6.3f s\n", phase.Name, phase.Elapsed.Seconds())
					}
					fmt.Fprintf(c.out, "%-10s %6.3f s\n", "total", time.Since(start).Seconds())
				}
				m := plan.Manifest
				where := *output + ": "
				if temporary {
					where = ""
				}
				fmt.Fprintf(c.out, "%s%s for %s, %d packages, root %s\n", where, m.Master.Name, m.Master.Arch,
					len(m.Packages), m.Verity.RootHash[:16])
				for _, o := range m.Outputs {
					fmt.Fprintf(c.out, "  %-14s %7.1f MiB  sha256:%s\n", o.Name, float64(o.Size)/(1<<20), o.SHA256)
				}
				if *publish {
					return publishMaster(ctx, c, *into, *output)
				}
				return nil
			}
		},
	}
}

// publishMaster puts a master into the store.
func publishMaster(ctx context.Context, c *console, into, folder string) error {
	s, err := openStore(into)
	if err != nil {
		return err
	}
	m, err := s.Publish(ctx, folder)
	if err != nil {
		return err
	}
	name := m.Manifest.Master.Name
	if err := store.CheckTag(name); err != nil { // a name such as "cafe99", which would hide a digest
		fmt.Fprintf(c.out, "published as %.12s, without a tag: %v\n", m.Digest, err)
		return nil
	}
	if err := tag(c, s, m.Digest, name); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "published as %s, %.12s\n", name, m.Digest)
	return nil
}

// mirrorVar is the environment's choice of a mirror, for machines whose apt knows no Debian.
const mirrorVar = "REMPART_MIRROR"

// packageOptions say where Debian's packages come from.
type packageOptions struct {
	lock, mirror, security, arch *string
	renew                        *bool
}

func packageFlags(flags *pflag.FlagSet) packageOptions {
	o := packageOptions{
		lock: flags.String("lock", "", "lock file that pins the packages; default: the one built in"),
		mirror: flags.String("mirror", os.Getenv(mirrorVar),
			"URL or folder to take packages from; default: $"+mirrorVar+", or this machine's apt configuration"),
		security: flags.String("security-mirror", "",
			"the same for Debian's security archive; default: beside --mirror, or from apt"),
		arch: flags.String("arch", "amd64", "architecture of the guest: amd64 or arm64"),
		renew: flags.Bool("renew-lock", false,
			"when the mirror has forgotten a locked version, go on with a renewed lock, used this once"),
	}
	oneOf(flags, "arch", guestArches)
	return o
}

// planMaster fetches what the profile needs and joins it into a master that is not written yet.
func planMaster(ctx context.Context, c *console, p *profiles.Profile, o packageOptions, size int64) (*image.Plan,
	error) {
	if err := image.CheckArch(*o.arch); err != nil {
		return nil, err
	}
	var lock *debian.Lock
	var err error
	if *o.lock != "" {
		lock, err = debian.ReadLock(*o.lock)
	} else {
		lock, err = debian.DefaultLock(*o.arch)
	}
	if err != nil {
		return nil, err
	}
	if lock.Arch != *o.arch {
		return nil, usageError{fmt.Sprintf("the lock is for %s, the master for %s: give --arch %[1]s, or another --lock",
			lock.Arch, *o.arch)}
	}
	options := debian.Options{Mirror: *o.mirror, SecurityMirror: *o.security,
		Log: slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if c.terminal {
		options.Progress = debian.ProgressLine(c.err)
	}
	store, err := debian.OpenStore(options)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	root := debian.RootKernel(*o.arch)
	if p.Kernel == profiles.KernelFull {
		root = debian.RootKernelFull(*o.arch)
	}
	names, err := debian.Names(*o.arch, root, p.NeedsAuthorities())
	if err != nil {
		return nil, err
	}
	fetched, err := store.Fetch(ctx, lock, names...)
	if errors.Is(err, debian.ErrGone) && *o.renew {
		fmt.Fprintf(c.err, "rempart: WARNING: %v\n", err)
		if lock, err = store.Renew(ctx, lock.Suite, lock.Arch, lock); err != nil {
			return nil, err
		}
		fmt.Fprintf(c.err, "rempart: WARNING: the lock was renewed for this build only; "+
			"its bytes differ from a build with the lock. `rempart lock` renews it for good.\n")
		fetched, err = store.Fetch(ctx, lock, names...)
	}
	if err != nil {
		return nil, err
	}
	in := image.Inputs{Profile: p, Arch: *o.arch, Size: size}
	for _, pkg := range fetched {
		defer pkg.Close()
		entries, err := pkg.Entries()
		if err != nil {
			return nil, err
		}
		in.Packages = append(in.Packages, image.Package{
			Name: pkg.Name, Version: string(pkg.Version), Arch: pkg.Arch, SHA256: pkg.SHA256, Entries: entries,
		})
	}
	elapsed := time.Since(start)
	plan, err := image.NewPlan(ctx, in)
	if err != nil {
		return nil, err
	}
	plan.Phases = append([]image.Phase{{Name: "packages", Elapsed: elapsed}}, plan.Phases...)
	return plan, nil
}

// warn shows what a profile does that its owner may not mean.
func warn(c *console, p *profiles.Profile) {
	for _, w := range p.Warnings {
		fmt.Fprintf(c.err, "%s\n", w)
	}
}
