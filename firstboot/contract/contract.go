// Package contract holds the words the workstation and the guest must agree on: where the verified root is, how
// its parameters travel, which files and channels a guest offers. It is pure: constants and functions from value
// to value, no input or output, so that the builder may import it without importing the guest.
//
// What it deliberately does not hold: anything only one side needs.
package contract

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Version is the version of rempart. It is part of every master: same profile, same lock, same version, same bytes.
const Version = "0.1.0"

// Kernel command line keys. Whoever writes the command line (our boot menu on the read-only disk, or the host that
// supplies the kernel) is the root of trust; see DESIGN, principle 1.
const (
	// KeyVerity carries the parameters of the root: "rempart.verity=ROOTHASH,DATABLOCKS"; see Verity.
	KeyVerity = "rempart.verity"
	// KeyInject makes a named piece of the guest slow, failing, panicking or hungry, for tests:
	// "rempart.inject=SPEC,...". SPEC is "slow:CHILD:DURATION", "fail:CHILD", "panic:CHILD", "hog:CHILD" or
	// "fill:CHILD". No injection can open anything.
	KeyInject = "rempart.inject"
)

// Verity is what the boot stage must know to activate dm-verity over the root partition. The partition holds
// DataBlocks blocks of EROFS, then one block whose first 512 bytes are the verity superblock (kept for
// `veritysetup verify`; the guest never trusts it), then the hash tree. Everything that matters is here, on the
// command line, because the superblock is not covered by the root hash.
type Verity struct {
	RootHash   [32]byte // SHA-256, no salt, hash type 1
	DataBlocks uint64   // number of BlockSize data blocks; the hash tree starts at block DataBlocks+1
}

// BlockSize is the data and hash block size of the root, in bytes: the page size, the one size the kernel's EROFS
// and dm-verity share on every architecture with 4 KiB pages.
const BlockSize = 4096

// String is the value of KeyVerity.
func (v Verity) String() string { return fmt.Sprintf("%x,%d", v.RootHash, v.DataBlocks) }

// ParseVerity reads what String wrote.
func ParseVerity(s string) (Verity, error) {
	var v Verity
	h, n, ok := strings.Cut(s, ",")
	if !ok || len(h) != 64 {
		return v, fmt.Errorf("%s=%q: want 64 hex digits, a comma and the number of data blocks", KeyVerity, s)
	}
	if _, err := hex.Decode(v.RootHash[:], []byte(h)); err != nil {
		return v, fmt.Errorf("%s: root hash: %w", KeyVerity, err)
	}
	blocks, err := strconv.ParseUint(n, 10, 40)
	if err != nil || blocks == 0 {
		return v, fmt.Errorf("%s: data blocks %q: want a number from 1 to 2^40-1", KeyVerity, n)
	}
	v.DataBlocks = blocks
	return v, nil
}

// PartitionGUID is the GPT unique GUID of the root partition in its usual text form, lower case: the first 128 bits
// of the root hash, as the Discoverable Partitions Specification does for root partitions.
func (v Verity) PartitionGUID() string {
	h := hex.EncodeToString(v.RootHash[:16])
	return h[0:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:32]
}

// Names of things on disks.
const (
	BootLabel     = "RMPBOOT"           // FAT32 volume label of the ESP
	StateLabel    = "RMPSTATE"          // ext4 label of the state disk
	StateSerial   = "state"             // virtio-blk serial of the state disk
	SystemSerial  = "system"            // virtio-blk serial of the system disk
	ControlPort   = "rempart.control.0" // virtio-serial port of reports
	CommandPort   = "rempart.ctl.0"     // virtio-serial port of commands; package ctl says how
	ReadyPrefix   = "READY"             // a console line starting so: everything declared works
	FailedPrefix  = "FAILED"            // a console line starting so: the guest is closed or degraded, and why
	ConsolePrefix = "rempart: "
)

// StateXenVdevs are the Xen virtual devices a state disk may be: beside a whole system disk, xvda; beside a volume that
// holds nothing but the root, xvda1; and in a HVM guest, beside xvde, for the first four disks of such a guest are
// emulated ones too. In the first case xvda2 is a partition and no disk.
func StateXenVdevs() []string { return []string{"xvdb", "xvda2", "xvdf"} }

// DataSerial is the virtio-blk serial of the data disk of a name.
func DataSerial(name string) string { return "data-" + name }

// DataXenVdev is the Xen virtual device of the data disk that stands at a place among those of the profile, from 0.
// What the profile does not declare has none. They begin behind all that StateXenVdevs and identity.XenVdevs have, and
// behind the disks that are emulated in a HVM guest.
func DataXenVdev(number int) string { return "xvd" + string(rune('h'+number)) }

