package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/disk/imagefile"
	"rempart/builder/disk/inside"
	"rempart/builder/files"
)

// diskCommand is `rempart disk`.
func diskCommand() *command {
	return &command{
		name:     "disk",
		synopsis: "VERB IMAGE[:PARTITION] [PATH...]",
		summary:  "look into a disk image without mounting it",
		help: `
IMAGE is a disk image or a block device; PARTITION its number or name. A file is raw unless its name ends in .qcow2,
.vmdk or .ova, or --format says. Files are read from ext2 to ext4, EROFS and FAT, by rempart's own readers: no root,
nothing is mounted or changed, and no link or backing file leads out of the image unless --backing allows the latter.

  ls IMAGE[:P] [PATH]     the partitions, or the files in a folder (-l more of each, -R all below)
  cat IMAGE:P PATH        the content of a file
  cp IMAGE:P PATH TO      copy a file or folder out; no devices, no set-user-id, no links that lead out
  df IMAGE[:P]            filesystems, their sizes and what is free
  diff IMAGE[:P] IMAGE[:P]  the files in which two differ; of whole disks, partition by partition
  stat IMAGE[:P] [PATH]   all that is known of an image or of a file in it

Exit status: 0 done, or no difference, 1 failed, 2 wrong usage, 3 diff found a difference.`,
		words: func() []string { return diskVerbs },
		files: true,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			d := &disks{}
			flags.StringVar(&d.format, "format", "", "of the images: raw, qcow2, vmdk or ova; default: what their names end in")
			flags.BoolVar(&d.o.Backing, "backing", false, "allow a qcow2 image to name files that it lies on")
			flags.StringVar(&d.o.Snapshot, "snapshot", "", "look at a snapshot within a qcow2 image, by ID or name")
			flags.BoolVarP(&d.long, "long", "l", false, "ls: mode, owner, size and time")
			flags.BoolVarP(&d.all, "recursive", "R", false, "ls: all that is below, too")
			flags.BoolVar(&d.json, "json", false, "ls, df, diff, stat: print as JSON")
			return d.run
		},
	}
}

var diskVerbs = []string{"ls", "cat", "cp", "df", "diff", "stat"}

// disks is one call of `rempart disk`.
type disks struct {
	format          string
	o               imagefile.Options
	long, all, json bool
}

func (d *disks) run(ctx context.Context, c *console, args []string) error {
	if len(args) == 0 {
		return usageError{"want one of " + strings.Join(diskVerbs, ", ")}
	}
	verb, args := args[0], args[1:]
	todo := map[string]struct {
		least, most int
		run         func(context.Context, *console, []string) error
	}{"ls": {1, 2, d.ls}, "cat": {2, 2, d.cat}, "cp": {3, 3, d.cp}, "df": {1, 1, d.df}, "diff": {2, 2, d.diff},
		"stat": {1, 2, d.stat}}[verb]
	if todo.run == nil {
		return usageError{fmt.Sprintf("unknown %q: want one of %s", verb, strings.Join(diskVerbs, ", "))}
	}
	if len(args) < todo.least || len(args) > todo.most {
		return usageError{fmt.Sprintf("disk %s: want %d to %d words after it, got %d", verb, todo.least, todo.most,
			len(args))}
	}
	if d.format != "" {
		f, err := imagefile.ParseFormat(d.format)
		if err != nil {
			return usageError{"--format: " + err.Error()}
		}
		d.o.Format = f
	}
	return todo.run(ctx, c, args)
}

// look is an image that is looked at, or a partition of it.
type look struct {
	image  *imagefile.Image
	which  string // of the partition; empty: none was named
	table  string
	parts  []inside.Partition
	damage error
	r      io.ReaderAt // of the partition, or of all
	size   int64
}

