package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"rempart/builder/files"
	"rempart/builder/guest"
	"rempart/builder/master/store"
)

// masterCommand is `rempart master`.
func masterCommand() *command {
	return &command{
		name:     "master",
		synopsis: "VERB [REF...]",
		summary:  "keep, compare, sign and move masters",
		help: `
REF is a tag, or the first 6 and more digits of a master's digest. "rempart build --publish" puts a master into the
store, where it never changes, and tags it with its name.

  list                 the masters there are: digest, name, tags, kernel, who signed
  show REF             the manifest of one, as JSON
  diff REF REF         the packages, settings, files and policy in which two differ, and what that does to packets
  verify REF           read every byte of one again, and check who signed it
  tag REF TAG          make a tag mean a master, whatever it meant; untag TAG takes it away
  rm REF               take a master out, with its tags
  prune                take out all that no tag means and no guest uses
  sign REF --key FILE  sign one with a minisign key; its password is asked for, or read from --password-file
  trust NAME --key F   believe signatures of a minisign public key from now on; without words: the keys trusted
  export REF FILE      write one as a single file (tar, zstd); - is standard output
  import FILE          read what export wrote; - is standard input
  image FILE           take in the disk of another system, as "rempart create --image" does, tagged with the file's name

Exit status: 0 done, or no difference, 1 failed, 2 wrong usage, 3 diff or verify found a difference.`,
		words: func() []string { return masterVerbs },
		files: true,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			var m masters
			flags.StringVar(&m.dir, "store", "", "folder of the store; default: the user's own, or /var/lib/rempart/masters")
			flags.BoolVar(&m.json, "json", false, "list, diff: print as JSON")
			flags.BoolVar(&m.pretend, "dry-run", false, "prune: only tell what would go")
			flags.StringVar(&m.key, "key", "", "sign, trust: file with the key")
			flags.StringVar(&m.password, "password-file", "", "sign: file with the password of the key")
			flags.BoolVar(&m.unsigned, "allow-unsigned", false, "verify, import: take one that no trusted key signed")
			m.image = imageFlags(flags)
			return m.run
		},
	}
}

// masters is one call of `rempart master`.
type masters struct {
	dir, key, password      string
	json, pretend, unsigned bool
	image                   imageOptions
	store                   *store.Store
}

var masterVerbs = []string{"list", "show", "diff", "verify", "tag", "untag", "rm", "prune", "sign", "trust", "export",
	"import", "image"}

func (m *masters) run(ctx context.Context, c *console, args []string) error {
	if len(args) == 0 {
		return usageError{"want one of " + strings.Join(masterVerbs, ", ")}
	}
	verb, args := args[0], args[1:]
	todo := map[string]struct {
		words int
		run   func(context.Context, *console, []string) error
	}{"list": {0, m.list}, "show": {1, m.show}, "diff": {2, m.diff}, "verify": {1, m.verify}, "tag": {2, m.tag},
		"untag": {1, m.untag}, "rm": {1, m.remove}, "prune": {0, m.prune}, "sign": {1, m.sign}, "trust": {-1, m.trust},
		"export": {2, m.export}, "import": {1, m.importOne}, "image": {1, m.takeImage}}[verb]
	if todo.run == nil {
		return usageError{fmt.Sprintf("unknown %q: want one of %s", verb, strings.Join(masterVerbs, ", "))}
	}
	if todo.words >= 0 && len(args) != todo.words {
		return usageError{fmt.Sprintf("master %s: want %d words after it, got %d", verb, todo.words, len(args))}
	}
	var err error
	if m.store, err = openStore(m.dir); err != nil {
		return err
	}
	return todo.run(ctx, c, args)
}

// openStore opens the store in a folder, or the default one.
func openStore(dir string) (*store.Store, error) {
	if dir == "" {
		var err error
		if dir, err = store.DefaultDir(); err != nil {
			return nil, err
		}
	}
	return store.Open(dir)
}

