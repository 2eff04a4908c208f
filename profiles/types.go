package profiles

import "net/netip"

// Profile is what a profile file says, checked, with every default filled in and every name resolved. It is a plain
// value: it marshals to JSON deterministically, and that JSON is what a guest carries on its root.
type Profile struct {
	Name       string    `json:"name"`   // host name, RFC 1123 label
	Memory     int64     `json:"memory"` // bytes of RAM a guest is given by default
	Kernel     string    `json:"kernel"` // KernelCloud or KernelFull
	State      State     `json:"state"`
	Disks      []Disk    `json:"disks,omitempty"` // data disks, in the order of the file: see DiskNumber
	Admin      Admin     `json:"admin"`
	Links      []Link    `json:"links"` // in the order of the file: NICs without a MAC are taken in bus order
	Zones      []Zone    `json:"zones"` // in the order of the file
	Policy     []Rule    `json:"policy"`
	Masquerade []Pair    `json:"masquerade,omitempty"`
	NAT        NAT       `json:"nat,omitzero"`
	Forwards   []Forward `json:"forwards,omitempty"`
	Hosts      []Host    `json:"hosts,omitempty"`
	Sets       []Set     `json:"sets,omitempty"`
	// DynamicSets are filled by lines of the policy.
	DynamicSets []DynamicSet `json:"dynamic_sets,omitempty"`
	Bans        []Ban        `json:"bans,omitempty"`
	FlowTable   bool         `json:"flowtable,omitempty"` // known TCP and UDP flows skip the rules where the kernel can
	// Routes lead nowhere: their Type is set. Those that lead somewhere are their link's.
	Routes       []Route       `json:"routes,omitempty"`
	RoutingRules []RoutingRule `json:"rules,omitempty"`
	DNS          *DNS          `json:"dns,omitempty"`
	RA           []Advert      `json:"ra,omitempty"`
	DHCP6        []DHCP6       `json:"dhcp6,omitempty"`
	Logging      Logging       `json:"logging,omitzero"`
	DHCP         []DHCP        `json:"dhcp,omitempty"` // in the order of the file
	NTP          *NTP          `json:"ntp,omitempty"`  // nil: the guest takes its hypervisor's clock
	Warnings     []Finding     `json:"-"`              // what check says without refusing the profile
}

// Pos is a place in the profile file. Line and Column count from 1; zero means unknown.
type Pos struct {
	Line   int `json:"line"`
	Column int `json:"column"`
}

// State is the guest's own writable disk.
type State struct {
	Size int64 `json:"size"` // bytes; 0: no state disk, /var is a tmpfs that dies with the guest
}

// Admin is the one way in that stands above every other rule.
type Admin struct {
	None     bool           `json:"none,omitempty"`     // the profile says it wants no way in but the console
	Zones    []string       `json:"zones,omitempty"`    // from anywhere in these zones
	Prefixes []netip.Prefix `json:"prefixes,omitempty"` // from these addresses, by any link
	// Keys may log in by SSH: lines of authorized_keys, each "TYPE BASE64 [COMMENT]". Further ones may be on a guest's
	// identity disk.
	Keys []string `json:"keys,omitempty"`
	// Console: whoever has the guest's console has its prompt there, unasked.
	Console bool `json:"console,omitempty"`
	// Shell: whoever logs in at a terminal gets a shell, which is in the root then and in no other.
	Shell bool `json:"shell,omitempty"`
	At    Pos  `json:"at"`
}

