// Package handover is how lists of addresses and of names get from the child that takes them from elsewhere to those
// who use them: files in contract.ListsDir, each replaced whole. The child that writes them reads what strangers serve,
// so who reads them takes nothing on trust.
//
// What it deliberately does not do: fetch, or change anything in the kernel.
package handover

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// Names in the directory. No set has a name that begins with a dot.
const (
	laidName   = ".laid"   // there once everything that was kept is handed over
	statusName = ".status" // []Status
	newSuffix  = ".new"    // of a file on its way: ".NAME.new"
)

// Bounds of the files, in bytes.
const (
	maxList   = 16 << 20     // of MaxListRanges IPv6 ranges
	maxFile   = maxList + 64 // the larger of the two kinds: a table of names has a head before its 16 MiB
	maxStatus = 1 << 20      // of some fifty lists, each with a URL of 2 KiB, of which JSON may write a byte as six
	maxCount  = 32           // of the first line of a list
	maxRange  = 33           // of one range: IPv6, and no prefix
)

// Status is how a list stands. Times are seconds since 1970; 0: never.
type Status struct {
	Name    string `json:"name"`              // of a set, or NamesList of a list of names
	From    string `json:"from"`              // URL or file
	Entries int    `json:"entries"`           // ranges, or names
	Strange int    `json:"strange,omitempty"` // lines of the last list that were none
	Taken   int64  `json:"taken"`             // when the list in use was taken
	Seen    int64  `json:"seen"`              // when it was last seen to be still the one
	Tried   int64  `json:"tried"`
	Next    int64  `json:"next"`
	Error   string `json:"error,omitempty"` // of the last try; empty: it was well
}

// Encode writes a list: a line with the number of its ranges, and then these in their binary form.
func Encode(w io.Writer, list profiles.Ranges) error {
	_, err := fmt.Fprintf(w, "%d\n", len(list))
	if err == nil {
		_, err = w.Write(list.Binary())
	}
	return err
}

// Count reads how many ranges a list has that Encode wrote, and nothing more of it.
func Count(r io.Reader) (int, error) {
	line, err := bufio.NewReaderSize(io.LimitReader(r, maxCount), maxCount).ReadString('\n')
	n := 0
	if err == nil {
		_, err = fmt.Sscanf(line, "%d\n", &n)
	}
	if err != nil || n < 0 || n > profiles.MaxListRanges {
		return 0, errNoList
	}
	return n, nil
}

var errNoList = errors.New("it is no list that was handed over")

// decode reads what Encode wrote.
func decode(b []byte) (profiles.Ranges, error) {
	line, rest, _ := bytes.Cut(b, []byte("\n"))
	n, err := Count(bytes.NewReader(append(line[:len(line):len(line)], '\n')))
	if err != nil {
		return nil, err
	}
	list, err := profiles.DecodeRanges(rest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoList, err)
	}
	if len(list) != n || !list.Ordered() {
		return nil, fmt.Errorf("%w: %d ranges where %d were announced, or out of order", errNoList, len(list), n)
	}
	return list, nil
}

// Read reads the list of a set, checked by Sane. The error wraps fs.ErrNotExist when none was handed over yet.
func Read(root string, p *profiles.Profile, set string) (profiles.Ranges, error) {
	b, err := child.ReadUntrusted(filepath.Join(root, contract.ListsDir, set), mostBytes())
	if err != nil {
		return nil, fmt.Errorf("list of set %s: %w", set, err)
	}
	list, err := usable(b, p)
	if err != nil {
		return nil, fmt.Errorf("list of set %s: %w", set, err)
	}
	return list, nil
}

// mostBytes bounds what Encode writes of a list that fits: who hands one over cannot take more of the reader's memory.
func mostBytes() int64 { return min(maxList, maxCount+maxRange*int64(Most()/2)) }

func usable(b []byte, p *profiles.Profile) (profiles.Ranges, error) {
	list, err := decode(b)
	if err == nil {
		err = Sane(p, list)
	}
	return list, err
}

// Usable tells why Read would refuse a list that Encode wrote; nil: it takes it.
func Usable(r io.Reader, p *profiles.Profile) error {
	b, err := io.ReadAll(io.LimitReader(r, mostBytes()+1))
	if err == nil && int64(len(b)) > mostBytes() {
		err = fmt.Errorf("%w of a size that fits: more than %d bytes", errNoList, mostBytes())
	}
	if err == nil {
		_, err = usable(b, p)
	}
	return err
}

// Write hands a list over: that of a set under its name, one of names under NamesList of its own.
func Write(root, name string, content io.Reader) error {
	dir, err := os.OpenRoot(filepath.Join(root, contract.ListsDir))
	if err != nil {
		return fmt.Errorf("list %s: %w", name, err)
	}
	defer dir.Close()
	if err := replace(dir, name, io.LimitReader(content, maxFile)); err != nil {
		return fmt.Errorf("list %s: %w", name, err)
	}
	return nil
}

