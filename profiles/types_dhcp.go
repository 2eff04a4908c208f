package profiles

import "net/netip"

// DHCP is the DHCPv4 server on one link: for the link's own subnets, and for those behind relay agents that send by it.
type DHCP struct {
	Link    string       `json:"link"`
	Subnets []DHCPSubnet `json:"subnets"`
	Hosts   []DHCPHost   `json:"hosts,omitempty"`
	Classes []DHCPClass  `json:"classes,omitempty"`
	// Quiet leaves clients alone that ask for an address this server knows nothing of: there is another server.
	Quiet bool `json:"quiet,omitempty"`
	// NoProbe hands addresses out without asking the network first whether somebody has them.
	NoProbe bool `json:"no_probe,omitempty"`
	At      Pos  `json:"at"`
}

// DHCPSubnet is what clients of one subnet are given.
type DHCPSubnet struct {
	Prefix netip.Prefix `json:"prefix"`          // masked
	Server netip.Addr   `json:"server,omitzero"` // the guest's address in it; zero: it is behind relay agents
	Pools  Ranges       `json:"pools,omitempty"` // without what is excluded; empty: only named hosts are served
	Lease  uint32       `json:"lease"`           // seconds; 2^32-1: for ever
	// Relays are where the relay agents of the subnet send from. Empty for a subnet of the link itself.
	Relays []netip.Prefix `json:"relays,omitempty"`
	DHCPSettings
	At Pos `json:"at"`
}

// DHCPSettings are what a client is told beyond its address. Those of a host come before those of classes, in the order
// of the profile, and those before the subnet's.
type DHCPSettings struct {
	Options    []DHCPOption `json:"options,omitempty"`     // in rising order of their codes
	NextServer netip.Addr   `json:"next_server,omitzero"`  // siaddr of RFC 2131: where the boot file is
	BootFile   string       `json:"boot_file,omitempty"`   // at most 127 bytes
	ServerName string       `json:"server_name,omitempty"` // sname; at most 63 bytes
}

// DHCPOption is an option as it is sent.
type DHCPOption struct {
	Code  uint8  `json:"code"`            // 1 to 254
	Value []byte `json:"value,omitempty"` // at most 1024 bytes; above 255 it is sent as RFC 3396 has it
	// Drop is set for an option that is not to be sent although the server or a wider scope would.
	Drop bool `json:"drop,omitempty"`
}

// DHCPHost is a client the profile names.
type DHCPHost struct {
	Name string `json:"name"`
	// It is known by any of these. ClientIDs are hex of option 61 with its type byte.
	MACs      []string   `json:"macs,omitempty"`
	ClientIDs []string   `json:"client_ids,omitempty"`
	Address   netip.Addr `json:"address,omitzero"` // in a subnet, its pools or not; zero: one from the pools
	Lease     uint32     `json:"lease,omitempty"`  // seconds; 0: the subnet's
	Ignore    bool       `json:"ignore,omitempty"` // it is never answered
	DHCPSettings
	At Pos `json:"at"`
}

// DHCPClass are clients that say the same of themselves. All that is set must hold.
type DHCPClass struct {
	Name   string `json:"name"`
	Vendor string `json:"vendor,omitempty"` // option 60 is this, or begins so when it ends in *
	User   string `json:"user,omitempty"`   // one of option 77 is this, or begins so when it ends in *
	// Hostname: option 12 is this, whatever the case of its letters, or begins so when it ends in *. Clients choose it.
	Hostname string `json:"hostname,omitempty"`
	MAC      string `json:"mac,omitempty"`    // the hardware address begins so: "52:54:00"
	Arch     *int   `json:"arch,omitempty"`   // one of option 93 (RFC 4578) is this: what PXE firmware says it is
	Ignore   bool   `json:"ignore,omitempty"` // they are never answered, unless a host of the profile
	DHCPSettings
	At Pos `json:"at"`
}