// open opens IMAGE[:PARTITION]. Who calls closes the image.
func (d *disks) open(ctx context.Context, word string) (l *look, err error) {
	path := word
	l = &look{}
	if _, err := os.Stat(word); errors.Is(err, fs.ErrNotExist) {
		if i := strings.LastIndexByte(word, ':'); i > 0 {
			path, l.which = word[:i], word[i+1:]
		}
	}
	if l.image, err = imagefile.Open(ctx, path, d.o); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", path, err), l.image.Close())
			l = nil
		}
	}()
	l.r, l.size = l.image, l.image.Size()
	if l.table, l.parts, l.damage, err = inside.Partitions(l.image, l.size); err != nil || l.which == "" {
		return l, err
	}
	p, err := inside.Find(l.parts, l.which)
	if err != nil {
		return l, err
	}
	l.r, l.size = p.Part(l.image), p.Size
	return l, nil
}

// volume is the filesystem of what was named.
func (l *look) volume(word string) (*inside.Volume, error) {
	v, err := inside.OpenVolume(l.r, l.size)
	if err != nil && l.which == "" && len(l.parts) > 0 {
		return nil, fmt.Errorf("%s has partitions: name one as %[1]s:NUMBER; `rempart disk ls %[1]s` lists them", word)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", word, err)
	}
	return v, nil
}

// listed is a file as `ls` and `diff` see it.
type listed struct {
	Path     string    `json:"path"`
	Mode     string    `json:"mode"`
	UID      uint32    `json:"uid"`
	GID      uint32    `json:"gid"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified,omitzero"`
	Target   string    `json:"target,omitempty"`
	SHA256   string    `json:"sha256,omitempty"`
}

func listedOf(v *inside.Volume, name string, i fs.FileInfo) listed {
	m := inside.MetaOf(i)
	l := listed{Path: name, Mode: i.Mode().String(), UID: m.UID, GID: m.GID, Size: i.Size(), Modified: i.ModTime()}
	switch {
	case i.IsDir():
		l.Size = 0
	case i.Mode()&fs.ModeSymlink != 0:
		l.Target, _ = v.ReadLink(name)
	case i.Mode()&fs.ModeDevice != 0:
		l.Target = fmt.Sprintf("%d:%d", m.Major, m.Minor)
	}
	return l
}

func (d *disks) ls(ctx context.Context, c *console, args []string) error {
	l, err := d.open(ctx, args[0])
	if err != nil {
		return err
	}
	defer l.image.Close()
	if len(args) == 1 && l.which == "" && len(l.parts) > 0 {
		return d.lsParts(c, l)
	}
	v, err := l.volume(args[0])
	if err != nil {
		return err
	}
	name := "."
	if len(args) == 2 {
		if name, err = inside.Resolve(v, args[1], true); err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
	}
	all, failed, err := d.files(ctx, v, name)
	if err != nil {
		return err
	}
	if d.json {
		return errors.Join(printJSON(c.out, all), failed)
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 1, ' ', tabwriter.AlignRight)
	for _, f := range all {
		shown := oneLine(f.Path)
		if f.Target != "" {
			shown += " -> " + oneLine(f.Target)
		}
		if d.long {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t", f.Mode, f.UID, f.GID, f.Size, f.Modified.Format("2006-01-02 15:04"))
		}
		fmt.Fprintf(w, " %s\n", shown)
	}
	return errors.Join(w.Flush(), failed)
}

// files lists what is in a folder, or a file; failed is what could not be read of it.
func (d *disks) files(ctx context.Context, v *inside.Volume, name string) (all []listed, failed, err error) {
	all = []listed{}
	var errs []error
	room := roomForNames
	err = v.Walk(name, func(at string, i fs.FileInfo, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if len(errs) < mostErrors {
				errs = append(errs, err)
			}
			return nil
		}
		if err := room.take(at); err != nil {
			return err
		}
		if at != name || !i.IsDir() {
			all = append(all, listedOf(v, at, i))
		}
		if at != name && i.IsDir() && !d.all {
			return inside.SkipDir
		}
		return nil
	})
	return all, errors.Join(errs...), err
}

// nameRoom is how many bytes are left for what is kept of the files of one image, which may be hostile: its names may
// be long, and many.
type nameRoom int64

