package profiles

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Share is the part of the state disk that one kind of writer in a guest may take. The kernel of the guest enforces
// shares, by the user ids of the children that write: whoever comes to the end of its own, broken into or not, keeps
// nothing more, and takes nothing from the others.
type Share struct {
	Of   Writer
	Need int64 // bytes that what it is there for takes at most
	// Most is what it is given where there is room, in bytes: Need, and what others can make it take of theirs.
	Most  int64
	Files int64 // files and directories, at most
}

// Writer is who writes to the state disk.
type Writer string

// The writers.
const (
	WriterSystem Writer = "the guest itself" // its random seed, and the books of who has what: bounded by what it is
	WriterLog    Writer = "log"
	WriterClock  Writer = "clock"
	WriterLeases Writer = "leases"
	WriterLists  Writer = "lists"
	WriterAdvert Writer = "router advertisements"
)

// What the log takes.
const (
	MostLog  = 8 << 20   // bytes, on a large state disk
	LeastLog = 256 << 10 // bytes: a few hours' worth
	logPart  = 8         // the log is at most 1/8 of the state disk
)

// LogRoom is how much log is kept on a state disk with room for so many bytes.
func LogRoom(room int64) int64 { return min(MostLog, max(room/logPart, LeastLog)) }

// MostDiskLog is how much log is kept on a large data disk, in bytes. A segment of it is as large then as all of the
// log on a state disk.
const MostDiskLog = 64 << 20

// LogRoomOnDisk is how much log is kept on a data disk of so many bytes: at most half of it.
func LogRoomOnDisk(size int64) int64 { return min(MostDiskLog, size/2) }

// What leases take, in lines of the files they are kept in: one of DHCPv4 and one of DHCPv6. A file has up to twice as
// many lines as there are leases, and LeaseSpare; when it is written anew both are there, and one that was damaged may
// lie beside them.
const (
	// MaxLeases6 bounds the leases of DHCPv6, each of which may go by several addresses.
	MaxLeases6 = 1 << 14
	LeaseSpare = 1 << 12
	// MaxLeaseLine is the longest line, in bytes: an identifier of 512 bytes and a hardware address of 16 in hex, a name
	// of 255 with each byte quoted by four, and the rest.
	MaxLeaseLine = 2*512 + 2*16 + 4*255 + 256
	// leaseLine is a line of a client that fills nothing up: a DUID of at most 130 bytes (RFC 8415, section 11.1) in hex,
	// a name of one label, and the rest.
	leaseLine = 2*130 + 2*16 + maxLabel + 157
)

const (
	clockRoom  = 64 << 10 // bytes: the time that was kept, and the one that takes its place
	systemRoom = 1 << 20  // bytes
	// advertRoom is for what was advertised on as many links as there may be, and for what takes its place, in bytes.
	advertRoom = 384 << 10
	// shareSlack is for directories and for the ends of files, in bytes.
	shareSlack = 256 << 10
	shareFiles = 64
	// filesEach is for what is kept of a list, the one in its place and the one that is fetched.
	filesEach = 3
)

// Shares are the parts of a state disk with room for so many bytes, as they would be if there were enough for all.
func (p *Profile) Shares(room int64) []Share {
	all := []Share{
		{WriterSystem, systemRoom, systemRoom, shareFiles},
		{WriterLog, LogRoom(room), LogRoom(room) + shareSlack, shareFiles},
		{WriterClock, clockRoom, clockRoom, shareFiles},
	}
	if len(p.RA) > 0 {
		all = append(all, Share{WriterAdvert, advertRoom, advertRoom, shareFiles})
	}
	if len(p.DHCP)+len(p.DHCP6) > 0 {
		lines := leaseLines(p.leases4()) + leaseLines(p.leases6())
		all = append(all, Share{WriterLeases, lines * leaseLine, lines*MaxLeaseLine + shareSlack, shareFiles})
	}
	if taken := p.taken(); len(taken) > 0 {
		need := listsRoom(taken)
		// What an earlier profile named is kept for a while, should it be wanted again.
		all = append(all, Share{WriterLists, need, 2*need + shareSlack, shareFiles + filesEach*int64(len(taken))})
	}
	return all
}

