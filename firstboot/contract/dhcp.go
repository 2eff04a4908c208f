package contract

// Files of the DHCP server.
const (
	DHCPDir    = "/var/lib/rempart/dhcp" // leases
	DHCPRunDir = "/run/rempart/dhcp"
	DHCPSocket = DHCPRunDir + "/socket" // a LeaseQuestion in, ServedLeases out, each a line of JSON
	// DownstreamDir is for the child that routes: where delegated prefixes lead, see package dhcp/downstream.
	DownstreamDir = "/run/rempart/downstream"
)

// LeaseQuestion is what the DHCP server is asked: for all leases, or to end one.
type LeaseQuestion struct {
	Release string `json:"release,omitempty"` // an address
}

// ServedLease is a lease the guest gave, or what came of a question that is not for leases.
type ServedLease struct {
	Address  string `json:"address,omitempty"` // or prefix
	Hardware string `json:"hardware,omitempty"`
	Name     string `json:"name,omitempty"` // as the client says
	State    string `json:"state,omitempty"`
	Ends     int64  `json:"ends,omitempty"` // Unix seconds; 0: never
	Error    string `json:"error,omitempty"`
}