// roomForNames is what a listing may take in bytes; fileRoom is what it takes of a file beside its name.
const (
	roomForNames nameRoom = 256 << 20
	fileRoom              = 256
)

func (n *nameRoom) take(name string) error {
	if *n -= nameRoom(len(name) + fileRoom); *n < 0 {
		return fmt.Errorf("%.80s: the names of the files take more than %d MiB; look at a folder below", name,
			roomForNames>>20)
	}
	return nil
}

// mostErrors bounds how many complaints about one image are printed.
const mostErrors = 20

func (d *disks) lsParts(c *console, l *look) error {
	type line struct {
		inside.Partition
		Kind  string `json:"holds"`
		Label string `json:"label,omitempty"`
	}
	lines := []line{}
	for _, p := range l.parts {
		one := line{Partition: p, Kind: "-"}
		if v, err := inside.OpenVolume(p.Part(l.image), p.Size); err == nil {
			one.Kind, one.Label = v.Kind, v.Label
		}
		lines = append(lines, one)
	}
	if d.json {
		return printJSON(c.out, lines)
	}
	if l.damage != nil {
		fmt.Fprintf(c.err, "the first partition table is damaged, the backup was read: %v\n", l.damage)
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PARTITION\tNAME\tOFFSET\tSIZE\tHOLDS\tLABEL")
	for _, p := range lines {
		fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%s\t%s\n", p.Number, oneLine(p.Name), p.Offset, p.Size, p.Kind, oneLine(p.Label))
	}
	return w.Flush()
}

// find opens an image and finds a file or folder in it: args are the image with the partition, and the path. The caller
// closes the image.
func (d *disks) find(ctx context.Context, args []string) (l *look, v *inside.Volume, name string, err error) {
	if l, err = d.open(ctx, args[0]); err != nil {
		return nil, nil, "", err
	}
	if v, err = l.volume(args[0]); err == nil {
		if name, err = inside.Resolve(v, args[1], true); err != nil {
			err = fmt.Errorf("%s: %w", args[0], err)
		}
	}
	if err != nil {
		l.image.Close()
		return nil, nil, "", err
	}
	return l, v, name, nil
}

func (d *disks) cat(ctx context.Context, c *console, args []string) error {
	l, v, name, err := d.find(ctx, args)
	if err != nil {
		return err
	}
	defer l.image.Close()
	f, err := v.Open(name)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	defer f.Close()
	_, err = io.Copy(c.out, files.Interruptible(ctx, f))
	return err
}

func (d *disks) df(ctx context.Context, c *console, args []string) error {
	l, err := d.open(ctx, args[0])
	if err != nil {
		return err
	}
	defer l.image.Close()
	type line struct {
		Partition int    `json:"partition,omitempty"`
		Name      string `json:"name,omitempty"`
		Kind      string `json:"kind"`
		Label     string `json:"label,omitempty"`
		Size      int64  `json:"size"`
		Used      int64  `json:"used"`
	}
	lines := []line{}
	look := func(p inside.Partition, r io.ReaderAt, size int64) error {
		v, err := inside.OpenVolume(r, size)
		if err != nil {
			return err
		}
		one := line{p.Number, p.Name, v.Kind, v.Label, 0, 0}
		one.Size, one.Used, err = v.Usage()
		lines = append(lines, one)
		return err
	}
	if l.which != "" || len(l.parts) == 0 {
		if err := look(inside.Partition{}, l.r, l.size); err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
	} else {
		for _, p := range l.parts {
			if err := look(p, p.Part(l.image), p.Size); err != nil && !errors.Is(err, inside.ErrNoVolume) {
				return fmt.Errorf("%s:%d: %w", args[0], p.Number, err)
			}
		}
	}
	if d.json {
		return printJSON(c.out, lines)
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PARTITION\tNAME\tHOLDS\tLABEL\tSIZE\tUSED\tFREE")
	for _, f := range lines {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%d\t%d\n", f.Partition, oneLine(f.Name), f.Kind, oneLine(f.Label), f.Size,
			f.Used, f.Size-f.Used)
	}
	return w.Flush()
}
