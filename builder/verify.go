package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"aead.dev/minisign"
	"github.com/spf13/pflag"

	"rempart/builder/disk/imagefile"
	"rempart/builder/files"
	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/running"
	"rempart/builder/guest/verify"
	"rempart/builder/master"
	"rempart/builder/master/store"
	"rempart/firstboot/contract/identity"
)

// verifyCommand is `rempart verify`.
func verifyCommand() *command {
	return &command{
		name:     "verify",
		synopsis: "GUEST | --master MASTER [IMAGE] [--state IMAGE]",
		summary:  "compare a guest's disks with its master and its profile, from outside",
		help: `
Reads every byte of the system disk and names the file, or the region and the place, that is not as the master has it;
and reads the state disk, naming whatever no part of the guest leaves there: programs, set-user-id, devices, attributes,
links that lead out, other owners; and the data disks, naming what could do harm there: set-user-id, devices, links that
lead out, and what may be executed where the profile does not say exec. Nothing is changed or mounted, no root is
needed, and nothing a guest wrote is believed. GUEST is one that "rempart create" made or "rempart run" started, or
the folder of its master; of one that runs only the system disk is read. Other disks are named by --master and the
files. A file is raw unless its name ends in .qcow2, .vmdk or .ova, or, of the system disk, --format says.

  --record keeps what lies on the state disk; --since, in a later look, tells what has changed since.
  --trust names the key that must have signed the master's manifest.
  --evidence writes the report, the changed bytes and the suspect files into one file; --key signs it.

Exit status: 0 all as it should be, 1 failed, 2 wrong usage, 3 something is not as it should be.`,
		words: guestNames,
		files: true,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			v := &verification{}
			flags.StringVar(&v.masterRef, "master", "", "folder of a master, or one of the store, to compare with")
			flags.StringVar(&v.store, "store", "", "folder of the store that --master means")
			flags.StringVar(&v.state, "state", "", "file of the state disk")
			flags.StringVar(&v.format, "format", "", "of the system disk: raw, qcow2, vmdk or ova;"+
				" default: what its name ends in")
			flags.BoolVar(&v.backing, "backing", false, "allow a qcow2 image to name files that it lies on")
			flags.StringVar(&v.since, "since", "", "file that --record wrote")
			flags.StringVar(&v.record, "record", "", "write what lies on the state disk to this file")
			flags.StringVar(&v.evidence, "evidence", "", "write the evidence to this file")
			flags.StringVar(&v.trust, "trust", "", "the manifest must be signed by this minisign public key;"+
				" default: it is told whether one that the store trusts signed it")
			flags.StringVar(&v.signing.file, "key", "", "sign the evidence with this minisign key, as FILE.minisig")
			flags.StringVar(&v.signing.password, "password-file", "", "file with the password of the key")
			flags.BoolVar(&v.json, "json", false, "print the report as JSON")
			return v.run
		},
	}
}

// verification is one call of `rempart verify`.
type verification struct {
	masterRef, store, state, format, since, record, evidence string
	trust                                                    string
	backing, json                                            bool
	signing                                                  signingKey

	image   string // system disk; empty: not looked at
	data    []dataDisk
	report  verify.Report
	release func() error // of a snapshot that is looked at; nil: there is none
	masters *store.Store
	kept    *store.Master // of masters; nil: the master is a folder that is in no store
}

