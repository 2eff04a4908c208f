package filter

import (
	"net/netip"

	"rempart/profiles"
)

// Probe is one flow that proves a line of the policy, or the silence between its lines. The same probes run between
// namespaces, around a booted guest and from `rempart test`.
type Probe struct {
	Proves   string            // what it shows, with its place: "home -> self: ping (14:5)", "default: dmz -> home"
	From, To string            // zones, or profiles.Self for To
	Link     string            // the link the packet enters by
	OutLink  string            // the link it leaves by; empty when To is self
	Src, Dst netip.Addr        // as the sender writes them
	Protocol profiles.Protocol // TCP, UDP or Ping
	Port     uint16            // destination port as the sender writes it; 0 for Ping
	Pass     bool              // what must happen
	// SeenSrc, SeenDst and SeenPort are what the receiver must see after translation. Equal to Src, Dst and Port
	// where nothing is translated. Meaningless when Pass is false.
	SeenSrc, SeenDst netip.Addr
	SeenPort         uint16
}