// Link is a network interface of the guest.
type Link struct {
	Name string `json:"name"` // 1 to 15 bytes (IFNAMSIZ-1)
	// MAC is the NIC's hardware address it is found by; for a link that is no NIC the hardware address it gets.
	MAC       string         `json:"mac,omitempty"`
	Match     NICMatch       `json:"match,omitzero"` // of a NIC: what else it is found by
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	DHCP      bool           `json:"dhcp,omitempty"`  // DHCPv4 client
	Auto      bool           `json:"auto,omitempty"`  // IPv6 addresses by router advertisements
	DHCP6     bool           `json:"dhcp6,omitempty"` // an IPv6 address by DHCPv6
	// Instance and InstanceGateway: Addresses and Gateways are not the profile's to say. They are on the identity disk of
	// each guest, and empty until that is known.
	Instance        bool `json:"instance,omitempty"`
	InstanceGateway bool `json:"instance_gateway,omitempty"`
	// Delegation: prefixes for the links inside are asked for here. At most one link has it.
	Delegation *Delegation `json:"delegation,omitempty"`
	Delegated  []Delegated `json:"delegated,omitempty"`
	ClientID   string      `json:"client_id,omitempty"` // of the DHCP client; empty: the hardware address
	Accept     Believed    `json:"accept,omitzero"`
	Gateways   []Gateway   `json:"gateways,omitempty"`
	Routes     []Route     `json:"routes,omitempty"`
	MTU        int         `json:"mtu,omitempty"` // bytes; 0: leave the NIC's own
	// At most one of the next six; none: the link is a NIC.
	VLAN      *VLAN      `json:"vlan,omitempty"`
	Bond      *Bond      `json:"bond,omitempty"`
	Bridge    *Bridge    `json:"bridge,omitempty"`
	Macvlan   *Macvlan   `json:"macvlan,omitempty"`
	Dummy     bool       `json:"dummy,omitempty"`
	WireGuard *WireGuard `json:"wireguard,omitempty"`

	VirtualMAC string   `json:"virtual_mac,omitempty"` // the NIC uses it in place of its own
	Offloads   Offloads `json:"offloads,omitzero"`
	TxQueue    int      `json:"txqueuelen,omitempty"` // packets; 0: leave the kernel's
	NoARP      bool     `json:"no_arp,omitempty"`
	NoIPv6     bool     `json:"no_ipv6,omitempty"`
	At         Pos      `json:"at"`
}

// Gateway is a default route.
type Gateway struct {
	Addr   netip.Addr `json:"addr"`
	OnLink bool       `json:"on_link,omitempty"` // reachable although in none of the link's subnets
	Metric uint32     `json:"metric,omitempty"`  // the lowest wins; 0: earlier lines of the profile before later ones
}

// Believed says what is taken of what DHCP servers and router advertisements say. Its zero value takes everything.
type Believed struct {
	Metric    uint32         `json:"metric,omitempty"`     // of their routes; 0: 512 and more by DHCP, 1024 and more else
	NoDefault bool           `json:"no_default,omitempty"` // no default route
	NoDNS     bool           `json:"no_dns,omitempty"`     // no name servers and no search domain
	Servers   []netip.Addr   `json:"servers,omitempty"`    // DHCP servers; empty: all
	Routers   []netip.Addr   `json:"routers,omitempty"`    // link-local; empty: all
	Prefixes  []netip.Prefix `json:"prefixes,omitempty"`   // what advertised prefixes must be in; empty: any
}

// RouteType is what becomes of packets by a route that leads nowhere.
type RouteType string

// The types: silence, or one of the ICMP errors host unreachable and administratively prohibited.
const (
	Blackhole   RouteType = "blackhole"
	Unreachable RouteType = "unreachable"
	Prohibit    RouteType = "prohibit"
)

// Route is a static route.
type Route struct {
	To     netip.Prefix `json:"to"`
	Via    netip.Addr   `json:"via,omitzero"` // zero: directly on the link, or nowhere
	OnLink bool         `json:"on_link,omitempty"`
	Source netip.Addr   `json:"source,omitzero"` // of the guest's own packets; zero: the kernel's choice
	Metric uint32       `json:"metric"`          // 1 and more; the lowest wins
	Table  uint32       `json:"table,omitempty"` // 1 to 252; 0: the main table
	Type   RouteType    `json:"type,omitempty"`  // empty for the routes of a link
	At     Pos          `json:"at"`
}