func (m *masters) list(_ context.Context, c *console, _ []string) error {
	type line struct {
		Digest   string   `json:"digest"`
		Name     string   `json:"name"`
		Tags     []string `json:"tags"`
		Arch     string   `json:"arch"`
		Kernel   string   `json:"kernel"`
		Packages int      `json:"packages"`
		Signer   string   `json:"signer,omitempty"` // trusted key; empty: none
	}
	all, err := m.store.List()
	lines := []line{}
	for _, one := range all {
		signer, _ := m.store.Signer(one)
		// Anybody may have written a manifest that was imported.
		lines = append(lines, line{one.Digest, printable(one.Manifest.Master.Name), append([]string{}, one.Tags...),
			printable(one.Manifest.Master.Arch), printable(one.Manifest.Master.Kernel), len(one.Manifest.Packages), signer})
	}
	if m.json {
		return errors.Join(printJSON(c.out, lines), err)
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "DIGEST\tNAME\tTAGS\tKERNEL\tSIGNED BY")
	for _, l := range lines {
		if l.Signer == "" {
			l.Signer = "nobody trusted"
		}
		fmt.Fprintf(w, "%.12s\t%s\t%s\t%s\t%s\n", l.Digest, l.Name, strings.Join(l.Tags, " "), l.Kernel, l.Signer)
	}
	return errors.Join(w.Flush(), err)
}

func (m *masters) show(_ context.Context, c *console, args []string) error {
	one, err := m.store.Find(args[0])
	if err != nil {
		return err
	}
	return printJSON(c.out, one.Manifest)
}

func (m *masters) diff(_ context.Context, c *console, args []string) error {
	from, err := m.store.Find(args[0])
	if err != nil {
		return err
	}
	to, err := m.store.Find(args[1])
	if err != nil {
		return err
	}
	said, err := profileDiff(from, to)
	if err != nil {
		return err
	}
	all := append(store.Diff(from.Manifest, to.Manifest), said...)
	if m.json {
		if err := printJSON(c.out, append([]store.Difference{}, all...)); err != nil {
			return err
		}
	} else {
		for _, d := range all {
			d.Name, d.Before, d.After = printable(d.Name), printable(d.Before), printable(d.After)
			switch {
			case d.Before+d.After == "":
				fmt.Fprintf(c.out, "%s %s\n", d.Kind, d.Name)
			case d.Before == "":
				fmt.Fprintf(c.out, "+ %s %s: %s\n", d.Kind, d.Name, d.After)
			case d.After == "":
				fmt.Fprintf(c.out, "- %s %s: %s\n", d.Kind, d.Name, d.Before)
			default:
				fmt.Fprintf(c.out, "~ %s %s: %s, was %s\n", d.Kind, d.Name, d.After, d.Before)
			}
		}
	}
	if len(all) > 0 {
		return errDifferent
	}
	return nil
}

// profileDiff tells what the profiles of two masters say differently, and what that does to packets. Another system's
// disk has none.
func profileDiff(from, to *store.Master) (all []store.Difference, err error) {
	a, b := from.Manifest, to.Manifest
	if a.Image != nil || b.Image != nil || a.Master.Profile == b.Master.Profile {
		return nil, nil
	}
	var both [2]*guest.Master
	for i, one := range []*store.Master{from, to} {
		if both[i], err = guest.OpenMaster(one.Dir); err != nil {
			return nil, err
		}
	}
	d, err := compare(both[0].Profile, both[1].Profile)
	if err != nil {
		return nil, err
	}
	for _, l := range d.lines {
		one := store.Difference{Kind: "profile", Name: l.section, Before: l.text}
		if l.side == '+' {
			one.Before, one.After = "", l.text
		}
		all = append(all, one)
	}
	for _, f := range d.flows {
		all = append(all, store.Difference{Kind: "flow", Name: f})
	}
	return all, nil
}

func (m *masters) verify(ctx context.Context, c *console, args []string) error {
	one, err := m.store.Find(args[0])
	if err == nil {
		err = m.store.Verify(ctx, one)
	}
	if errors.Is(err, store.ErrChanged) {
		fmt.Fprintln(c.out, err)
		return errDifferent
	}
	if err != nil {
		return err
	}
	signer, err := m.store.Signer(one)
	switch {
	case err == nil:
		fmt.Fprintf(c.out, "%s: every byte as its manifest says, signed by %s\n", one.Digest, signer)
	case m.unsigned && (errors.Is(err, store.ErrUnsigned) || errors.Is(err, store.ErrUntrusted)):
		fmt.Fprintf(c.out, "%s: every byte as its manifest says; nobody trusted signed it\n", one.Digest)
	default:
		return fmt.Errorf("every byte is as the manifest says, but: %w; `rempart master sign` signs, `rempart master trust`"+
			" believes a key, --allow-unsigned does without", err)
	}
	return nil
}

