package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"

	"rempart/builder/disk/inside"
	"rempart/builder/files"
)

// fileDiff is a file in which two images differ.
type fileDiff struct {
	Partition int      `json:"partition,omitempty"`
	Path      string   `json:"path"`
	What      []string `json:"what"` // "added", "removed", or what is another
}

// String is the difference as a line for people.
func (f fileDiff) String() string {
	where := "/" + f.Path
	if f.Partition != 0 {
		where = fmt.Sprintf("%d:%s", f.Partition, where)
	}
	return fmt.Sprintf("%s: %v", where, f.What)
}

// diff compares two images by the files in them.
func (d *disks) diff(ctx context.Context, c *console, args []string) error {
	var looks [2]*look
	for i, word := range args {
		l, err := d.open(ctx, word)
		if err != nil {
			return err
		}
		defer l.image.Close()
		looks[i] = l
	}
	a, b := looks[0], looks[1]
	all := []fileDiff{}
	if a.which != "" || b.which != "" || len(a.parts) == 0 || len(b.parts) == 0 {
		va, err := a.volume(args[0])
		if err != nil {
			return err
		}
		vb, err := b.volume(args[1])
		if err != nil {
			return err
		}
		if all, err = diffVolumes(ctx, va, vb, 0); err != nil {
			return err
		}
	} else if err := diffParts(ctx, a, b, &all); err != nil {
		return err
	}
	if d.json {
		if err := printJSON(c.out, all); err != nil {
			return err
		}
	} else {
		for _, f := range all {
			fmt.Fprintln(c.out, oneLine(f.String()))
		}
	}
	if len(all) > 0 {
		return errDifferent
	}
	return nil
}

// diffParts compares two disks partition by partition.
func diffParts(ctx context.Context, a, b *look, all *[]fileDiff) error {
	numbers := map[int][2]*inside.Partition{}
	for side, l := range []*look{a, b} {
		for i, p := range l.parts {
			both := numbers[p.Number]
			both[side] = &l.parts[i]
			numbers[p.Number] = both
		}
	}
	for _, n := range slices.Sorted(maps.Keys(numbers)) {
		pa, pb := numbers[n][0], numbers[n][1]
		note := func(what ...string) { *all = append(*all, fileDiff{n, "", what}) }
		switch {
		case pa == nil:
			note("added")
			continue
		case pb == nil:
			note("removed")
			continue
		case pa.Type != pb.Type || pa.Name != pb.Name:
			note("type or name")
		}
		va, errA := inside.OpenVolume(pa.Part(a.image), pa.Size)
		vb, errB := inside.OpenVolume(pb.Part(b.image), pb.Size)
		if errA != nil || errB != nil {
			same, err := sameBytes(ctx, pa.Part(a.image), pb.Part(b.image))
			if err != nil {
				return err
			}
			if !same {
				note("content")
			}
			continue
		}
		more, err := diffVolumes(ctx, va, vb, n)
		if err != nil {
			return err
		}
		*all = append(*all, more...)
	}
	return nil
}

func sameBytes(ctx context.Context, a, b io.Reader) (bool, error) {
	var sums [2][sha256.Size]byte
	for i, r := range []io.Reader{a, b} {
		h := sha256.New()
		if _, err := io.Copy(h, files.Interruptible(ctx, r)); err != nil {
			return false, err
		}
		h.Sum(sums[i][:0])
	}
	return sums[0] == sums[1], nil
}

// diffVolumes compares two filesystems by the files in them.
func diffVolumes(ctx context.Context, a, b *inside.Volume, partition int) (all []fileDiff, err error) {
	before, err := contents(ctx, a)
	if err != nil {
		return nil, err
	}
	after, err := contents(ctx, b)
	if err != nil {
		return nil, err
	}
	all = []fileDiff{}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		now, was := after[name], before[name]
		_, both := before[name]
		delete(before, name)
		var what []string
		for _, f := range []struct {
			name    string
			differs bool
		}{{"added", !both}, {"mode", both && was.Mode != now.Mode},
			{"owner", both && (was.UID != now.UID || was.GID != now.GID)},
			{"unread", was.unread || now.unread},
			{"content", both && (was.Size != now.Size || was.SHA256 != now.SHA256)},
			{"target", both && was.Target != now.Target},
			{"attributes", both && was.attributes != now.attributes}} {
			if f.differs {
				what = append(what, f.name)
			}
		}
		if what != nil {
			all = append(all, fileDiff{partition, name, what})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		all = append(all, fileDiff{partition, name, []string{"removed"}})
	}
	return all, nil
}

