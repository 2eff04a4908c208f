package verify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"rempart/builder/disk"
	"rempart/builder/disk/ext4"
	"rempart/firstboot/contract"
)

// Rules say what may be on a state disk.
type Rules struct {
	Label  string // of the filesystem
	Places []contract.StatePlace
	Links  []contract.StateLink
}

// DefaultRules are those of every guest.
func DefaultRules() Rules {
	return Rules{Label: contract.StateLabel, Places: contract.StatePlaces(), Links: contract.StateLinks()}
}

// State is what was found on a state disk.
type State struct {
	Blank    bool      `json:"blank,omitempty"` // nothing but zeros: no guest has used it yet
	Ended    bool      `json:"unmounted"`       // it was unmounted in order; if not, its journal was laid over it
	Suspects []Suspect `json:"suspects"`
	Changes  []Change  `json:"changes"` // since the listing that it was compared with; not suspect by themselves
	Compared bool      `json:"compared"`
	Listing  *Listing  `json:"listing"`
}

// Suspect is something on a state disk that should not be there.
type Suspect struct {
	Path string   `json:"path"` // below StateDir, as Entry has it; empty: the disk itself
	Why  []string `json:"why"`
	// Inode of the file, by which the evidence has its content; 0: it is none.
	Inode uint32 `json:"inode,omitempty"`
}

// Change is something that is not as it was.
type Change struct {
	Path string   `json:"path"`
	What []string `json:"what"` // "added", "removed", or what is another: "content", "mode", "owner", "target"
}

// IsClean tells whether nothing is suspect.
func (s *State) IsClean() bool { return len(s.Suspects) == 0 }

// Reasons why something is suspect.
const (
	whyUndeclared = "nothing declares it"
	whyProgram    = "a program that no volume declares"
	whyExecutable = "executable, which no volume declares"
	whySetUID     = "set-user-id"
	whySetGID     = "set-group-id"
	whyDevice     = "a device"
	whySpecial    = "a pipe or socket"
	whyOut        = "a link that leads out"
	whyHardLink   = "a second name of a file"
	whyFlag       = "made unchangeable by a flag"
	whyUnread     = "larger than the disk has room for: its content was not read"
	whyNameless   = "a file that no name leads to"
	// What a kernel would replay from there is not read, so that it could put anything on the disk at the next start.
	whyFastCommits = "fast commits are switched on: what they hold was not read"
)

// inspection is one run of InspectState.
type inspection struct {
	ctx      context.Context
	f        *ext4.FS
	rules    Rules
	places   map[string]*contract.StatePlace
	held     map[string]bool // files that the guest's kernel makes immutable
	links    map[string]string
	state    *State
	suspects map[string]*Suspect
	order    []string
	seen     map[uint32]string // by inode: the first path
	left     int64             // bytes of content that may still be read: no disk holds more than its size
	room     int64             // bytes of memory that the listing and the suspects may still take
	foreign  map[string]bool   // directories that nothing declares
}

// InspectState reads a state disk of size bytes and tells what on it nothing declares, and what changed since last; a
// nil one compares with nothing. Whatever the disk holds, it ends: damage is told as a suspect, not as an error. Errors
// are those of reading the disk.
func InspectState(ctx context.Context, disk io.ReaderAt, size int64, rules Rules, last *Listing) (*State, error) {
	n := &inspection{ctx: ctx, rules: rules, places: map[string]*contract.StatePlace{}, held: map[string]bool{},
		links:    map[string]string{},
		state:    &State{Suspects: []Suspect{}, Changes: []Change{}, Listing: &Listing{Format: listingFormat}},
		suspects: map[string]*Suspect{}, seen: map[uint32]string{}, left: size, room: mostKept, foreign: map[string]bool{}}
	for i := range rules.Places {
		p := &rules.Places[i]
		n.places[p.Path] = p
		if p.Held != "" {
			n.held[path.Join(p.Path, p.Held)] = true
		}
	}
	n.places[lostFound] = &contract.StatePlace{Path: lostFound, Mode: 0o700}
	for _, l := range rules.Links {
		n.links[l.Path] = l.Target
	}
	if err := n.run(disk, size); err != nil {
		return nil, fmt.Errorf("state disk: %w", err)
	}
	for _, p := range n.order {
		n.state.Suspects = append(n.state.Suspects, *n.suspects[p])
	}
	if last != nil {
		n.state.Compared = true
		n.state.Changes = last.Compare(n.state.Listing)
	}
	return n.state, nil
}