// Prune takes back all lists but the named.
func Prune(root string, lists []string) error {
	dir, err := os.OpenRoot(filepath.Join(root, contract.ListsDir))
	if err != nil {
		return err
	}
	defer dir.Close()
	keep := map[string]bool{laidName: true, statusName: true}
	for _, name := range lists {
		keep[name] = true
	}
	entries, err := fs.ReadDir(dir.FS(), ".")
	failed := []error{err}
	for _, e := range entries {
		if !keep[e.Name()] {
			failed = append(failed, dir.RemoveAll(e.Name()))
		}
	}
	return errors.Join(failed...)
}

// replace puts a file into place at once. It is in memory: nothing has to be synced.
func replace(dir *os.Root, name string, content io.Reader) error {
	temporary := "." + name + newSuffix
	f, err := dir.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, dir.Remove(temporary))
	}
	return dir.Rename(temporary, name)
}

// SayLaid tells that all lists that were kept are handed over.
func SayLaid(root string) error { return writeSmall(root, laidName, nil) }

// Laid tells whether SayLaid was called since the guest started.
func Laid(root string) bool {
	_, err := os.Lstat(filepath.Join(root, contract.ListsDir, laidName))
	return err == nil
}

// WriteStatus lays down how all lists stand.
func WriteStatus(root string, all []Status) error {
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return writeSmall(root, statusName, b)
}

func writeSmall(root, name string, b []byte) error {
	dir, err := os.OpenRoot(filepath.Join(root, contract.ListsDir))
	if err != nil {
		return err
	}
	defer dir.Close()
	return replace(dir, name, bytes.NewReader(b))
}

// ReadStatus reads how all lists stand. The error wraps fs.ErrNotExist before anything was said.
func ReadStatus(root string) ([]Status, error) {
	b, err := child.ReadUntrusted(filepath.Join(root, contract.ListsDir, statusName), maxStatus)
	if err != nil {
		return nil, fmt.Errorf("state of the lists: %w", err)
	}
	var all []Status
	if err := child.Strict(b, &all); err != nil {
		return nil, fmt.Errorf("state of the lists: %w", err)
	}
	return all, nil
}

// Fit tells whether this machine has room for sets that have so many ranges together, and so many of them in lists.
func Fit(all, listed int) bool { return all <= profiles.MaxListRanges && all+listed <= Most() }

// Most is how many ranges this machine has memory for, those of lists counted twice.
func Most() int { return profiles.RangesIn(int64(min(total(), math.MaxInt64))) }

// total is the memory of this machine in bytes, without bound when it cannot be known.
func total() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return math.MaxUint64
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}

// ErrAbsurd is wrapped by the errors of Sane.
var ErrAbsurd = errors.New("the list is refused")

// Sane tells why a list cannot be what anybody means; nil: it may be. It is refused when it is empty, holds an address
// or a gateway of the guest, or more than half of all IPv4 addresses, or of the IPv6 addresses that are given out
// (2000::/3, RFC 4291, section 2.4).
func Sane(p *profiles.Profile, list profiles.Ranges) error {
	switch {
	case len(list) == 0:
		return fmt.Errorf("%w: it has no address", ErrAbsurd)
	case len(list) > profiles.MaxListRanges:
		return fmt.Errorf("%w: it has %d ranges, at most %d", ErrAbsurd, len(list), profiles.MaxListRanges)
	}
	for _, l := range p.Links {
		for _, own := range l.Addresses {
			if list.Contains(own.Addr()) {
				return fmt.Errorf("%w: it holds %v, which is an address of the guest", ErrAbsurd, own.Addr())
			}
		}
		for _, g := range l.Gateways {
			if list.Contains(g.Addr) {
				return fmt.Errorf("%w: it holds %v, which is a gateway of the guest", ErrAbsurd, g.Addr)
			}
		}
	}
	const half = 1 << 31
	if n := count4(list); n > half {
		return fmt.Errorf("%w: it has %d IPv4 addresses, more than half of all", ErrAbsurd, n)
	}
	// In /64s, of which 2000::/3 has 2^61.
	if n := count6(list); n > 1<<60 {
		return fmt.Errorf("%w: it has more than half of the IPv6 addresses there are", ErrAbsurd)
	}
	return nil
}

// count4 is how many IPv4 addresses a list has.
func count4(list profiles.Ranges) (n uint64) {
	for _, r := range list.Of(false) {
		first, last := r.First.As4(), r.Last.As4()
		n += be(last[:]) - be(first[:]) + 1
	}
	return n
}

var (
	first6 = netip.MustParseAddr("2000::")
	last6  = netip.MustParseAddr("3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
)

// count6 is how many /64 of 2000::/3 a list has something of.
func count6(list profiles.Ranges) (n uint64) {
	for _, r := range list.Of(true) {
		if r.First.Less(first6) {
			r.First = first6
		}
		if last6.Less(r.Last) {
			r.Last = last6
		}
		if r.Last.Less(r.First) {
			continue
		}
		first, last := r.First.As16(), r.Last.As16()
		n += be(last[:8]) - be(first[:8]) + 1
	}
	return n
}

func be(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}