func leaseLines(leases int64) int64 { return 2*(2*leases+LeaseSpare) + leases }

// leases4 is how many clients DHCPv4 may have leases for at a time.
func (p *Profile) leases4() int64 {
	sum := int64(0)
	for i := range p.DHCP {
		sum += int64(p.DHCP[i].leases())
	}
	return min(sum, MaxLeases)
}

// leases is how many addresses a server gives out, those of the named hosts included.
func (d *DHCP) leases() uint64 {
	sum := uint64(len(d.Hosts))
	for _, s := range d.Subnets {
		for _, r := range s.Pools {
			if r.First.Is4() && r.Last.Is4() {
				sum += uint64(number4(r.Last)-number4(r.First)) + 1
			}
		}
	}
	return sum
}

// leases6 is the same for DHCPv6. Routers that prefixes are delegated to count as many as there can be of anybody.
func (p *Profile) leases6() int64 {
	sum := uint64(0)
	for i := range p.DHCP6 {
		d := &p.DHCP6[i]
		if d.Delegate != nil {
			return MaxLeases6
		}
		scopes := []DHCP6Scope{d.DHCP6Scope}
		for _, r := range d.Relayed {
			scopes = append(scopes, r.DHCP6Scope)
		}
		for _, s := range scopes {
			sum += uint64(len(s.Hosts))
			for _, r := range s.Pools {
				sum += min(ends(r), MaxLeases6)
			}
		}
	}
	return int64(min(sum, MaxLeases6))
}

// ends is how many ends of addresses a range has; those beyond 2^64-1 are not counted.
func ends(r SuffixRange) uint64 {
	if !r.First.Is6() || !r.Last.Is6() {
		return 0
	}
	first, last := r.First.As16(), r.Last.As16()
	size := binary.BigEndian.Uint64(last[8:]) - binary.BigEndian.Uint64(first[8:])
	return size + min(1, ^size)
}

// listsRoom is what lists from elsewhere take, in bytes.
func listsRoom(all []takenList) int64 {
	need := int64(0)
	for _, l := range all {
		need += scratchPerSource
		if l.names {
			need = max(need, scratchPerSource+MaxBlockFile)
		}
	}
	return need
}

// Divide shares room out: everyone has what it needs where there is enough; where there is not, nobody has less than
// an equal part of what others leave. What is left then goes to those that can use more than they need, by the same
// rule. The bytes are in the order of the shares.
func Divide(shares []Share, room int64) []int64 {
	need, more := make([]int64, len(shares)), make([]int64, len(shares))
	for i, s := range shares {
		need[i], more[i] = s.Need, s.Most-s.Need
	}
	given := fill(need, room)
	for _, n := range given {
		room -= n
	}
	for i, n := range fill(more, room) {
		given[i] += n
	}
	return given
}

// fill gives each what it wants, the most modest first, and never more than an equal part of what is left.
func fill(wants []int64, room int64) []int64 {
	order := make([]int, len(wants))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(wants[a], wants[b]) })
	given := make([]int64, len(wants))
	for n, i := range order {
		given[i] = max(0, min(wants[i], room/int64(len(order)-n)))
		room -= given[i]
	}
	return given
}

// StateRoom is what the filesystem on a state disk of size bytes has room for, about: it is what mke2fs(8) leaves after
// its journal (misc/util.c, figure_journal_size), its inodes (mke2fs.conf: one of 256 bytes for each 4 KiB of a disk
// under 512 MiB, for each 16 KiB of others) and one per cent for the system, and never more than that.
func StateRoom(size int64) int64 {
	const (
		tail  = mebibyte // that firstboot leaves free behind the filesystem
		block = 4096
	)
	size -= tail
	journal := int64(0) // blocks
	for _, step := range []struct{ from, journal int64 }{{2048, 1024}, {32 << 10, 4096}, {256 << 10, 8192},
		{512 << 10, 16384}, {4096 << 10, 32768}, {8192 << 10, 65536}, {16384 << 10, 131072}, {32768 << 10, 262144}} {
		if size/block >= step.from {
			journal = step.journal
		}
	}
	inodes := size / 64
	if size < 512*mebibyte {
		inodes = size / 16
	}
	return max(0, size-journal*block-inodes-size/100*2-mebibyte/2)
}