// RoutingRule sends packets to a routing table. Zero fields match everything.
type RoutingRule struct {
	From     netip.Prefix `json:"from,omitzero"`
	To       netip.Prefix `json:"to,omitzero"`
	Link     string       `json:"link,omitempty"` // they came in by it; Self: the guest's own
	Table    uint32       `json:"table"`          // 1 to 252
	Priority uint32       `json:"priority"`       // 1 to 32765, rising
	At       Pos          `json:"at"`
}

// Names with a meaning in Rule.From and Rule.To.
const (
	Self = "self" // the guest itself
	Any  = "any"  // every zone, not self
)

// Zone is a part of the network that is trusted alike: links, or prefixes on links.
type Zone struct {
	Name     string   `json:"name"`
	Members  []Member `json:"members"`
	External bool     `json:"external,omitempty"` // never gets the admin path by zone
	At       Pos      `json:"at"`
}

// Member is one link's share of a zone.
type Member struct {
	Link     string         `json:"link"`
	Prefixes []netip.Prefix `json:"prefixes,omitempty"` // addresses on that link; empty with Rest unset: all of it
	Rest     bool           `json:"rest,omitempty"`     // what no other zone claims on that link
}

// Action is what happens to a packet that a rule matches.
type Action string

// The actions. Reject answers with a TCP reset or an ICMP administratively-prohibited error.
const (
	Accept Action = "accept"
	Drop   Action = "drop"
	Reject Action = "reject"
)

// Rule is one line of the policy. Rules are read top-down; the first that matches decides; what none matches is
// dropped. Answers to what was accepted always pass.
type Rule struct {
	From   string `json:"from"` // zone, Any, or Self
	To     string `json:"to"`   // zone, Any, or Self
	Action Action `json:"action"`
	// Matches are alternatives; empty: everything.
	Matches []Match `json:"matches,omitempty"`
	// Limit is how fast one source may begin flows, and Connections how many it may have at a time; with Accept only.
	// A source is an IPv4 address or an IPv6 /64. What is above is dropped: no later rule is asked.
	Limit       *Limit     `json:"limit,omitempty"`
	Connections uint32     `json:"connections,omitempty"` // 0: any number
	Log         string     `json:"log,omitempty"`         // what lines in the kernel log begin with; empty: none
	With        RejectWith `json:"with,omitempty"`        // of Reject; empty: see there
	Helper      Helper     `json:"helper,omitempty"`      // for the connections a line between zones accepts
	// DSCP and TTL are written into every packet of the routed connections a line accepts, in both directions.
	DSCP *uint8 `json:"dscp,omitempty"` // 0 to 63; nil: unchanged
	TTL  uint8  `json:"ttl,omitempty"`  // IPv4 time to live, IPv6 hop limit; 0: unchanged
	// NoTrack keeps what a line accepts, and what looks like an answer to it, out of connection tracking.
	NoTrack  bool      `json:"notrack,omitempty"`
	SynProxy *SynProxy `json:"synproxy,omitempty"` // nil: none
	Add      string    `json:"add,omitempty"`      // the dynamic set that gets the sources; empty: none
	At       Pos       `json:"at"`
}

// Limit is a rate: Count in each Per, and Burst at once before the rate holds.
type Limit struct {
	Count uint32 `json:"count"`
	Per   string `json:"per"` // "s", "m", "h" or "d"
	Burst uint32 `json:"burst"`
}

// RejectWith is the ICMP and ICMPv6 error a Reject answers with, also to TCP.
type RejectWith string

// The errors. PortUnreachable is what a host without the service says.
const (
	AdminProhibited RejectWith = "admin-prohibited"
	PortUnreachable RejectWith = "port-unreachable"
	HostUnreachable RejectWith = "host-unreachable"
	NoRoute         RejectWith = "no-route"
)

