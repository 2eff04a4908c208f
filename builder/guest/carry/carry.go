// Package carry takes what a guest's owner declared as worth keeping over from an old state disk to a new one, when the
// guest is put back on its master: the files of declared places, each checked to be what the place is for. The old disk
// may be hostile: it is read by our own reader, from outside, and nothing of it is copied but names that match, sizes,
// times and bytes of regular files; directories, owners and modes of the new one are those the place is declared with.
//
// What it deliberately does not do: look into the files (who reads them in the guest must bear with anything), carry
// links, programs or what nobody declared, or change the old disk.
package carry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"

	"rempart/builder/disk/ext4"
	"rempart/firstboot/contract"
)

// Bounds of what is carried.
const (
	// The kept files may take this part of the new disk, and no more than maxKept bytes: a guest that was broken into
	// must fill neither the new one nor the host. Nor may it keep the new one from being made: that has room for all.
	partOfDisk = 2
	maxKept    = 1 << 30
)

// maxLeft bounds how many lines tell what was left behind.
const maxLeft = 200

// varDir is where a guest has its state disk mounted.
const varDir = "/var/"

// Check tells what is wrong with paths that are to be kept, below /var as in "lib/rempart/dhcp": each must be a place
// that the guest declares, and may have files in it.
func Check(keep []string) error {
	var errs []error
	for _, k := range keep {
		if p := place(k); p == nil || len(p.Files) == 0 {
			errs = append(errs, fmt.Errorf("%.200q cannot be kept: want one of %s%s", k, varDir,
				strings.Join(Places(), ", "+varDir)))
		}
	}
	return errors.Join(errs...)
}

// Places are those that can be kept.
func Places() []string {
	var all []string
	for _, p := range contract.StatePlaces() {
		if len(p.Files) > 0 {
			all = append(all, p.Path)
		}
	}
	return all
}

func place(path string) *contract.StatePlace {
	all := contract.StatePlaces()
	i := slices.IndexFunc(all, func(p contract.StatePlace) bool { return p.Path == path })
	if i < 0 {
		return nil
	}
	return &all[i]
}

// Carry makes the filesystem on a new state disk of size bytes, which is there and all zeros, with the files of the
// places to be kept from an old one of oldSize bytes. A disk that holds nothing yet, or cannot be read, gives an empty
// filesystem, as told by left: a line for each thing that was not taken over, and why. now is the time of the new
// filesystem.
func Carry(ctx context.Context, old io.ReaderAt, oldSize int64, to string, size int64, keep []string, now time.Time) (
	left []string, err error) {
	if err := Check(keep); err != nil {
		return nil, err
	}
	maxFiles, room := ext4.Room(size - tail)
	c := &carrier{ctx: ctx, left: []string{}, maxFiles: maxFiles, room: min(size/partOfDisk, maxKept, room),
		taken: map[string]bool{}}
	c.directories(keep, now)
	f, err := ext4.Open(old, oldSize)
	switch {
	case err == nil:
		for _, k := range keep {
			c.files(f, place(k))
		}
	case errors.Is(err, ext4.ErrNotExt4), errors.Is(err, ext4.ErrDamaged), errors.Is(err, ext4.ErrFeature):
		c.leave("", "the old state disk: %v", err)
	default:
		return nil, fmt.Errorf("old state disk: %w", err)
	}
	if err := c.write(to, size, now); err != nil {
		return c.left, fmt.Errorf("new state disk: %w", err)
	}
	return c.left, ctx.Err()
}

// carrier is one run of Carry.
type carrier struct {
	ctx      context.Context
	list     []ext4.NewFile
	left     []string
	taken    map[string]bool // paths of the list
	maxFiles int             // and directories
	room     int64
}

// add takes a file or directory onto the list.
func (c *carrier) add(n ext4.NewFile) {
	c.list, c.taken[n.Path] = append(c.list, n), true
	c.room -= ext4.Takes(n)
}

func (c *carrier) leave(name, format string, args ...any) {
	if len(c.left) == maxLeft {
		c.left = append(c.left, "and more")
	}
	if len(c.left) > maxLeft {
		return
	}
	if name != "" {
		name = fmt.Sprintf("/var/%.200s: ", name)
	}
	c.left = append(c.left, name+fmt.Sprintf(format, args...))
}

// directories are those of the places that are kept, and all above them, as declared.
func (c *carrier) directories(keep []string, now time.Time) {
	for _, p := range contract.StatePlaces() {
		below := func(k string) bool { return p.Path == "" || k == p.Path || strings.HasPrefix(k, p.Path+"/") }
		if slices.ContainsFunc(keep, below) {
			c.add(ext4.NewFile{Path: p.Path, Dir: true, Mode: permissions(uint32(p.Mode.Perm())),
				UID: uint32(p.Owner), GID: uint32(p.Owner), Modified: now})
		}
	}
}

