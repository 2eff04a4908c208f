package contract

import (
	"io/fs"
	"path"
)

// QuotaFile, below StateDir, is where the kernel of a running guest keeps what each child has of the state disk. It is
// made anew at each start, and says nothing that the files themselves do not.
const QuotaFile = "lib/rempart/quota"

// StatePlace is a directory of the state disk, and what those who write there leave in it: the guest makes it at each
// start, and who looks at the disk from outside takes everything else for foreign.
type StatePlace struct {
	Path  string // below StateDir; empty: StateDir itself
	Mode  fs.FileMode
	Owner int // user and group, of the directory and of the files in it
	// Files are patterns (path.Match) of the names of the regular files that may lie in it; none: no file may.
	Files []string
	// FileMode is the most that its files may allow.
	FileMode fs.FileMode
	// Held is the name of a file that the kernel of a running guest makes immutable, and that still is after a power cut.
	Held string
}

// StatePlaces are all directories that the guest keeps on the state disk, parents before what is in them.
func StatePlaces() []StatePlace {
	return []StatePlace{
		{Path: "", Mode: 0o755},
		{Path: "home", Mode: 0o755},
		{Path: "root", Mode: 0o700},
		{Path: "log", Mode: 0o755},
		{Path: "log/rempart", Mode: 0o750, Owner: UIDLog, Files: []string{"*.log"}, FileMode: 0o640},
		{Path: "lib", Mode: 0o755},
		{Path: "lib/rempart", Mode: 0o755, Files: []string{"seed", "seed.new", path.Base(QuotaFile)},
			FileMode: 0o600, Held: path.Base(QuotaFile)},
		{Path: "lib/rempart/time", Mode: 0o750, Owner: UIDTime, Files: []string{"clock", "clock.new"}, FileMode: 0o644},
		{Path: "lib/rempart/dhcp", Mode: 0o750, Owner: UIDDHCP, Files: []string{"leases4*", "leases6*"}, FileMode: 0o640},
		{Path: "lib/rempart/ra", Mode: 0o750, Owner: UIDRA, Files: []string{"advertised", "advertised.new"}, FileMode: 0o640},
		{Path: "spool", Mode: 0o755},
		{Path: "cache", Mode: 0o755},
		{Path: "lib/rempart/lists", Mode: 0o755, Owner: UIDLists, Files: []string{"*"}, FileMode: 0o644},
		{Path: "lib/lists", Mode: 0o755, Files: []string{"*"}, FileMode: 0o644},
		{Path: "tmp", Mode: 0o777 | fs.ModeSticky},
	}
}

// StateLink is a symbolic link of the state disk.
type StateLink struct{ Path, Target string }

// StateLinks are all that the guest keeps there: what dies with a boot lives on the tmpfs.
func StateLinks() []StateLink { return []StateLink{{"run", "../run"}, {"lock", "../run/lock"}} }
