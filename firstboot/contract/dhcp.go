package contract

import (
	"fmt"
	"net/netip"
)

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
	Release string `json:"release,omitempty"` // an address, or a delegated prefix: see ParseLeased
}

// ParseLeased reads what a lease may be of: an address, which is a prefix of it alone, or a prefix without bits of a
// host.
func ParseLeased(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%.64q is no address, and no prefix such as 2001:db8:0:100::/56", text)
	}
	return p, nil
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
