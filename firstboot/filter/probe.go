package filter

import (
	"net/netip"

	"rempart/profiles"
)

// Probe is one flow that proves a line of the policy, or the silence between its lines. The same probes run between
// namespaces, around a booted guest and from `rempart test`.
//
// A probe that must pass to Self passes when the guest answers at all: a TCP reset from a port nobody listens on is
// an answer, a lost packet is not. A probe that must not pass is one that the receiver never sees; the sender may
// see a refusal (a policy line with reject) or nothing.
//
// Addresses of a guest that are not in the profile, because a link gets them by DHCP, are written as the zero Addr:
// Dst is then the address of Link, SeenSrc that of OutLink. Whoever runs the probe fills them in; Src always tells
// the family.
type Probe struct {
	Proves   string            // what it shows, with its place: "home -> self: accept (14:5)", "default: dmz -> home"
	From, To string            // zones, or profiles.Self for To
	Link     string            // the link the packet enters by
	OutLink  string            // the link it leaves by; empty when To is self
	Bridge   string            // the bridge whose members both links are: the ends are neighbours; empty: it is routed
	Src, Dst netip.Addr        // as the sender writes them
	Protocol profiles.Protocol // TCP, UDP or Ping
	Port     uint16            // destination port as the sender writes it; 0 for Ping
	Pass     bool              // what must happen
	// SeenSrc, SeenDst and SeenPort are what the receiver must see after translation. Equal to Src, Dst and Port
	// where nothing is translated. Meaningless when Pass is false.
	SeenSrc, SeenDst netip.Addr
	SeenPort         uint16
	// SeenLast is set where the source may be any address from SeenSrc to it.
	SeenLast netip.Addr
}

// SeenAs tells whether a source the receiver sees is as the probe says. SeenSrc must be filled in.
func (p *Probe) SeenAs(src netip.Addr) bool {
	return src == p.SeenSrc || p.SeenLast.IsValid() && span{p.SeenSrc, p.SeenLast}.contains(src)
}
