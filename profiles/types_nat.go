package profiles

import "net/netip"

// Pair is a direction between two zones: masquerade what goes from From to To.
type Pair struct {
	From     string   `json:"from"`
	To       string   `json:"to"`
	Families Families `json:"families,omitempty"`
	At       Pos      `json:"at"`
}

// Families are the address families that something is for.
type Families string

// The families. IPv6 hosts have addresses of their own, so it is translated only where a profile asks for it.
const (
	OnlyIPv4     Families = ""
	OnlyIPv6     Families = "ipv6"
	BothFamilies Families = "both"
)

// Has tells whether a family is among them.
func (f Families) Has(v6 bool) bool { return f == BothFamilies || v6 == (f == OnlyIPv6) }

// NAT is address translation beyond masquerading and forwards.
type NAT struct {
	Sources  []SourceNAT `json:"sources,omitempty"` // the first that fits counts, and all before Masquerade
	Mappings []Mapping   `json:"mappings,omitempty"`
}

// SourceNAT gives what goes from From to To an address of First to Last as its source. One client keeps one address.
type SourceNAT struct {
	From  string     `json:"from"`
	To    string     `json:"to"`
	First netip.Addr `json:"first"`
	Last  netip.Addr `json:"last"` // of the same family
	// Clients are who it is for; empty: everybody in From.
	Clients []netip.Prefix `json:"clients,omitempty"`
	At      Pos            `json:"at"`
}

// Mapping makes the addresses Inside known as Outside to a zone, host by host and in both directions: what comes for
// Outside goes to Inside, and what Inside sends to the zone comes from Outside. The policy decides what may pass; its
// lines speak of Inside. Zones that are not external reach the hosts by Outside too.
type Mapping struct {
	Zone    string       `json:"zone"`
	Outside netip.Prefix `json:"outside"`
	Inside  netip.Prefix `json:"inside"` // of the same family and length
	At      Pos          `json:"at"`
}

// Translate is the address in a prefix that stands where a does in another of the same length: its host part is kept.
func Translate(a netip.Addr, to netip.Prefix) netip.Addr {
	b, net := a.AsSlice(), to.Masked().Addr().AsSlice()
	for bit := range to.Bits() {
		mask := byte(0x80 >> (bit % 8))
		b[bit/8] = b[bit/8]&^mask | net[bit/8]&mask
	}
	out, _ := netip.AddrFromSlice(b) // as long as it was
	return out
}