func (v *verification) run(ctx context.Context, c *console, args []string) (err error) {
	if len(args) > 1 || v.masterRef == "" && len(args) == 0 {
		return usageError{"want the name of a guest, or --master and the files of its disks"}
	}
	if v.masterRef != "" && len(args) == 0 && v.state == "" {
		return usageError{"want the file of a system disk, --state with that of a state disk, or both"}
	}
	if v.signing.file != "" && v.evidence == "" {
		return usageError{"--key signs what --evidence writes: want both"}
	}
	var dir string
	if v.masterRef == "" && identity.IsHostname(args[0]) {
		if g, err := openCreated(args[0]); err == nil && g.Image != nil {
			if g, err = lockCreated(args[0], "rempart verify"); err != nil {
				return err
			}
			defer g.Unlock()
			return v.foreign(ctx, c, g)
		}
	}
	if v.masterRef == "" {
		var done func()
		if dir, done, err = v.ofGuest(ctx, c, args[0]); err != nil {
			return err
		}
		defer done()
		defer func() { err = v.released(err) }()
	} else {
		if dir, err = v.masterDir(); err != nil {
			return err
		}
		if len(args) == 1 {
			v.image = args[0]
		}
	}
	m, digest, err := store.Read(dir)
	if err != nil {
		return err
	}
	v.report.Master, v.report.Disk = digest, m.Disk.SHA256
	v.report.Taken = time.Now().UTC().Truncate(time.Second)
	if v.report.Signer, err = v.signer(dir); err != nil {
		return err
	}
	return v.disks(ctx, c, dir, m)
}

// released ends the snapshot that was looked at, if there is one. What was read of it holds if it was whole to its end:
// else that is what there is to say, and not that a difference was found.
func (v *verification) released(found error) error {
	if v.release == nil {
		return found
	}
	err := v.release()
	if err != nil && errors.Is(found, errDifferent) {
		return err
	}
	return errors.Join(found, err)
}

// ofGuest finds the disks of a guest, and the folder of its master: of one that was created, that runs, or that lies
// beside its master's folder.
func (v *verification) ofGuest(ctx context.Context, c *console, name string) (dir string, done func(), err error) {
	v.report.Guest = name
	done = func() {}
	if guest.IsMaster(name) || !identity.IsHostname(name) {
		return name, done, v.besideMaster(c, name, filepath.Base(filepath.Clean(name)))
	}
	g, err := lockCreated(name, "verify")
	switch {
	case err == nil:
		_, kept, err := masterOf(g)
		if err == nil {
			v.kept = kept
			v.masters, err = store.Open(g.Store)
		}
		if err == nil { // the last: it may make a snapshot, which whoever called ends
			err = v.created(ctx, c, g)
		}
		if err != nil {
			g.Unlock()
			return "", done, err
		}
		return kept.Dir, g.Unlock, nil
	case !errors.Is(err, home.ErrUnknown):
		return "", done, err
	}
	r, err := openGuest(name)
	if err == nil {
		v.runs(c)
		return r.Master, done, v.systemOf(r.Master)
	}
	if !errors.Is(err, running.ErrAbsent) {
		return "", done, err
	}
	if dir, _, err = keepDir(name); err != nil {
		return "", done, err
	}
	if !guest.IsMaster(dir) {
		return "", done, fmt.Errorf("there is no guest %s; name its disks: "+
			"`rempart verify --master MASTER IMAGE --state IMAGE`", name)
	}
	return dir, done, v.besideMaster(c, dir, name)
}

// created takes the disks of a guest that has a home, whose lock is held: it does not start meanwhile.
func (v *verification) created(ctx context.Context, c *console, g *home.Guest) error {
	m, _, err := masterOf(g)
	if err != nil {
		return err
	}
	system, err := systemDisk(g, m)
	if err != nil {
		return err
	}
	v.image, v.format = system.Path, string(system.Format)
	if err := v.dataOf(c, g, m); err != nil || v.state != "" || g.State == 0 {
		return err
	}
	state, release, err := stillState(ctx, g)
	if errors.Is(err, home.ErrRuns) {
		v.runs(c)
		return nil
	}
	v.state, v.release = state, release
	return err
}

// runs says why the state disk is not looked at.
func (v *verification) runs(c *console) {
	if v.state == "" {
		fmt.Fprintf(c.err, "%s runs: its state disk can be verified once it is stopped\n", v.report.Guest)
	}
}

// systemOf takes the system disk of a master, which its guests share.
func (v *verification) systemOf(dir string) error {
	m, err := guest.OpenMaster(dir)
	if err != nil {
		return err
	}
	system, err := m.System("")
	v.image, v.format = system.Path, string(system.Format)
	return err
}