// content is a file as diff compares it. One that cannot be read in full differs from every other: nobody knows what is
// in it.
type content struct {
	listed
	unread     bool
	attributes [sha256.Size]byte // digest of the extended attributes, capabilities among them
}

// contents lists a filesystem with the digests of its files. No more is read than the volume has room for.
func contents(ctx context.Context, v *inside.Volume) (map[string]content, error) {
	all := map[string]content{}
	left, room := v.Size, roomForNames
	err := v.Walk(".", func(name string, i fs.FileInfo, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := room.take(name); err != nil {
			return err
		}
		one := content{listed: listedOf(v, name, i)}
		var size int64
		if err == nil {
			one.attributes, size, err = attributesOf(v, name)
		}
		if i.Mode().IsRegular() {
			size += i.Size()
		}
		if left -= size; left < 0 {
			return fmt.Errorf("%s: the files together are larger than what they are on", name)
		}
		if err == nil && i.Mode().IsRegular() {
			one.SHA256, err = sumOf(ctx, v, name)
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			one.unread = true
		}
		all[name] = one
		return nil
	})
	return all, err
}

// attributesOf is the digest of a file's extended attributes, and their size in bytes.
func attributesOf(v *inside.Volume, name string) (sum [sha256.Size]byte, size int64, err error) {
	i, err := v.Lstat(name)
	if err != nil {
		return sum, 0, err
	}
	h := sha256.New()
	all := inside.MetaOf(i).Attributes
	for _, key := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(h, "%q %d ", key, len(all[key]))
		h.Write(all[key])
		size += int64(len(key) + len(all[key]))
	}
	return [sha256.Size]byte(h.Sum(nil)), size, inside.MetaOf(i).Unread
}

func sumOf(ctx context.Context, v *inside.Volume, name string) (string, error) {
	f, err := v.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, files.Interruptible(ctx, f)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// imageStat is what is known of an image.
type imageStat struct {
	Format     string             `json:"format"`
	Size       int64              `json:"size"`  // of the disk, bytes
	Files      []string           `json:"files"` // the image's own, then those it lies on
	Snapshots  []snapshotStat     `json:"snapshots,omitempty"`
	Table      string             `json:"table"` // of partitions: "gpt", "mbr", "none"
	Partitions []inside.Partition `json:"partitions,omitempty"`
	Holds      string             `json:"holds,omitempty"` // the filesystem of a partition, or of a disk without a table
	Label      string             `json:"label,omitempty"`
}

type snapshotStat struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Taken string `json:"taken"`
	Size  int64  `json:"size"`
}

// fileStat is what is known of a file.
type fileStat struct {
	listed
	Inode      uint64            `json:"inode,omitempty"`
	Links      uint32            `json:"links"`
	Attributes map[string]string `json:"attributes,omitempty"` // values in hex
}

func (d *disks) stat(ctx context.Context, c *console, args []string) error {
	l, err := d.open(ctx, args[0])
	if err != nil {
		return err
	}
	defer l.image.Close()
	if len(args) == 1 {
		s := imageStat{Format: string(l.image.Format), Size: l.size, Files: l.image.Files, Table: l.table,
			Partitions: l.parts}
		for _, one := range l.image.Snapshots {
			s.Snapshots = append(s.Snapshots, snapshotStat{one.ID, one.Name, one.Taken.Format("2006-01-02 15:04:05"), one.Size})
		}
		v, err := inside.OpenVolume(l.r, l.size)
		if err == nil {
			s.Holds, s.Label = v.Kind, v.Label
		} else if !errors.Is(err, inside.ErrNoVolume) {
			return err
		}
		return d.show(c, s)
	}
	v, err := l.volume(args[0])
	if err != nil {
		return err
	}
	name, err := inside.Resolve(v, args[1], false)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	i, err := v.Lstat(name)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	m := inside.MetaOf(i)
	if m.Unread != nil {
		return fmt.Errorf("%s: attributes of %s: %w", args[0], name, m.Unread)
	}
	s := fileStat{listed: listedOf(v, name, i), Inode: m.Inode, Links: m.Links}
	if i.Mode().IsRegular() {
		if s.SHA256, err = sumOf(ctx, v, name); err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
	}
	for key, value := range m.Attributes {
		if s.Attributes == nil {
			s.Attributes = map[string]string{}
		}
		s.Attributes[key] = hex.EncodeToString(value)
	}
	return d.show(c, s)
}

// show prints what is known of one thing: as JSON, or the same as lines of words.
func (d *disks) show(c *console, s any) error {
	if d.json {
		return printJSON(c.out, s)
	}
	return printFields(c.out, s)
}
