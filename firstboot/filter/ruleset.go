package filter

import (
	"net/netip"
	"time"

	"rempart/profiles"
)

// Ruleset is what Compile returns: tables that are replaced as a whole. Its zero value is nothing at all.
type Ruleset struct {
	Tables []Table
}

// Family is the protocol family of a table, with the kernel's NFPROTO_* value.
type Family uint8

// The families. More exist; these are the ones a firewall of this kind can want.
const (
	FamilyInet   Family = 1 // IPv4 and IPv6
	FamilyNetdev Family = 5
	FamilyBridge Family = 7
)

// Table is one nftables table.
type Table struct {
	Family   Family
	Name     string
	Counters []string // named counters, packets and bytes, from zero
	Helpers  []Helper // of connection tracking
	// FlowTables are the names of tables of flows that skip the rules. They have no devices: those come and go.
	FlowTables []string
	Sets       []Set
	Chains     []Chain
}

// Set is a named set, or a map when Map says so.
type Set struct {
	Name     string
	Key      []Type // one type, or several that are matched together
	Map      MapKind
	Interval bool // the ranges of elements may hold more than one value; never with MapPort
	// Lasting is set for a set that is named after its content: whoever loads the rules keeps one of that name.
	Lasting bool
	// List is set for a set whose content changes while the policy stays the same: the part of its name before the
	// digest of the content. The fingerprint does not depend on that.
	List string
	// Size is set for a set that rules fill, by LimitSource or CountSource: how many elements it takes at most.
	Size     uint32
	Timeout  time.Duration // of a set that rules fill: whole seconds after which an unused element goes; 0: never
	Elements []Element
	// Ranges are the elements of a set of the profile, of one family: 48 bytes each, where an Element takes 200.
	Ranges profiles.Ranges
	// Absent is how many elements the set has that are not here: it can be asked when it is loaded, and not be loaded.
	Absent int
}

// Len is how many elements are here.
func (s *Set) Len() int { return len(s.Elements) + len(s.Ranges) }

// At is one of the elements that are here.
func (s *Set) At(i int) Element {
	if i < len(s.Elements) {
		return s.Elements[i]
	}
	r := s.Ranges[i-len(s.Elements)]
	return Element{Key: []Range{addrRange(span{r.First, r.Last})}}
}

// MapKind tells what a Set's elements lead to.
type MapKind uint8

// The kinds of map.
const (
	NoMap      MapKind = iota // a set: membership only
	MapVerdict                // Element.Verdict
	MapPort                   // Element.Port
	MapTarget                 // Element.To and Element.Port
)

// Element is one member of a Set: a range for each type of its key.
type Element struct {
	Key     []Range
	Verdict Verdict // of a MapVerdict
	Port    uint16  // of a MapPort or a MapTarget
	To      Range   // of a MapTarget: one address
	Comment string  // place of the profile it comes from: "14:5"; not of a map
}

// Chain is a list of rules. Without Base it is only reached by a verdict.
type Chain struct {
	Name  string
	Base  *Base
	Rules []Rule
}

// Base hooks a chain into the path of packets.
type Base struct {
	Type     string // "filter" or "nat"
	Hook     Hook
	Priority int32 // lower sees a packet earlier
	Policy   VerdictKind
}

// Hook is a place in the path of packets, with the kernel's NF_INET_* value.
type Hook uint32

// The hooks of the inet family.
const (
	Prerouting  Hook = 0
	Input       Hook = 1
	Forward     Hook = 2
	Output      Hook = 3
	Postrouting Hook = 4
)

// Rule is a list of expressions, carried out left to right until one does not match.
type Rule struct {
	Do []Expr
	// Comment says which part of the profile the rule comes from. It travels into the kernel, cut to
	// MaxComment bytes, and into error messages.
	Comment string
	At      profiles.Pos // the same place, where it is one line of the policy
}

// MaxComment is the longest comment nft(8) takes, in bytes (NFTNL_UDATA_COMMENT_MAXLEN is 128 with its NUL).
const MaxComment = 127

// Expr is one step of a rule. The set of implementations is closed: Match, Bits, HostPart, Lookup, Count, Verdict,
// Reject, SetHelper, Share, DestinationNAT, SourceNAT, MapPrefix, Masquerade, ClampMSS, Rate, LimitSource, CountSource,
// Log, Uncounted, Counted, FromSource, ToSource, OverSource, BanSource, SetMark, HasMark, SetDSCP, SetHops, NoTrack,
// Begins, SynProxy, Offload.
type Expr interface{ text() string }