func permissions(mode uint32) uint16 { return uint16(mode & 0o777) }

// files takes over those of one place.
func (c *carrier) files(f *ext4.FS, p *contract.StatePlace) {
	dir, err := f.Lookup(p.Path)
	if err != nil {
		c.leave(p.Path, "%v", err)
		return
	}
	if !dir.FileMode().IsDir() {
		c.leave(p.Path, "it is no directory")
		return
	}
	entries, err := f.ReadDir(dir)
	if err != nil {
		c.leave(p.Path, "%v", err) // what could be read of it follows
	}
	for _, e := range entries {
		if c.ctx.Err() != nil {
			return
		}
		if e.Name == "." || e.Name == ".." {
			continue
		}
		name := path.Join(p.Path, e.Name)
		if slices.ContainsFunc(contract.StatePlaces(), func(p contract.StatePlace) bool { return p.Path == name }) {
			continue // kept, or not, by itself
		}
		if why := c.file(f, p, e); why != "" {
			c.leave(name, "%s", why)
		}
	}
}

// file takes over one, or says why not.
func (c *carrier) file(f *ext4.FS, p *contract.StatePlace, e ext4.Entry) (why string) {
	if !matches(p.Files, e.Name) || strings.ContainsFunc(e.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "nothing declares a file of that name"
	}
	i, err := f.Inode(e.Inode)
	if err != nil {
		return err.Error()
	}
	mode := i.FileMode()
	switch {
	case !mode.IsRegular():
		return fmt.Sprintf("it is no regular file (%v)", mode)
	case mode.Perm()&^p.FileMode.Perm() != 0 || uint32(i.Mode)&0o7000 != 0:
		return fmt.Sprintf("its mode is %v, at most %v is declared", mode, p.FileMode)
	case i.UID != uint32(p.Owner) || i.GID != uint32(p.Owner):
		return fmt.Sprintf("it belongs to %d:%d, declared is %d:%[3]d", i.UID, i.GID, p.Owner)
	case i.Links != 1:
		return fmt.Sprintf("it has %d names", i.Links)
	case len(c.list) >= c.maxFiles:
		return fmt.Sprintf("there are more than %d files", c.maxFiles)
	case i.Size > ext4.MaxContent:
		return fmt.Sprintf("it has %d bytes, one file may have %d", i.Size, ext4.MaxContent)
	case ext4.Takes(ext4.NewFile{Size: i.Size}) > c.room:
		return fmt.Sprintf("it has %d bytes, of all that is kept %d are left", i.Size, c.room)
	}
	file, err := f.Open(i)
	if err != nil {
		return err.Error()
	}
	name := path.Join(p.Path, e.Name)
	if c.taken[name] {
		return "the directory has the name twice"
	}
	modified := i.Modified
	if modified.IsZero() || modified.Unix() < 0 {
		modified = time.Unix(0, 0)
	}
	c.add(ext4.NewFile{Path: name, Mode: permissions(uint32(mode.Perm())), UID: i.UID, GID: i.GID, Modified: modified,
		Size: i.Size, Content: io.NewSectionReader(file, 0, i.Size)})
	return ""
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	})
}

// tail is what is left free behind the filesystem, in bytes: there firstboot marks a format that is under way.
const tail = 1 << 20

// write makes the disk, which is on this machine's disk when it returns. Files whose bytes cannot be read are left out.
func (c *carrier) write(to string, size int64, now time.Time) error {
	o := ext4.Options{Size: size - tail, Label: contract.StateLabel, Time: now}
	for _, b := range [][]byte{o.UUID[:], o.HashSeed[:]} {
		if _, err := rand.Read(b); err != nil {
			return err
		}
	}
	o.UUID[6], o.UUID[8] = o.UUID[6]&0x0f|0x40, o.UUID[8]&0x3f|0x80 // random, RFC 9562 section 5.4
	c.list = slices.DeleteFunc(c.list, func(n ext4.NewFile) bool {
		if n.Dir || c.ctx.Err() != nil {
			return false
		}
		// Damage is found before anything is written.
		if _, err := io.Copy(io.Discard, n.Content); err != nil {
			c.leave(n.Path, "%v", err)
			return true
		}
		_, err := n.Content.(io.Seeker).Seek(0, io.SeekStart)
		return err != nil
	})
	if err := c.ctx.Err(); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = ext4.Make(f, o, c.list)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