// lostFound is what mke2fs makes for e2fsck.
const lostFound = "lost+found"

// bootBlock is what of an ext4 filesystem lies before the superblock: nobody writes there but who boots from it.
const bootBlock = 1024

func (n *inspection) run(disk io.ReaderAt, size int64) error {
	f, err := ext4.Open(disk, size)
	switch {
	case errors.Is(err, ext4.ErrNotExt4):
		blank, err := zero(n.ctx, disk, 0, size)
		if n.state.Blank = blank; !blank && err == nil {
			n.suspect("", "no ext4 filesystem, and not blank")
		}
		return err
	case errors.Is(err, ext4.ErrDamaged) || errors.Is(err, ext4.ErrFeature):
		n.suspect("", err.Error())
		return nil
	case err != nil:
		return err
	}
	n.f = f
	info := f.Info()
	n.state.Ended = info.Clean
	if info.Label != n.rules.Label {
		n.suspect("", fmt.Sprintf("the filesystem is labelled %q, not %q", info.Label, n.rules.Label))
	}
	if info.FastCommits {
		n.suspect("", whyFastCommits)
	}
	if info.Errors {
		n.suspect("", "the guest's kernel has found errors in the filesystem")
	}
	for _, hidden := range []struct {
		from, to int64
		what     string
	}{{0, bootBlock, "something is in the boot block"},
		{int64(info.Blocks) * info.BlockSize, size, "something is behind the end of the filesystem"}} {
		empty, err := zero(n.ctx, disk, hidden.from, hidden.to)
		if err != nil {
			return err
		}
		if !empty {
			n.suspect("", hidden.what)
		}
	}
	if err := n.walk(); err != nil {
		return err
	}
	return n.nameless()
}

// zero tells whether bytes of a disk are all zero.
func zero(ctx context.Context, r io.ReaderAt, from, to int64) (bool, error) {
	const chunk = 256 << 10
	buf, zeros := make([]byte, chunk), make([]byte, chunk)
	for at := from; at < to; at += chunk {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		b := buf[:min(chunk, to-at)]
		if err := disk.ReadFull(r, b, at); err != nil {
			return false, err
		}
		if !bytes.Equal(b, zeros[:len(b)]) {
			return false, nil
		}
	}
	return true, nil
}

// mostKept bounds the memory that the listing and the suspects take, in bytes: files with the longest paths a hostile
// disk can have, and names of files that cannot be read, cost it next to nothing. keptEach is what each takes besides
// its text.
const (
	mostKept = 256 << 20
	keptEach = 300
)

// errRoom is told when there is more on a disk than is kept.
var errRoom = errors.New("more files than are listed")

func (n *inspection) walk() error {
	err := n.f.Walk(func(name string, i *ext4.Inode, err error) error {
		if n.ctx.Err() != nil {
			return n.ctx.Err()
		}
		shown := shownPath(name)
		// The name itself is kept once more for a folder that nothing declares.
		if n.room -= keptEach + int64(len(name)+len(shown)); n.room < 0 {
			return errRoom
		}
		if err != nil {
			if !isDamage(err) {
				return err
			}
			n.suspect(shown, err.Error())
			return nil
		}
		return n.file(name, shown, i)
	})
	return n.ended(err)
}

// isDamage tells what is wrong with the filesystem from what is wrong with reading it.
func isDamage(err error) bool {
	return errors.Is(err, ext4.ErrDamaged) || errors.Is(err, ext4.ErrFeature)
}

