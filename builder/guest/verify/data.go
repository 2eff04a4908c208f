package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"rempart/builder/disk/ext4"
)

// Data is what was found on a data disk.
type Data struct {
	Name string `json:"name"`
	// Other says why the files of the disk were not looked at: it is blank, or carries something else than ext4, which a
	// guest leaves alone; empty: they were.
	Other    string    `json:"other,omitempty"`
	Ended    bool      `json:"unmounted"` // it was unmounted in order; if not, its journal was laid over it
	Files    int       `json:"files"`
	Suspects []Suspect `json:"suspects"`
}

// IsClean tells whether nothing is suspect.
func (d *Data) IsClean() bool { return len(d.Suspects) == 0 }

const (
	whyNoExec     = "executable, on a disk that the profile gives no exec"
	whyCapability = "a program that gives rights (security.capability)"
	capability    = "security.capability" // <linux/xattr.h>, XATTR_NAME_CAPS
)

// InspectData reads a data disk of size bytes and tells what on it could do harm in a guest that mounts it, or to who
// mounts it elsewhere: programs that give rights, devices, links that lead out and, unless exec allows them, files that
// may be executed. What the files hold, whose they are and what they are called is their owner's business. Whatever
// the disk holds, it ends: damage is told as a suspect. Errors are those of reading the disk.
func InspectData(ctx context.Context, name string, disk io.ReaderAt, size int64, exec bool) (*Data, error) {
	d := &Data{Name: name, Suspects: []Suspect{}}
	n := &inspection{ctx: ctx, state: &State{}, suspects: map[string]*Suspect{}, room: mostKept, left: size}
	f, err := ext4.Open(disk, size)
	switch {
	case errors.Is(err, ext4.ErrNotExt4):
		d.Other = "no ext4 filesystem"
		return d, nil
	case isDamage(err):
		n.suspect("", err.Error())
	case err != nil:
		return nil, fmt.Errorf("data disk %s: %w", name, err)
	default:
		n.f = f
		d.Ended = f.Info().Clean
		if err := n.data(d, exec); err != nil {
			return nil, fmt.Errorf("data disk %s: %w", name, err)
		}
	}
	for _, p := range n.order {
		d.Suspects = append(d.Suspects, *n.suspects[p])
	}
	return d, nil
}

func (n *inspection) data(d *Data, exec bool) error {
	if n.f.Info().FastCommits {
		n.suspect("", whyFastCommits)
	}
	err := n.f.Walk(func(name string, i *ext4.Inode, err error) error {
		if n.ctx.Err() != nil {
			return n.ctx.Err()
		}
		if n.room < 0 {
			return errRoom
		}
		shown := shownPath(name)
		if err != nil && !isDamage(err) {
			return err
		} else if err != nil {
			n.suspect(shown, err.Error())
			return nil
		}
		d.Files++
		defer n.mark(shown, i)
		return n.harmful(name, shown, i, exec)
	})
	return n.ended(err)
}

// harmful judges what one file of a data disk can do.
func (n *inspection) harmful(name, shown string, i *ext4.Inode, exec bool) error {
	mode := i.FileMode()
	switch {
	case mode&fs.ModeSymlink != 0:
		target, err := n.target(shown, i)
		if err == nil && leadsOut(name, target) {
			n.suspect(shown, whyOut)
		}
		return err
	case mode&fs.ModeDevice != 0:
		n.suspect(shown, fmt.Sprintf("%s, %d:%d", whyDevice, i.Major, i.Minor))
		return nil
	case !mode.IsRegular():
		return nil // of a folder set-group-id says whose new files are
	}
	if mode&fs.ModeSetuid != 0 {
		n.suspect(shown, whySetUID)
	}
	if mode&fs.ModeSetgid != 0 {
		n.suspect(shown, whySetGID)
	}
	if !exec && mode&0o111 != 0 {
		n.suspect(shown, whyNoExec)
	}
	all, err := n.f.Attributes(i)
	for _, a := range all {
		if a.Name == capability {
			n.suspect(shown, whyCapability)
		}
	}
	if err != nil && isDamage(err) {
		n.suspect(shown, err.Error())
		return nil
	}
	return err
}
