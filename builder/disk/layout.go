package disk

import (
	"bytes"
	"fmt"
	"math"

	"rempart/builder/disk/gpt"
)

const (
	// Alignment is where partitions start and end, in bytes: a multiple of every sector, page, erase block and RAID
	// stripe in use; it is what sgdisk and every installer use.
	Alignment = 1 << 20
	// SizeUnit divides the size of every disk: the default extent of LVM, so that an image fills a volume exactly.
	SizeUnit = 4 << 20
)

// Partition is one partition of a layout, in the order of the disk.
type Partition struct {
	Name       string // GPT name and the name of the region; at most gpt.NameUnits UTF-16 units, unique
	Type, GUID gpt.GUID
	Attributes uint64
	MinSize    int64   // bytes it must hold at least; 0: as much as Content
	Content    *Sparse // what it holds, from its first byte on; may be nil while planning if MinSize says the size
}

// Slot is the place of a partition.
type Slot struct {
	Name           string
	Offset, Length int64 // bytes, multiples of Alignment
}

// LBA is the first sector of the slot.
func (s Slot) LBA() uint64 { return uint64(s.Offset / gpt.SectorSize) }

// Layout is where everything lies on a disk. It is a plain value.
type Layout struct {
	Size  int64 // of the disk in bytes, a multiple of SizeUnit unless the caller asked for another
	Slots []Slot
}

// PlanLayout places partitions one after the other. Only Name, MinSize and the size of Content matter. size is the
// size of the disk in bytes; 0 is the smallest multiple of SizeUnit that holds everything. It fails when size
// is not a multiple of gpt.SectorSize, or too small, and then says how much is needed.
func PlanLayout(parts []Partition, size int64) (*Layout, error) {
	if len(parts) > gpt.EntryCount {
		return nil, fmt.Errorf("disk layout: %d partitions, at most %d fit", len(parts), gpt.EntryCount)
	}
	l := &Layout{}
	seen := map[string]bool{}
	end := int64(Alignment) // the table takes 17 KiB
	for i, p := range parts {
		want := p.MinSize
		if p.Content != nil {
			want = max(want, p.Content.Size())
		}
		switch {
		case p.Name == "" || seen[p.Name]:
			return nil, fmt.Errorf("disk layout: partition %d is named %q: want a name no other has", i+1, p.Name)
		case want <= 0:
			return nil, fmt.Errorf("disk layout: partition %q has no size", p.Name)
		case want > math.MaxInt64/4-end:
			return nil, fmt.Errorf("disk layout: partition %q of %d bytes is too large", p.Name, want)
		}
		seen[p.Name] = true
		length := roundUp(want, Alignment)
		l.Slots = append(l.Slots, Slot{Name: p.Name, Offset: end, Length: length})
		end += length
	}
	need := end + backupLength
	l.Size = roundUp(need, SizeUnit)
	if size == 0 {
		return l, nil
	}
	if size%gpt.SectorSize != 0 {
		return nil, fmt.Errorf("disk layout: a size of %d bytes is not a multiple of the %d-byte sector; "+
			"a multiple of %d suits LVM too", size, gpt.SectorSize, SizeUnit)
	}
	if size < need {
		return nil, fmt.Errorf("disk layout: a disk of %d bytes is too small, the contents need %d bytes (%d MiB)",
			size, l.Size, l.Size>>20)
	}
	l.Size = size
	return l, nil
}

// Slot returns the place of the partition with that name; false when there is none.
func (l *Layout) Slot(name string) (Slot, bool) {
	for _, s := range l.Slots {
		if s.Name == name {
			return s, true
		}
	}
	return Slot{}, false
}