// What firstboot takes for a blank disk, which it formats.
const (
	// BlankWindow is how much of a disk's beginning and end must be zero, in bytes. The signatures of every filesystem,
	// volume manager, RAID and encryption that libblkid knows lie within it; the deepest are btrfs at 64 KiB and ZFS'
	// second label, which ends at 512 KiB.
	BlankWindow = 1 << 20
	// LeastDisk is the smallest disk that is formatted, in bytes: below, ext4 has no room for a journal.
	LeastDisk = 16 << 20
	// FormatMark begins a disk, and its last BlankWindow, while it is being formatted.
	FormatMark = "RMPFORMATTING\x00v2"
)

// What firstboot makes on a data disk, in its root.
const (
	DataLog   = "log"   // the log, where the profile has it kept there
	DataShell = "admin" // for shells of administrators
)

// Files of the root.
const (
	ProfilePath = "/etc/rempart/profile.json" // the checked profile, as JSON of profiles.Profile
	MasterPath  = "/etc/rempart/master.json"  // Master, see below
	BlockedPath = "/etc/rempart/blocked"      // names that files block, a table of package blocklist; none: no file
	SetsDir     = "/etc/rempart/sets"         // ranges of large sets: files of profiles.StoredPart, named by its digest
	PreloadPath = "/etc/rempart/modules"      // kernel modules to load before the first child, one a line
	BootModules = "/etc/modules"              // in the initramfs: modules the boot stage loads whatever the machine has
	ModulesDir  = "/lib/modules"              // + "/" + kernel release: *.ko, modules.dep, modules.alias, modules.softdep
	// AuthoritiesPath are the certificates of Debian's certificate authorities, where the profile needs them (PEM).
	AuthoritiesPath = "/etc/ssl/certs/ca-certificates.crt"
	Firstboot       = "/sbin/init" // the firstboot binary itself; other names are links to it
)

// Files of a running guest, on tmpfs.
const (
	RunDir     = "/run/rempart"
	BootPath   = "/run/rempart/boot.json"   // Boot, written by the boot stage
	ReportPath = "/run/rempart/report.json" // the last Report
	StateDir   = "/var"                     // mount point of the state disk
	LogDir     = "/var/log/rempart"         // the log: see package logging/segment
	LinkDir    = "/run/rempart/link"        // what the link child keeps over its restarts: DHCP leases
	LogRunDir  = "/run/rempart/log"         // what the log child keeps in memory
	LogSocket  = LogRunDir + "/socket"      // where children follow the log
	TimeDir    = "/run/rempart/time"        // of the time child
	TimeStatus = TimeDir + "/status.json"   // how the clock does: clock.Status
	ResolvPath = LinkDir + "/resolv.conf"   // name servers the guest itself asks; where /etc/resolv.conf leads
	LearntPath = LinkDir + "/learnt.conf"   // name servers learnt by DHCP and router advertisements, like resolv.conf(5)
	DNSDir     = "/run/rempart/dns"         // of the dns child
	DNSSocket  = DNSDir + "/socket"         // where it says how it does: dns.Status
	ListsDir   = "/run/rempart/lists"       // what the lists child lays down for others: package lists/handover
	ListsKept  = "/var/lib/rempart/lists"   // the last good list of each source
)

// Master names the master a root belongs to.
type Master struct {
	Name    string `json:"name"`
	Version string `json:"version"` // of rempart
	Arch    string `json:"arch"`    // Debian architecture: amd64, arm64
	Kernel  string `json:"kernel"`  // kernel release, as in `uname -r`
	Profile string `json:"profile"` // ProfileDigest
}

// ProfileDigest names a profile: the SHA-256 of its JSON, hex.
func ProfileDigest(profile []byte) string {
	sum := sha256.Sum256(profile)
	return hex.EncodeToString(sum[:])
}

// Boot is what the boot stage found, for the stages after it.
type Boot struct {
	SystemDisk string  `json:"system_disk"` // kernel name: "vda"
	RootDevice string  `json:"root_device"` // the verity device: "dm-0"
	ReadOnly   bool    `json:"read_only"`   // the hypervisor attached the system disk read-only
	RootHash   string  `json:"root_hash"`   // hex
	Started    float64 `json:"started"`     // CLOCK_BOOTTIME at the boot stage's first instruction, seconds
	Seconds    float64 `json:"seconds"`     // CLOCK_BOOTTIME at switch root
}
