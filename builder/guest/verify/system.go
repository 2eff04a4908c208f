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
	"slices"
	"sort"
	"strings"

	"rempart/builder/disk"
	"rempart/builder/disk/fat"
	"rempart/builder/master"
)

// owner is what bytes of the disk belong to.
type owner struct{ kind, region, path string }

// piece is a run of the disk that has one owner. Pieces tile the disk.
type piece struct {
	offset, length int64
	region         int
	file           *master.File // nil: outside of files
}

// comparison is one run of CompareSystem.
type comparison struct {
	ctx    context.Context
	disk   io.ReaderAt
	size   int64
	m      *master.Manifest
	own    io.ReaderAt
	pieces []piece
	found  map[owner]*Difference
	order  []owner
}

func (c *comparison) run() error {
	c.cut()
	if c.size < c.m.Disk.Size {
		c.note(owner{Short, "", ""}, "").add(c.size, c.m.Disk.Size-c.size)
	}
	bad, err := c.badBlocks()
	if err != nil {
		return err
	}
	if c.own != nil {
		err = c.exactly(bad)
	} else {
		err = c.roughly(bad)
	}
	if err != nil {
		return err
	}
	if err := c.bootNames(); err != nil {
		return err
	}
	return c.pastEnd()
}

// cut divides the disk by regions and files.
func (c *comparison) cut() {
	type placed struct {
		at, length int64
		file       *master.File
	}
	var files []placed
	for _, list := range [][]master.File{c.m.Boot, c.m.Root} {
		for i := range list {
			for _, e := range list[i].Extents {
				files = append(files, placed{e.Offset, e.Length, &list[i]})
			}
		}
	}
	slices.SortFunc(files, func(a, b placed) int { return int(min(1, max(-1, a.at-b.at))) })
	next := 0
	for i, r := range c.m.Disk.Regions {
		at, end := r.Offset, r.Offset+r.Length
		for ; next < len(files) && files[next].at < end; next++ {
			f := files[next]
			from, to := max(f.at, at), min(f.at+f.length, end)
			if from >= to {
				continue // two files of a strange manifest overlap: the first has it
			}
			if from > at {
				c.pieces = append(c.pieces, piece{at, from - at, i, nil})
			}
			c.pieces = append(c.pieces, piece{from, to - from, i, f.file})
			at = to
		}
		if at < end {
			c.pieces = append(c.pieces, piece{at, end - at, i, nil})
		}
	}
}

// badBlocks are the blocks whose digests are not the manifest's. One that the disk does not have is one.
func (c *comparison) badBlocks() (bad []int64, err error) {
	block := c.m.Disk.Block
	whole := min(c.size, c.m.Disk.Size)
	if whole < c.m.Disk.Size {
		whole = whole / block * block // half a block is no block
	}
	sums, err := disk.BlockDigests(c.ctx, c.disk, whole, block)
	if err != nil {
		return nil, err
	}
	want := c.m.Disk.Blocks
	for at := 0; at < len(sums); at += sha256.Size {
		if !bytes.Equal(sums[at:at+sha256.Size], want[at:at+sha256.Size]) {
			bad = append(bad, int64(at/sha256.Size))
		}
	}
	return bad, nil
}

// exactly compares the bad blocks with the master's own disk, byte by byte.
func (c *comparison) exactly(bad []int64) error {
	block := c.m.Disk.Block
	got, want := make([]byte, block), make([]byte, block)
	for _, n := range bad {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		at := n * block
		length := min(block, c.m.Disk.Size-at)
		if err := disk.ReadFull(c.own, want[:length], at); err != nil {
			return fmt.Errorf("the master's own: %w", err)
		}
		if sum := sha256.Sum256(want[:length]); !bytes.Equal(sum[:], c.m.Disk.Blocks[n*sha256.Size:][:sha256.Size]) {
			return fmt.Errorf("the master's own, at offset %d, is not what the master's manifest says: `rempart master verify`"+
				" tells more", at)
		}
		if err := disk.ReadFull(c.disk, got[:length], at); err != nil {
			return err
		}
		for _, p := range c.within(at, length) {
			from, to := max(p.offset, at), min(p.offset+p.length, at+length)
			c.compare(p, got[from-at:to-at], want[from-at:to-at], from)
		}
	}
	return nil
}

// compare notes where two runs of bytes that lie at an offset differ.
func (c *comparison) compare(p piece, got, want []byte, at int64) {
	if bytes.Equal(got, want) {
		return
	}
	c.of(p).differ(got, want, at)
}

// differ adds where two runs of bytes of one length, which lie at an offset, differ.
func (d *Difference) differ(got, want []byte, at int64) {
	for i := 0; i < len(got); {
		if got[i] == want[i] {
			i++
			continue
		}
		end := i + 1
		for end < len(got) && got[end] != want[end] {
			end++
		}
		d.add(at+int64(i), int64(end-i))
		i = end
	}
}

