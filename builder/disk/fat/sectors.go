package fat

import "encoding/binary"

// Places of the sectors before the FATs.
const (
	infoSector   = 1
	backupSector = 6 // "No value other than 6 is recommended"
)

// Values of the boot sector (section "Boot Sector and BPB").
const (
	oemName    = "MSWIN4.1" // what the specification recommends: some drivers look
	mediaFixed = 0xF8
	// Geometry of BIOS disks above 8 GB; nothing reads volumes by cylinder any more.
	sectorsPerTrack = 63
	heads           = 255
	driveNumber     = 0x80
	extendedBoot    = 0x29 // the three fields that follow it are there
	signatureAt     = 510
	bootCodeAt      = 90
)

// notBootable is what runs if a BIOS starts this sector: INT 18h (no bootable disk), then halt for good.
var notBootable = []byte{0xCD, 0x18, 0xF4, 0xEB, 0xFD}

func bootSector(g geometry, label string, o Options) []byte {
	b := make([]byte, sectorSize)
	u16 := func(at int, v uint16) { binary.LittleEndian.PutUint16(b[at:], v) }
	u32 := func(at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }
	copy(b[0:], []byte{0xEB, bootCodeAt - 2, 0x90}) // BS_jmpBoot
	copy(b[3:], oemName)                            // BS_OEMName
	u16(11, sectorSize)                             // BPB_BytsPerSec
	b[13] = byte(g.sectorsPerCluster)               // BPB_SecPerClus
	u16(14, reservedSectors)                        // BPB_RsvdSecCnt
	b[16] = fatCount                                // BPB_NumFATs
	b[21] = mediaFixed                              // BPB_Media
	u16(24, sectorsPerTrack)                        // BPB_SecPerTrk
	u16(26, heads)                                  // BPB_NumHeads
	u32(28, o.HiddenSectors)                        // BPB_HiddSec
	u32(32, g.sectors)                              // BPB_TotSec32
	u32(36, g.fatSectors)                           // BPB_FATSz32
	u32(44, firstCluster)                           // BPB_RootClus
	u16(48, infoSector)                             // BPB_FSInfo
	u16(50, backupSector)                           // BPB_BkBootSec
	b[64] = driveNumber                             // BS_DrvNum
	b[66] = extendedBoot                            // BS_BootSig
	u32(67, o.Serial)                               // BS_VolID
	copy(b[71:], label)                             // BS_VolLab
	copy(b[82:], "FAT32   ")                        // BS_FilSysType
	copy(b[bootCodeAt:], notBootable)
	copy(b[signatureAt:], []byte{0x55, 0xAA})
	return b
}

// fsInfo says how much is free and where (section "FAT32 FSInfo Sector Structure and Backup Boot Sector").
func fsInfo(g geometry) []byte {
	b := make([]byte, sectorSize)
	copy(b[0:], "RRaA")                                       // FSI_LeadSig
	copy(b[484:], "rrAa")                                     // FSI_StrucSig
	binary.LittleEndian.PutUint32(b[488:], g.clusters-g.used) // FSI_Free_Count
	next := uint32(0xFFFFFFFF)                                // FSI_Nxt_Free: unknown, when nothing is free
	if g.used < g.clusters {
		next = firstCluster + g.used
	}
	binary.LittleEndian.PutUint32(b[492:], next)
	copy(b[signatureAt:], []byte{0x55, 0xAA}) // FSI_TrailSig
	return b
}

// Special FAT entries (section "FAT Data Structure").
const (
	entryMedia = 0x0FFFFF00 | mediaFixed // FAT[0]
	entryClean = 0x0FFFFFFF              // FAT[1]: end of chain, shut down cleanly, no hard error
	entryEnd   = 0x0FFFFFFF              // last cluster of a chain
)

// table is a FAT up to the last entry in use; the rest is zero.
type table []byte

func newTable(end uint32) table {
	t := make(table, int(end)*entrySize)
	t.set(0, entryMedia)
	t.set(1, entryClean)
	return t
}

func (t table) set(cluster, value uint32) {
	binary.LittleEndian.PutUint32(t[cluster*entrySize:], value)
}

// chain makes n neighbouring clusters one file.
func (t table) chain(first, n uint32) {
	for c := first; c < first+n-1; c++ {
		t.set(c, c+1)
	}
	t.set(first+n-1, entryEnd)
}