// Match is a kind of flow. Zero fields match everything.
type Match struct {
	Protocol     Protocol       `json:"protocol,omitempty"`
	Ports        []PortRange    `json:"ports,omitempty"` // destination ports; tcp, udp and sctp only
	Types        []uint16       `json:"types,omitempty"` // ICMP types, 0 to 255; icmp and icmpv6 only
	Sources      []netip.Prefix `json:"sources,omitempty"`
	Destinations []netip.Prefix `json:"destinations,omitempty"`
	// Sets whose members count as Sources and Destinations too.
	SourceSets      []string `json:"source_sets,omitempty"`
	DestinationSets []string `json:"destination_sets,omitempty"`
	// Hosts of links whose subnets are delegated, which count as Sources and Destinations too.
	DelegatedSources      []Delegated `json:"delegated_sources,omitempty"`
	DelegatedDestinations []Delegated `json:"delegated_destinations,omitempty"`
}

// Protocol is what a Match or Forward speaks of.
type Protocol string

// The protocols that are more than a number. Ping is echo-request of ICMP and of ICMPv6. All others are in
// protocols.go, or are "proto/" and the number.
const (
	AnyProtocol Protocol = ""
	TCP         Protocol = "tcp"
	UDP         Protocol = "udp"
	SCTP        Protocol = "sctp"
	Ping        Protocol = "ping"
	ICMP        Protocol = "icmp"
	ICMP6       Protocol = "icmpv6"
)

// PortRange is First to Last, both included; Last equals First for a single port.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// Ban shuts out a source, an IPv4 address or an IPv6 /64, once it completed more than so many TCP connections to a
// service within so long.
type Ban struct {
	Service  string      `json:"service"` // as written: "ssh", "tcp/8006"
	Ports    []PortRange `json:"ports"`   // TCP, as the machine that serves them sees them
	Attempts uint32      `json:"attempts"`
	Window   int64       `json:"window"` // seconds
	For      int64       `json:"for"`    // seconds
	At       Pos         `json:"at"`
}

// Host is a name the profile gives to addresses.
type Host struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
	At        Pos          `json:"at"`
}

// Logging is what is logged beyond what lines of the policy say, and where all of the log is sent to.
type Logging struct {
	// Drops are the zones whose traffic is logged when no line of the policy accepts it; AllDrops: that of all zones, and
	// what is in no zone or forged.
	Drops    []string   `json:"drops,omitempty"`
	AllDrops bool       `json:"all_drops,omitempty"`
	To       *LogServer `json:"to,omitempty"` // nil: nowhere
	// Disk is the data disk that the log is kept on, in place of the state disk, while it is there; empty: the state disk.
	Disk string `json:"disk,omitempty"`
	At   Pos    `json:"at"`
}

// LogServer takes the log as RFC 5424 has it.
type LogServer struct {
	Addr     netip.Addr `json:"addr"`
	Port     uint16     `json:"port"`
	Protocol Protocol   `json:"protocol"`      // UDP (RFC 5426) or TCP (RFC 6587, octet counting)
	TLS      *LogTLS    `json:"tls,omitempty"` // over TCP (RFC 5425); nil: in the clear
}

// LogTLS is how a log server shows who it is: CA or Fingerprint at least is set.
type LogTLS struct {
	CA string `json:"ca,omitempty"` // certificates of authorities in PEM
	// Fingerprint is the SHA-256 of the server's own certificate, 64 hex digits in lower case.
	Fingerprint string `json:"fingerprint,omitempty"`
	Name        string `json:"name,omitempty"`   // in the server's certificate; empty: its address is
	Client      bool   `json:"client,omitempty"` // the guest must show a certificate, from its identity disk
}

// NTP is where the guest's clock takes the time from, and whom it tells it.
type NTP struct {
	Servers []string `json:"servers,omitempty"` // addresses and DNS names; none: the hypervisor's clock is not corrected
	Serve   []string `json:"serve,omitempty"`   // links on which questions are answered
	At      Pos      `json:"at"`
}