// file judges one file and lists it.
func (n *inspection) file(name, shown string, i *ext4.Inode) error {
	mode := i.FileMode()
	e := Entry{Path: shown, Mode: mode.String(), UID: i.UID, GID: i.GID, Size: i.Size, Modified: i.Modified}
	if mode.IsDir() {
		e.Size = 0 // of the directory's own blocks: it says nothing
	}
	n.declared(name, shown, i)
	n.special(shown, i)
	defer n.mark(shown, i)
	switch {
	case mode&fs.ModeSymlink != 0:
		target, err := n.target(shown, i)
		if err != nil {
			return err
		}
		e.Target = shownPath(target)
		n.room -= int64(len(e.Target))
		if n.links[name] != target && leadsOut(name, target) {
			n.suspect(shown, whyOut)
		}
	case mode&fs.ModeDevice != 0:
		e.Target = fmt.Sprintf("%d:%d", i.Major, i.Minor)
	case mode.IsRegular():
		if first, again := n.seen[i.Number]; again {
			n.suspect(shown, fmt.Sprintf("%s: %s", whyHardLink, first))
			break
		}
		if err := n.content(shown, i, &e); err != nil {
			return err
		}
	}
	if _, again := n.seen[i.Number]; !again {
		n.seen[i.Number] = shown
		if err := n.attributes(shown, i); err != nil {
			return err
		}
	}
	n.state.Listing.Entries = append(n.state.Listing.Entries, e)
	return nil
}

// declared judges where a file is, whose it is and what it allows.
func (n *inspection) declared(name, shown string, i *ext4.Inode) {
	mode := i.FileMode()
	wrong := func(want fs.FileMode, owner int) {
		if mode != want {
			n.suspect(shown, fmt.Sprintf("%v; it should be %v", mode, want))
		}
		if int(i.UID) != owner || int(i.GID) != owner {
			n.suspect(shown, fmt.Sprintf("of user %d, group %d; it should be of %d", i.UID, i.GID, owner))
		}
	}
	if p := n.places[name]; p != nil {
		wrong(p.Mode|fs.ModeDir, p.Owner)
		return
	}
	if target, ok := n.links[name]; ok {
		if got, err := n.f.Readlink(i); err != nil || got != target {
			n.suspect(shown, fmt.Sprintf("it should be a link to %s", target))
		}
		return
	}
	dir := path.Dir(name)
	if dir == "." {
		dir = ""
	}
	if n.foreign[dir] {
		n.foreign[name] = mode.IsDir()
		return // the directory is told
	}
	p := n.places[dir]
	if p == nil || !mode.IsRegular() || !slices.ContainsFunc(p.Files, func(pattern string) bool {
		ok, err := path.Match(pattern, path.Base(name))
		return ok && err == nil
	}) {
		n.suspect(shown, whyUndeclared)
		n.foreign[name] = mode.IsDir()
		return
	}
	wrong(mode&p.FileMode, p.Owner)
}

// special judges what a file can do.
func (n *inspection) special(shown string, i *ext4.Inode) {
	mode := i.FileMode()
	if mode&fs.ModeSetuid != 0 {
		n.suspect(shown, whySetUID)
	}
	if mode&fs.ModeSetgid != 0 {
		n.suspect(shown, whySetGID)
	}
	switch {
	case mode&fs.ModeDevice != 0:
		n.suspect(shown, fmt.Sprintf("%s, %d:%d", whyDevice, i.Major, i.Minor))
	case mode&(fs.ModeNamedPipe|fs.ModeSocket|fs.ModeIrregular) != 0:
		n.suspect(shown, whySpecial)
	case mode.IsRegular() && mode&0o111 != 0:
		n.suspect(shown, whyExecutable)
	}
	held := mode.IsRegular() && n.held[shown]
	if i.Flags&ext4.FlagImmutable != 0 && !held || i.Flags&ext4.FlagAppend != 0 {
		n.suspect(shown, whyFlag)
	}
}

