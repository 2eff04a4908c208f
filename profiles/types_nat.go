package profiles

import (
	"net/netip"
	"slices"
)

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

// Forward sends what arrives for the guest's own address on to a host behind it (destination NAT). The policy need
// not repeat it: a forwarded flow is accepted.
type Forward struct {
	From     string      `json:"from"` // zone it arrives from
	Protocol Protocol    `json:"protocol"`
	Ports    []PortRange `json:"ports"` // as they arrive
	To       netip.Addr  `json:"to"`
	// Others are further targets, of To's family: each client has one of them all, by a hash of its address.
	Others []netip.Addr `json:"others,omitempty"`
	ToPort uint16       `json:"to_port,omitempty"` // 0: unchanged; else the port First maps to, ranges keep their order
	SNAT   bool         `json:"snat,omitempty"`    // the target sees the guest's own address as source
	// Address is the one of the guest's addresses it is about; zero: any.
	Address netip.Addr `json:"address,omitzero"`
	// Sources and the members of SourceSets are who may use it; both empty: everybody in the zone.
	Sources    []netip.Prefix `json:"sources,omitempty"`
	SourceSets []string       `json:"source_sets,omitempty"`
	Helper     Helper         `json:"helper,omitempty"`
	SynProxy   *SynProxy      `json:"synproxy,omitempty"` // nil: none
	At         Pos            `json:"at"`
}

// Targets are all hosts a forward leads to.
func (f *Forward) Targets() []netip.Addr { return append([]netip.Addr{f.To}, f.Others...) }

// Single are the forwards to one target each that a forward is made of.
func (f *Forward) Single() []Forward {
	var out []Forward
	for _, a := range f.Targets() {
		one := *f
		one.To, one.Others = a, nil
		out = append(out, one)
	}
	return out
}

// Helper is a part of the kernel that reads a protocol whose connections announce others: it lets in those announced,
// and translates the addresses in the announcements. It trusts what both ends write, so it is for declared flows only.
type Helper string

// The helpers.
const (
	HelperFTP  Helper = "ftp"  // RFC 959 and RFC 2428, data connections
	HelperTFTP Helper = "tftp" // RFC 1350, answers from another port
	HelperSIP  Helper = "sip"  // RFC 3261, media streams
)

// Helpers are all of them.
func Helpers() []Helper { return []Helper{HelperFTP, HelperTFTP, HelperSIP} }

// Protocol is what the helper's connections are carried by; false for no helper of ours.
func (h Helper) Protocol() (Protocol, bool) {
	switch h {
	case HelperFTP:
		return TCP, true
	case HelperTFTP, HelperSIP:
		return UDP, true
	}
	return "", false
}

// Helpers are those that the profile declares for something, each once, in a fixed order.
func (p *Profile) Helpers() []Helper {
	var out []Helper
	for _, h := range Helpers() {
		if slices.ContainsFunc(p.Policy, func(r Rule) bool { return r.Helper == h }) ||
			slices.ContainsFunc(p.Forwards, func(f Forward) bool { return f.Helper == h }) {
			out = append(out, h)
		}
	}
	return out
}

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