func (m *masters) tag(_ context.Context, c *console, args []string) error {
	return tag(c, m.store, args[0], args[1])
}

// tag makes a tag mean a master, and says what it meant before.
func tag(c *console, s *store.Store, ref, name string) error {
	before, err := s.Tag(ref, name)
	if err == nil && before != "" {
		fmt.Fprintf(c.err, "rempart: the tag %s meant master %.12s before; `rempart master tag %[2]s TAG` gives it another\n",
			name, before)
	}
	return err
}

func (m *masters) untag(_ context.Context, _ *console, args []string) error {
	return m.store.Untag(args[0])
}

func (m *masters) remove(_ context.Context, _ *console, args []string) error {
	return m.store.Remove(args[0], usersOf(m.store))
}

func (m *masters) prune(_ context.Context, c *console, _ []string) error {
	gone, freed, err := m.store.Prune(usersOf(m.store), m.pretend)
	for _, one := range gone {
		fmt.Fprintf(c.out, "%.12s %s\n", one.Digest, printable(one.Manifest.Master.Name))
	}
	if err != nil {
		return err
	}
	word := "gone"
	if m.pretend {
		word = "would go"
	}
	fmt.Fprintf(c.out, "%d masters %s, %.1f MiB free\n", len(gone), word, float64(freed)/(1<<20))
	return nil
}

func (m *masters) sign(_ context.Context, c *console, args []string) error {
	if m.key == "" {
		return usageError{"master sign: want --key FILE"}
	}
	one, err := m.store.Find(args[0])
	if err != nil {
		return err
	}
	key, err := signingKey{m.key, m.password}.read(c)
	if err != nil {
		return fmt.Errorf("key %s: %w", m.key, err)
	}
	return m.store.Sign(one, key)
}

func (m *masters) trust(_ context.Context, c *console, args []string) error {
	if len(args) == 0 {
		keys, err := m.store.Trusted()
		for name, key := range keys {
			fmt.Fprintf(c.out, "%s %s\n", name, key)
		}
		return err
	}
	if len(args) != 1 || m.key == "" {
		return usageError{"master trust: want NAME --key FILE, or nothing to see the keys"}
	}
	text, err := os.ReadFile(m.key)
	if err != nil {
		return err
	}
	return m.store.Trust(args[0], text)
}

func (m *masters) export(ctx context.Context, c *console, args []string) error {
	one, err := m.store.Find(args[0])
	if err != nil {
		return err
	}
	if args[1] == "-" {
		return m.store.Export(ctx, one, c.out)
	}
	return files.WriteFrom(args[1], 0o644, func(f *os.File) error { return m.store.Export(ctx, one, f) })
}

func (m *masters) importOne(ctx context.Context, c *console, args []string) error {
	in := c.in
	if args[0] != "-" {
		file, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	one, err := m.store.Import(ctx, in)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	signer, err := m.store.Signer(one)
	if err != nil && !m.unsigned {
		// It is in the store by its digest, but no tag leads to it.
		return fmt.Errorf("%w: it has no tag; give it one with `rempart master tag %.12s TAG` if you trust it all the same,"+
			" or call import with --allow-unsigned", err, one.Digest)
	}
	if err := tag(c, m.store, one.Digest, one.Manifest.Master.Name); err != nil {
		return err
	}
	by := "signed by " + signer
	if signer == "" {
		by = "nobody trusted signed it"
	}
	fmt.Fprintf(c.out, "%s %s, %s\n", one.Digest, one.Manifest.Master.Name, by)
	return nil
}

func (m *masters) takeImage(ctx context.Context, c *console, args []string) error {
	_, err := m.image.take(ctx, c, m.store, args[0], nil)
	return err
}