// content reads a file's bytes.
func (n *inspection) content(shown string, i *ext4.Inode, e *Entry) error {
	if i.Size > n.left {
		n.suspect(shown, whyUnread)
		return nil
	}
	n.left -= i.Size
	file, err := n.f.Open(i)
	if err == nil {
		h := sha256.New()
		buf := make([]byte, min(256<<10, max(1, i.Size)))
		for at := int64(0); at < i.Size; {
			if err := n.ctx.Err(); err != nil {
				return err
			}
			b := buf[:min(int64(len(buf)), i.Size-at)]
			if err = disk.ReadFull(file, b, at); err != nil {
				break
			}
			if at == 0 && (bytes.HasPrefix(b, []byte("\x7fELF")) || bytes.HasPrefix(b, []byte("#!"))) {
				n.suspect(shown, whyProgram)
			}
			h.Write(b)
			at += int64(len(b))
		}
		if err == nil {
			e.SHA256 = hex.EncodeToString(h.Sum(nil))
		}
	}
	if err != nil && !isDamage(err) {
		return err
	} else if err != nil {
		n.suspect(shown, err.Error())
	}
	return nil
}

// attributes judges extended attributes: nothing in a guest gives any.
func (n *inspection) attributes(shown string, i *ext4.Inode) error {
	if n.left < 0 {
		n.suspect(shown, whyUnread)
		return nil
	}
	all, err := n.f.Attributes(i)
	for _, a := range all {
		n.left -= int64(len(a.Value))
		if a.Name != inlineAttribute {
			n.suspect(shown, fmt.Sprintf("the attribute %s", shownPath(a.Name)))
		}
	}
	if err != nil && !isDamage(err) {
		return err
	} else if err != nil {
		n.suspect(shown, err.Error())
	}
	return nil
}

// inlineAttribute is where ext4 keeps the content of tiny files.
const inlineAttribute = "system.data"

// nameless finds files that are in use though no name leads to them.
func (n *inspection) nameless() error {
	err := n.f.Inodes(func(i *ext4.Inode, number uint32, err error) error {
		if n.ctx.Err() != nil {
			return n.ctx.Err()
		}
		if _, named := n.seen[number]; named {
			return nil
		}
		if n.room < 0 {
			return errRoom
		}
		shown := fmt.Sprintf("#%d", number)
		if err != nil {
			n.suspect(shown, err.Error())
			return nil
		}
		n.suspect(shown, whyNameless)
		n.special(shown, i)
		n.mark(shown, i)
		return nil
	})
	return n.ended(err)
}

// suspect notes a reason. That of the disk itself is noted even when there is no room for more.
func (n *inspection) suspect(shown, why string) {
	if n.room < 0 && shown != "" {
		return
	}
	n.room -= int64(len(why))
	s := n.suspects[shown]
	if s == nil {
		n.room -= keptEach + int64(len(shown))
		s = &Suspect{Path: shown}
		n.suspects[shown] = s
		n.order = append(n.order, shown)
	}
	if !slices.Contains(s.Why, why) {
		s.Why = append(s.Why, why)
	}
}

// mark notes which file a suspect is.
func (n *inspection) mark(shown string, i *ext4.Inode) {
	if s := n.suspects[shown]; s != nil {
		s.Inode = i.Number
	}
}

// leadsOut tells whether a link leads out of the disk.
func leadsOut(name, target string) bool {
	if strings.HasPrefix(target, "/") {
		return true
	}
	depth := strings.Count(name, "/")
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

// shownPath is a name as it can be printed and put into JSON without becoming another: what is not text is written as
// Go writes it, and so is the backslash.
func shownPath(name string) string {
	plain := utf8.ValidString(name)
	for _, r := range name {
		plain = plain && r != '\\' && unicode.IsPrint(r)
	}
	if plain {
		return name
	}
	quoted := fmt.Sprintf("%q", name)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