// roughly has nothing but digests: of a bad block it names the files in it that are not as the manifest says, or, where
// all are, what lies outside of them.
func (c *comparison) roughly(bad []int64) error {
	block := c.m.Disk.Block
	regions, files := map[int]bool{}, map[*master.File]bool{} // changed
	for _, n := range bad {
		at := n * block
		length := min(block, c.m.Disk.Size-at)
		named := map[int]bool{} // regions in which a changed file explains the block
		within := c.within(at, length)
		for _, p := range within {
			if _, known := regions[p.region]; !known {
				r := c.m.Disk.Regions[p.region]
				sum, err := disk.Digest(c.ctx, c.disk, r.Offset, r.Length)
				if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
					return err
				}
				regions[p.region] = err != nil || hex.EncodeToString(sum[:]) != r.SHA256
			}
			if p.file == nil {
				continue
			}
			changed, known := files[p.file]
			if !known {
				sum, err := c.fileDigest(p.file)
				if err != nil {
					return err
				}
				changed = sum != p.file.SHA256
				files[p.file] = changed
			}
			named[p.region] = named[p.region] || changed
		}
		told := false
		for _, must := range []bool{false, true} { // a manifest whose digests contradict each other hides nothing
			for _, p := range within {
				if must || regions[p.region] && (p.file == nil && !named[p.region] || p.file != nil && files[p.file]) {
					from, to := max(p.offset, at), min(p.offset+p.length, at+length)
					c.of(p).add(from, to-from)
					told = true
				}
			}
			if told {
				break
			}
		}
	}
	return nil
}

// fileDigest is the digest of what lies where a file's content should.
func (c *comparison) fileDigest(f *master.File) (string, error) {
	h := sha256.New()
	buf := make([]byte, c.m.Disk.Block)
	for _, e := range f.Extents {
		for done := int64(0); done < e.Length; {
			if err := c.ctx.Err(); err != nil {
				return "", err
			}
			b := buf[:min(int64(len(buf)), e.Length-done)]
			if err := disk.ReadFull(c.disk, b, e.Offset+done); errors.Is(err, io.ErrUnexpectedEOF) {
				return "", nil // cut off: not what it was
			} else if err != nil {
				return "", err
			}
			h.Write(b)
			done += int64(len(b))
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// within are the pieces of a run of the disk.
func (c *comparison) within(at, length int64) []piece {
	first := sort.Search(len(c.pieces), func(i int) bool { return c.pieces[i].offset+c.pieces[i].length > at })
	last := sort.Search(len(c.pieces), func(i int) bool { return c.pieces[i].offset >= at+length })
	return c.pieces[first:last]
}

// of is the difference of a piece.
func (c *comparison) of(p piece) *Difference {
	o := owner{Changed, c.m.Disk.Regions[p.region].Name, ""}
	if p.file == nil {
		return c.note(o, "")
	}
	o.path = p.file.Path
	return c.note(o, p.file.Origin)
}

func (c *comparison) note(o owner, origin string) *Difference {
	d := c.found[o]
	if d == nil {
		d = &Difference{Kind: o.kind, Region: o.region, Path: o.path, Origin: origin}
		c.found[o] = d
		c.order = append(c.order, o)
	}
	return d
}

// bootNames says which files of a changed boot partition the master does not have, and which cannot be found any more.
// Its names are the disk's own, and hostile; that nothing can be read of it any more is no error: it was told already.
func (c *comparison) bootNames() error {
	var region *master.Region
	for i, r := range c.m.Disk.Regions {
		if r.Name == bootRegion {
			region = &c.m.Disk.Regions[i]
		}
	}
	if region == nil || c.found[owner{Changed, bootRegion, ""}] == nil {
		return nil // names lie outside of files
	}
	section := io.NewSectionReader(c.disk, region.Offset, region.Length)
	volume, err := fat.OpenVolume(section, region.Length)
	if err != nil {
		return nil
	}
	left := map[string]*master.File{}
	for i := range c.m.Boot {
		left[strings.TrimPrefix(c.m.Boot[i].Path, "/")] = &c.m.Boot[i]
	}
	added := 0
	err = fs.WalkDir(volume, ".", func(name string, e fs.DirEntry, err error) error {
		if c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		if err != nil || e.IsDir() {
			return nil
		}
		if left[name] != nil {
			delete(left, name)
			return nil
		}
		if added++; added > maxAdded {
			c.note(owner{Added, bootRegion, ""}, "").More++
			return nil
		}
		d := c.note(owner{Added, bootRegion, "/" + name}, "")
		runs, _ := volume.Extents(name)
		for _, r := range runs {
			d.add(region.Offset+r.Offset, r.Length)
		}
		return nil
	})
	for i := range c.m.Boot {
		if f := &c.m.Boot[i]; left[strings.TrimPrefix(f.Path, "/")] != nil {
			c.note(owner{Missing, bootRegion, f.Path}, f.Origin)
		}
	}
	return err
}

// maxAdded bounds the added files that are told one by one: a hostile boot partition has a million names, each of a
// thousand pieces.
const maxAdded = 1000

// bootRegion is the region with the boot partition.
const bootRegion = disk.RegionPartition + "esp"

// pastEnd finds what is not zero behind the end of the master.
func (c *comparison) pastEnd() error {
	const chunk = 256 << 10
	buf, zeros := make([]byte, chunk), make([]byte, chunk)
	for at := c.m.Disk.Size; at < c.size; at += chunk {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(chunk, c.size-at)]
		if err := disk.ReadFull(c.disk, b, at); err != nil {
			return err
		}
		if bytes.Equal(b, zeros[:len(b)]) {
			continue
		}
		d := c.note(owner{PastEnd, "", ""}, "")
		for i := 0; i < len(b); i++ {
			if b[i] != 0 {
				d.add(at+int64(i), 1)
			}
		}
	}
	return nil
}

// result are the differences in the order of the disk.
func (c *comparison) result() []Difference {
	all := []Difference{}
	for _, o := range c.order {
		all = append(all, *c.found[o])
	}
	at := func(d Difference) int64 {
		if len(d.Ranges) == 0 {
			return c.m.Disk.Size
		}
		return d.Ranges[0].Offset
	}
	slices.SortStableFunc(all, func(a, b Difference) int { return int(min(1, max(-1, at(a)-at(b)))) })
	return all
}
