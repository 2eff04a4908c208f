package contract

// Files of a profile that was changed while the guest runs. They are in memory: whatever went wrong, the guest that
// starts anew is the one its master describes.
const (
	LiveDir = "/run/rempart/live"
	// LivePath is the profile in force when it is not the master's own. PID 1 writes it, everybody reads it.
	LivePath = LiveDir + "/profile.json"
	// PreviousPath is the profile that was in force before the last change.
	PreviousPath = LiveDir + "/previous.json"
	// LiveSets are the ranges of large sets that came with a change, as in SetsDir.
	LiveSets = LiveDir + "/sets"
	// ProposalPath is where the admin child lays a live.Change for PID 1, in its own directory.
	ProposalPath = AdminDir + "/proposal.json"
	AdminDir     = "/run/rempart/admin"
	AdminSocket  = AdminDir + "/socket" // package ctl is spoken there
)

// MaxLive bounds an encoded live.Change, in bytes: the JSON of a profile at every bound of the language is smaller, and
// with it 200,000 IPv6 ranges that are prefixes fit.
const MaxLive = 8 << 20

// Undo bounds after how many seconds an unconfirmed change undoes itself: less than it takes to connect and confirm
// would undo every change, and a guest cut off for longer than an hour has been driven to by car.
const (
	DefaultUndo = 60
	LeastUndo   = 5
	MostUndo    = 3600
)

// LiveReport tells which profile is in force.
type LiveReport struct {
	Profile string `json:"profile"` // digest of the one in force
	Master  string `json:"master"`  // digest of the master's own
	// Since is the CLOCK_BOOTTIME of the last change, in seconds; 0: none since the start.
	Since float64 `json:"since,omitempty"`
	// UndoAt is the CLOCK_BOOTTIME at which the change undoes itself; 0: it is confirmed, or there is none.
	UndoAt float64 `json:"undo_at,omitempty"`
	// Answer is the number of the last request that was carried out or refused; Error says why it was refused, or why
	// the change was undone.
	Answer uint64 `json:"answer,omitempty"`
	Error  string `json:"error,omitempty"`
}
