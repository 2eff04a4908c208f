package fat

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sort"
	"strings"
	"unicode/utf16"
)

// Directory entries (section "FAT Directory Structure").
const (
	dirEntrySize  = 32
	maxDirEntries = 65536 // a directory is at most 2 MiB

	attrVolume    = 0x08
	attrDirectory = 0x10
	attrArchive   = 0x20

	// epochDate is 1980-01-01, the first date FAT can say. Times are 0:00:00.
	epochDate = 0<<9 | 1<<5 | 1
)

// node is a file or directory with its place on the volume.
type node struct {
	name     string
	path     string
	dir      bool
	size     int64
	content  io.ReaderAt
	parent   *node
	children []*node // by name
	short    string  // 11 bytes; of all but the root
	long     []uint16
	cluster  uint32 // first; 0 for an empty file
}

// buildTree turns the list into a tree with names checked and short names given.
func buildTree(files []File) (*node, error) {
	root := &node{dir: true, path: "."}
	files = slices.Clone(files)
	// Parents sort before children, and the order in which files are given leaves no trace.
	sort.SliceStable(files, func(i, j int) bool { return files[i].Path < files[j].Path })
	for _, f := range files {
		if !fs.ValidPath(f.Path) || f.Path == "." {
			return nil, fmt.Errorf("path %q: want a clean relative path", f.Path)
		}
		parts := strings.Split(f.Path, "/")
		at := root
		for i, part := range parts {
			last := i == len(parts)-1
			child := at.find(part)
			switch {
			case child == nil:
				child = &node{name: part, path: strings.Join(parts[:i+1], "/"), parent: at, dir: !last || f.Dir}
				if err := checkName(part); err != nil {
					return nil, fmt.Errorf("path %q: %w", f.Path, err)
				}
				if last && !f.Dir {
					if f.Size < 0 || f.Size > maxFileSize || f.Size > 0 && f.Content == nil {
						return nil, fmt.Errorf("file %q of %d bytes: want 0 to %d, and content", f.Path, f.Size, maxFileSize)
					}
					child.size, child.content = f.Size, f.Content
				}
				at.children = append(at.children, child)
			case !child.dir || last && !f.Dir || child.name != part:
				return nil, fmt.Errorf("path %q meets %q: FAT does not tell upper from lower case", f.Path, child.path)
			}
			at = child
		}
	}
	err := root.walk(func(n *node) error {
		sort.Slice(n.children, func(i, j int) bool { return n.children[i].name < n.children[j].name })
		if err := giveShortNames(n.children); err != nil {
			return fmt.Errorf("directory %q: %w", n.path, err)
		}
		if n.entries() > maxDirEntries {
			return fmt.Errorf("directory %q: %d entries, at most %d fit", n.path, n.entries(), maxDirEntries)
		}
		return nil
	})
	return root, err
}

// find returns the child of that name in any case.
func (n *node) find(name string) *node {
	for _, c := range n.children {
		if strings.EqualFold(c.name, name) {
			return c
		}
	}
	return nil
}

// walk calls f for the node and all below it, parents first, in order of names.
func (n *node) walk(f func(*node) error) error {
	if err := f(n); err != nil {
		return err
	}
	for _, c := range n.children {
		if err := c.walk(f); err != nil {
			return err
		}
	}
	return nil
}

// entries is how many directory entries a directory has: two for itself and its parent, or in the root one for the
// label; for each child one and its long name.
func (n *node) entries() int {
	count := 2
	if n.parent == nil {
		count = 1
	}
	for _, c := range n.children {
		count += 1 + longEntries(c.long)
	}
	return count
}

// length is how many bytes of clusters a node takes. A directory fills its clusters.
func (n *node) length(clusterSize int64) int64 {
	if !n.dir {
		return n.size
	}
	return (int64(n.entries())*dirEntrySize + clusterSize - 1) / clusterSize * clusterSize
}

// clusters is how many clusters of that size the tree takes.
func (n *node) clusters(clusterSize int64) int64 {
	var total int64
	n.walk(func(n *node) error {
		total += (n.length(clusterSize) + clusterSize - 1) / clusterSize
		return nil
	})
	return total
}

// allocate gives each node its clusters, from *next on.
func (n *node) allocate(next *uint32, clusterSize int64) {
	n.walk(func(n *node) error {
		if length := n.length(clusterSize); length > 0 {
			n.cluster = *next
			*next += uint32((length + clusterSize - 1) / clusterSize)
		}
		return nil
	})
}

// encode returns the entries of a directory whose clusters are allocated.
func (n *node) encode(label string) []byte {
	b := make([]byte, 0, n.entries()*dirEntrySize)
	if n.parent == nil {
		b = append(b, entry(label, attrVolume, 0, 0)...)
	} else {
		up := n.parent.cluster
		if n.parent.parent == nil {
			up = 0 // ".." of a directory in the root names cluster 0, not the root's
		}
		b = append(b, entry(".          ", attrDirectory, n.cluster, 0)...)
		b = append(b, entry("..         ", attrDirectory, up, 0)...)
	}
	for _, c := range n.children {
		b = append(b, encodeLong(c.long, c.short)...)
		attr := byte(attrArchive)
		if c.dir {
			attr = attrDirectory
		}
		b = append(b, entry(c.short, attr, c.cluster, uint32(c.size))...)
	}
	return b
}

func entry(name string, attr byte, cluster, size uint32) []byte {
	b := make([]byte, dirEntrySize)
	copy(b, name)                          // DIR_Name
	b[11] = attr                           // DIR_Attr
	for _, at := range []int{16, 18, 24} { // DIR_CrtDate, DIR_LstAccDate, DIR_WrtDate
		binary.LittleEndian.PutUint16(b[at:], epochDate)
	}
	binary.LittleEndian.PutUint16(b[20:], uint16(cluster>>16)) // DIR_FstClusHI
	binary.LittleEndian.PutUint16(b[26:], uint16(cluster))     // DIR_FstClusLO
	binary.LittleEndian.PutUint32(b[28:], size)                // DIR_FileSize
	return b
}

// units is a name as UTF-16.
func units(name string) []uint16 { return utf16.Encode([]rune(name)) }