// Match continues when the selected value is in one of the ranges.
type Match struct {
	Field  Field
	Ranges []Range // not empty; sorted and disjoint where there are several
}

// Bits continues when any bit of the mask is set in the selected value, or with None when none is.
type Bits struct {
	Field Field // CTState, CTStatus or TCPFlags
	Mask  uint32
	None  bool
}

// HostPart continues when the lower 64 bits of an IPv6 address are those of another, whose upper ones are zero.
type HostPart struct {
	Field Field // IP6SAddr or IP6DAddr
	Host  netip.Addr
}

// Lookup looks the selected values up, together, in a set of the same table: continues when they are in it, and when
// it is a verdict map does what it says.
type Lookup struct {
	Fields []Field
	Set    string
	Map    MapKind // NoMap or MapVerdict
}

// Count adds the packet to a named counter.
type Count struct{ Name string }

// VerdictKind is what becomes of a packet or of its way through the chains.
type VerdictKind uint8

// The verdicts.
const (
	VerdictAccept VerdictKind = iota + 1
	VerdictDrop
	VerdictJump // comes back
	VerdictGoto // does not come back
)

// Verdict ends a rule.
type Verdict struct {
	Kind  VerdictKind
	Chain string // of VerdictJump and VerdictGoto
}

// Reject drops and tells the sender: by a TCP reset, or by an ICMP or ICMPv6 error.
type Reject struct {
	TCPReset bool
	With     Unreachable // unless TCPReset
}

// Unreachable is an error that ICMP and ICMPv6 both have, with the kernel's NFT_REJECT_ICMPX_* value.
type Unreachable uint8

// The errors.
const (
	NoRoute         Unreachable = 0
	PortUnreachable Unreachable = 1
	HostUnreachable Unreachable = 2
	AdminProhibited Unreachable = 3
)

// Rate continues while no more than so many packets came in the time, and after a pause Burst at once.
type Rate struct {
	Packets uint64
	Per     time.Duration // a second, a minute, an hour or a day
	Burst   uint32
}

// LimitSource is Rate for each source address by itself: an IPv4 address, or the /64 of an IPv6 one. It does not
// match when the set that remembers the sources is full.
type LimitSource struct {
	Set  string
	IPv6 bool
	Rate Rate
}

// CountSource continues while the source, as in LimitSource, has no more than Max connections.
type CountSource struct {
	Set  string
	IPv6 bool
	Max  uint32
}

// Log writes a line to the kernel log that begins with the prefix.
type Log struct{ Prefix string }

// DestinationNAT sends the connection to another address.
type DestinationNAT struct {
	To      Range  // one address
	IPv6    bool   // To is an IPv6 address
	Port    uint16 // 0: unchanged, unless PortMap is given
	PortMap string // name of a MapPort set: destination port -> new one
	Targets string // name of a MapTarget set: destination port -> address and port; To, Port and PortMap are not looked at
	Field   Field  // TCPDPort or UDPDPort: what PortMap and Targets are asked with
}

// Helper is a connection tracking helper under a name.
type Helper struct {
	Name  string
	Kind  string // the kernel's name: "ftp"
	Proto uint8  // transport protocol
}

// SetHelper gives the connection a helper of the table.
type SetHelper struct{ Name string }

// Share continues for one part of the senders: those whose address the kernel's hash gives the number Part of Of.
type Share struct {
	IPv6     bool
	Of, Part uint32
}

// SourceNAT gives the connection another source: the address, or one of several, always the same for a client.
type SourceNAT struct {
	To   Range
	IPv6 bool
}

// MapPrefix gives the connection the leading bits of a prefix in its source or its destination; the rest stays.
type MapPrefix struct {
	To     Range // a prefix
	IPv6   bool
	Source bool
}

// Masquerade gives the connection the address of the link it leaves by as its source.
type Masquerade struct{}

// ClampMSS lowers the maximum segment size a TCP SYN announces to what both directions of the route can carry.
type ClampMSS struct{}

// find returns the chain of that name, or nil.
func (t *Table) find(name string) *Chain {
	for i := range t.Chains {
		if t.Chains[i].Name == name {
			return &t.Chains[i]
		}
	}
	return nil
}

// Set returns the set of that name, or nil.
func (t *Table) Set(name string) *Set {
	for i := range t.Sets {
		if t.Sets[i].Name == name {
			return &t.Sets[i]
		}
	}
	return nil
}
