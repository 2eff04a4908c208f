package contract

// Report is the guest's own verdict. It is printed on the console in words and sent as one line of JSON on the
// control channel each time it changes. The host must treat it as the claim of a guest that may be compromised.
type Report struct {
	Name     string       `json:"name"`
	Version  string       `json:"version"`
	Ready    bool         `json:"ready"`              // everything below is well
	Settled  bool         `json:"settled"`            // the guest's start is over, well or not: Ready is a verdict
	Failures []string     `json:"failures,omitempty"` // one line each: what, why
	Warnings []string     `json:"warnings,omitempty"` // does not prevent READY: more NICs than links, ...
	Root     RootReport   `json:"root"`
	State    StateReport  `json:"state"`
	Disks    []DiskReport `json:"disks,omitempty"` // data disks, in the order of the profile
	Policy   string       `json:"policy"`          // "none", "closed", "loaded"
	Links    []LinkReport `json:"links"`
	Children []ChildState `json:"children"`
	Times    Times        `json:"times"`
	Memory   Memory       `json:"memory"`
	Live     LiveReport   `json:"live"`
}

// RootReport tells how the root is protected.
type RootReport struct {
	ReadOnlyDisk bool   `json:"read_only_disk"` // attached read-only by the hypervisor
	Verified     bool   `json:"verified"`       // mounted through dm-verity
	Scrubbed     bool   `json:"scrubbed"`       // every block has been read once since boot
	Hash         string `json:"hash"`
}

// StateReport tells what is mounted on /var.
type StateReport struct {
	Device string `json:"device"` // "vdb"; empty: none, /var is a tmpfs
	Action string `json:"action"` // "mounted", "formatted", "reformatted", "grown", "foreign", "absent", "failed"
	Bytes  int64  `json:"bytes"`
	Free   int64  `json:"free"`
}

// DiskReport tells what became of a data disk.
type DiskReport struct {
	Name   string `json:"name"`
	Mount  string `json:"mount"`
	Device string `json:"device,omitempty"` // "vdc"; empty: nothing is mounted
	Action string `json:"action"`           // as in StateReport
	Bytes  int64  `json:"bytes"`
	Free   int64  `json:"free"`
	Error  string `json:"error,omitempty"` // why nothing is mounted
}

// LinkReport tells what a link became.
type LinkReport struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac"`
	Up        bool     `json:"up"`
	Addresses []string `json:"addresses"` // CIDR, global scope
	Error     string   `json:"error,omitempty"`
}

// ChildState is one supervised child.
type ChildState struct {
	Name     string `json:"name"`
	State    string `json:"state"` // "waiting", "starting", "ready", "done", "failed", "restarting", "stopped"
	PID      int    `json:"pid,omitempty"`
	Restarts int    `json:"restarts"`
	Last     string `json:"last,omitempty"` // why it last ended
}

// Times are CLOCK_BOOTTIME seconds; zero: not yet.
type Times struct {
	BootStage float64 `json:"boot_stage"` // the boot stage's first instruction
	Init      float64 `json:"init"`       // PID 1 on the root
	Policy    float64 `json:"policy"`     // the policy is loaded
	Links     float64 `json:"links"`      // all links are up
	Ready     float64 `json:"ready"`
	Scrub     float64 `json:"scrub"`
}

// Memory is from /proc/meminfo, in bytes.
type Memory struct {
	Total     int64 `json:"total"`
	Available int64 `json:"available"`
}