// Assemble joins contents and table into the image of the whole disk. parts must be those the layout was planned
// with, now with Type, GUID and (where there is any) Content. bootCode is laid into the first gpt.BootCode bytes of
// sector 0 and may be empty; of a longer one, such as a whole boot sector, the rest is left out: those bytes
// belong to the protective partition record.
func (l *Layout) Assemble(diskGUID gpt.GUID, bootCode []byte, parts []Partition) (*Sparse, error) {
	if len(parts) != len(l.Slots) {
		return nil, fmt.Errorf("disk layout: planned for %d partitions, got %d", len(l.Slots), len(parts))
	}
	image := NewSparse(l.Size)
	table := gpt.Table{Disk: diskGUID, Sectors: uint64(l.Size / gpt.SectorSize)}
	for i, p := range parts {
		slot := l.Slots[i]
		if p.Name != slot.Name {
			return nil, fmt.Errorf("disk layout: partition %d was planned as %q, got %q", i+1, slot.Name, p.Name)
		}
		if p.Type == (gpt.GUID{}) {
			return nil, fmt.Errorf("disk layout: partition %q has no type", p.Name)
		}
		table.Partitions = append(table.Partitions, gpt.Partition{
			Type: p.Type, GUID: p.GUID, Attributes: p.Attributes, Name: p.Name,
			First: slot.LBA(), Last: slot.LBA() + uint64(slot.Length/gpt.SectorSize) - 1,
		})
		if p.Content == nil {
			continue
		}
		if p.Content.Size() > slot.Length {
			return nil, fmt.Errorf("disk layout: partition %q holds %d bytes, its content has grown to %d since it was planned",
				p.Name, slot.Length, p.Content.Size())
		}
		if err := image.PutSparse(slot.Offset, p.Content); err != nil {
			return nil, fmt.Errorf("disk layout: partition %q: %w", p.Name, err)
		}
	}
	encoded, err := table.Encode(bootCode[:min(len(bootCode), gpt.BootCode)])
	if err != nil {
		return nil, fmt.Errorf("disk layout: %w", err)
	}
	for _, part := range []struct {
		at    int64
		bytes []byte
	}{
		{mbrOffset, encoded.MBR},
		{headerOffset, encoded.Header},
		{entriesOffset, encoded.Entries},
		{l.Size - backupLength, encoded.Entries},
		{l.Size - gpt.SectorSize, encoded.BackupHeader},
	} {
		if err := image.Put(part.at, bytes.NewReader(part.bytes), int64(len(part.bytes))); err != nil {
			return nil, fmt.Errorf("disk layout: partition table: %w", err)
		}
	}
	return image, nil
}

// Where the parts of the table lie, in bytes; the backup is counted from the end of the disk.
const (
	mbrOffset     = 0
	headerOffset  = gpt.SectorSize
	entriesOffset = 2 * gpt.SectorSize
	entriesEnd    = entriesOffset + gpt.EntriesSize
	backupLength  = gpt.EntriesSize + gpt.SectorSize
)

// Names of the regions that are not partitions. Gaps are numbered from 1, partitions go by their own names.
const (
	RegionMBR           = "mbr"
	RegionHeader        = "gpt header"
	RegionEntries       = "gpt entries"
	RegionGap           = "gap"
	RegionSlack         = "slack" // between the last partition and the backup entries
	RegionBackupEntries = "backup entries"
	RegionBackupHeader  = "backup header"
	RegionPartition     = "partition " // before a partition's name
)

// Region is a named part of a disk.
type Region struct {
	Name   string `json:"name"` // RegionPartition and the name for partitions
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
}

// Regions names every byte of the disk once, in order: the table, the partitions, the gaps and the slack between.
func (l *Layout) Regions() []Region {
	regions := []Region{
		{RegionMBR, mbrOffset, gpt.SectorSize},
		{RegionHeader, headerOffset, gpt.SectorSize},
		{RegionEntries, entriesOffset, gpt.EntriesSize},
	}
	end, gaps := int64(entriesEnd), 0
	for _, s := range l.Slots {
		if s.Offset > end {
			gaps++
			regions = append(regions, Region{fmt.Sprintf("%s %d", RegionGap, gaps), end, s.Offset - end})
		}
		regions = append(regions, Region{RegionPartition + s.Name, s.Offset, s.Length})
		end = s.Offset + s.Length
	}
	if backup := l.Size - backupLength; backup > end {
		regions = append(regions, Region{RegionSlack, end, backup - end})
	}
	return append(regions,
		Region{RegionBackupEntries, l.Size - backupLength, gpt.EntriesSize},
		Region{RegionBackupHeader, l.Size - gpt.SectorSize, gpt.SectorSize})
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