// besideMaster takes the disks that `rempart run` lays beside the folder of a master.
func (v *verification) besideMaster(c *console, dir, name string) error {
	if !guest.IsMaster(dir) {
		return fmt.Errorf("%s is no folder of a master, and no name of a guest", dir)
	}
	if err := v.systemOf(dir); err != nil || v.state != "" {
		return err
	}
	m, err := guest.OpenMaster(dir)
	if err != nil {
		return err
	}
	for _, one := range []string{m.Profile.Name, name} {
		if r, err := openGuest(one); err == nil && sameFile(r.Master, dir) {
			v.runs(c)
			return nil
		}
		state := m.StatePath(one)
		_, err := os.Stat(state)
		if err == nil {
			v.state = state
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func sameFile(a, b string) bool {
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}

// masterDir finds the master that --master names: a folder, or one of the store.
func (v *verification) masterDir() (string, error) {
	if guest.IsMaster(v.masterRef) {
		return v.masterRef, nil
	}
	s, err := openStore(v.store)
	if err != nil {
		return "", err
	}
	one, err := s.Find(v.masterRef)
	if err != nil {
		return "", fmt.Errorf("--master %s is no folder of a master, and: %w", v.masterRef, err)
	}
	v.masters, v.kept = s, one
	return one.Dir, nil
}

// signer tells who signed the manifest in a folder, which all is compared with; empty: nobody who is trusted. Where a
// person names the key to trust, another's or none is an error.
func (v *verification) signer(dir string) (string, error) {
	if v.trust != "" {
		key, err := minisign.PublicKeyFromFile(v.trust)
		if err != nil {
			return "", fmt.Errorf("--trust %s: %w", v.trust, err)
		}
		name := fmt.Sprintf("%016X", key.ID())
		return name, store.SignedBy(dir, key)
	}
	if v.kept == nil {
		return "", nil // the folder of a master that is in no store
	}
	name, err := v.masters.Signer(v.kept)
	if errors.Is(err, store.ErrUnsigned) || errors.Is(err, store.ErrUntrusted) {
		return "", nil
	}
	return name, err
}

// disks verifies what there is, and tells.
func (v *verification) disks(ctx context.Context, c *console, dir string, m *master.Manifest) error {
	if v.state == "" && (v.since != "" || v.record != "") {
		return usageError{"--since and --record are about what lies on a state disk, and none is looked at"}
	}
	var system, state *verify.Disk
	if v.image != "" {
		image, err := imagefile.Open(ctx, v.image, imagefile.Options{Format: imagefile.Format(v.format), Backing: v.backing})
		if err != nil {
			return err
		}
		defer image.Close()
		system = &verify.Disk{ReaderAt: image, Size: image.Size()}
		if v.report.System, err = compareSystem(ctx, dir, v.image, m, system); err != nil {
			return err
		}
	}
	if v.state != "" {
		// A state disk is the guest's own: nothing on it may say that it is anything but raw.
		image, err := imagefile.Open(ctx, v.state, imagefile.Options{Backing: v.backing})
		if err != nil {
			return err
		}
		defer image.Close()
		last, err := v.last()
		if err != nil {
			return err
		}
		state = &verify.Disk{ReaderAt: image, Size: image.Size()}
		v.report.State, err = verify.InspectState(ctx, state, state.Size, verify.DefaultRules(), last)
		if err != nil {
			return fmt.Errorf("%s: %w", v.state, err)
		}
	}
	if err := v.lookAtData(ctx); err != nil {
		return err
	}
	if err := v.keep(ctx, c, system, state); err != nil {
		return err
	}
	if err := v.tell(c, m); err != nil {
		return err
	}
	if !v.report.Clean() {
		return errDifferent
	}
	return nil
}

// last reads the listing to compare with; nil: none.
func (v *verification) last() (*verify.Listing, error) {
	if v.since == "" {
		return nil, nil
	}
	f, err := os.Open(v.since)
	if err != nil {
		return nil, fmt.Errorf("--since: %w", err)
	}
	defer f.Close()
	l, err := verify.ReadListing(f)
	if err != nil {
		return nil, fmt.Errorf("--since %s: %w", v.since, err)
	}
	return l, nil
}

// keep writes the listing and the evidence that were asked for.
func (v *verification) keep(ctx context.Context, c *console, system, state *verify.Disk) error {
	if v.record != "" {
		b, err := v.report.State.Listing.Encode()
		if err != nil {
			return err
		}
		if err := files.Write(v.record, b, 0o600); err != nil {
			return err
		}
	}
	if v.evidence == "" {
		return nil
	}
	err := files.WriteFrom(v.evidence, 0o600, func(f *os.File) error {
		return verify.WriteEvidence(ctx, f, &v.report, system, state)
	})
	if err != nil || v.signing.file == "" {
		return err
	}
	return v.signing.sign(c, v.evidence)
}

// tellSigner prints who signed the manifest that all is compared with.
func tellSigner(c *console, signer string) {
	if signer != "" {
		fmt.Fprintf(c.out, "manifest: signed by %s\n", printable(signer))
	} else {
		fmt.Fprintln(c.out, "manifest: NOT signed by anybody trusted: it is believed because it lies on this machine")
	}
}

// tell prints the report. The listing is not printed: --record keeps it.
func (v *verification) tell(c *console, m *master.Manifest) error {
	if v.json {
		short := v.report
		if short.State != nil {
			state := *short.State
			state.Listing = nil
			short.State = &state
		}
		b, err := json.MarshalIndent(short, "", "  ")
		if err == nil {
			_, err = fmt.Fprintf(c.out, "%s\n", b)
		}
		return err
	}
	tellSigner(c, v.report.Signer)
	if s := v.report.System; s != nil {
		name := fmt.Sprintf("master %s, %.12s", printable(m.Master.Name), v.report.Master)
		if s.IsClean() {
			fmt.Fprintf(c.out, "system: identical to %s: %d bytes\n", name, s.Size)
		} else {
			fmt.Fprintf(c.out, "system: %s from %s\n", count(len(s.Differences), "difference"), name)
		}
		for _, d := range s.Differences {
			fmt.Fprintf(c.out, "  %s\n", printable(describe(d)))
		}
	}
	tellState(c, v.report.State)
	tellData(c, v.report.Data)
	return nil
}

// tellState prints what was found on a state disk.
func tellState(c *console, s *verify.State) {
	switch {
	case s == nil:
		return
	case s.Blank:
		fmt.Fprintln(c.out, "state: blank, no guest has used it")
		return
	case s.Compared:
		fmt.Fprintf(c.out, "state: %s, %d suspect, %s since\n", count(len(s.Listing.Entries), "file"), len(s.Suspects),
			count(len(s.Changes), "change"))
	default:
		fmt.Fprintf(c.out, "state: %s, %d suspect\n", count(len(s.Listing.Entries), "file"), len(s.Suspects))
	}
	tellSuspects(c, s.Suspects)
	for _, change := range s.Changes {
		fmt.Fprintf(c.out, "  /%s: %s\n", printable(change.Path), strings.Join(change.What, ", "))
	}
}

func tellSuspects(c *console, all []verify.Suspect) {
	for _, p := range all {
		fmt.Fprintf(c.out, "  SUSPECT /%s: %s\n", printable(p.Path), printable(strings.Join(p.Why, "; ")))
	}
}

func count(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}

// describe words a difference of a system disk.
func describe(d verify.Difference) string {
	words := []string{d.Kind}
	for _, w := range []string{d.Region, d.Path} {
		if w != "" {
			words = append(words, w)
		}
	}
	if d.Kind == verify.Added && d.Path == "" {
		return strings.Join(append(words, fmt.Sprintf("and %d more files", d.More)), " ")
	}
	var bytes int64
	var places []string
	for i, g := range d.Ranges {
		bytes += g.Length
		if i < shownRanges {
			places = append(places, fmt.Sprint(g.Offset))
		}
	}
	if rest := int64(len(d.Ranges)-len(places)) + d.More; rest > 0 {
		places = append(places, fmt.Sprintf("and %d more places", rest))
	}
	if len(places) > 0 {
		words = append(words, fmt.Sprintf("within %d bytes at %s", bytes, strings.Join(places, ", ")))
	}
	return strings.Join(words, " ")
}

// shownRanges bounds the places of one difference that are printed; the JSON has more.
const shownRanges = 5
