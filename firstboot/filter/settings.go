package filter

import (
	"cmp"
	"fmt"
	"slices"

	"rempart/profiles"
)

// # What lines write into packets
//
// A line decides the first packet of a connection only, and its class of service and time to live are for all of them,
// also the answers. So the line notes both in the connection's mark, and a chain behind all others writes what the mark
// says. The mark holds the values themselves, not the number of a line: connections live longer than policies. A line
// without connection tracking sees every packet, and writes by itself.

// maxDSCP is the largest DSCP, RFC 2474, section 3: six bits.
const maxDSCP = 63

// The connection mark holds in these bits what is written into packets. A DSCP may be 0, so a bit says that there is
// one.
const (
	markDSCPShift = 8
	markDSCP      = 0x7f << markDSCPShift // with markDSCPSet
	markDSCPSet   = 1 << 14
	markHopsShift = 16
	markHops      = 0xff << markHopsShift
	markSettings  = markDSCP | markHops
)

// settingsOf is the part of the mark for what a line writes; 0: nothing.
func settingsOf(r *profiles.Rule) uint32 {
	mark := uint32(r.TTL) << markHopsShift
	if r.DSCP != nil {
		mark |= markDSCPSet | uint32(*r.DSCP)<<markDSCPShift
	}
	return mark
}

// setting is what a line does to the connections, or the packets, it accepts. In the bridge family nothing is written.
func (c *compiler) setting(r *profiles.Rule, v6 bool) (out []Expr) {
	mark := settingsOf(r)
	switch {
	case mark == 0 || c.table.Family != FamilyInet:
		return nil
	case !r.NoTrack:
		return []Expr{SetMark{Mask: markSettings, Value: mark}}
	}
	if r.DSCP != nil {
		out = append(out, SetDSCP{*r.DSCP, v6})
	}
	if r.TTL > 0 {
		out = append(out, SetHops{r.TTL, v6})
	}
	return out
}

// settings adds the chain that writes what the marks of connections say.
func (c *compiler) settings() {
	var rules []*profiles.Rule
	for i := range c.profile.Policy {
		if r := &c.profile.Policy[i]; settingsOf(r) != 0 && !r.NoTrack {
			rules = append(rules, r)
		}
	}
	if len(rules) == 0 {
		return
	}
	ch := c.chain("settings", &Base{Type: "filter", Hook: Postrouting, Priority: priorityMangle, Policy: VerdictAccept})
	ch.add("nothing is to be written", HasMark{Mask: markSettings}, accept)
	for _, part := range []uint32{markDSCP, markHops} {
		values := map[uint32]*profiles.Rule{}
		for _, r := range rules {
			if value := settingsOf(r) & part; value != 0 && values[value] == nil {
				values[value] = r
			}
		}
		sorted := make([]uint32, 0, len(values))
		for value := range values {
			sorted = append(sorted, value)
		}
		slices.SortFunc(sorted, func(a, b uint32) int { return cmp.Compare(a, b) })
		for _, value := range sorted {
			for _, v6 := range families {
				write := Expr(SetHops{uint8(value >> markHopsShift), v6})
				what := fmt.Sprintf("ttl %d", value>>markHopsShift)
				if part == markDSCP {
					dscp := uint8(value>>markDSCPShift) & maxDSCP
					write, what = SetDSCP{dscp, v6}, "dscp "+profiles.DSCPName(dscp)
				}
				ch.add(what, HasMark{Mask: part, Value: value}, write)
			}
		}
	}
}

// SetMark writes some bits of the connection's mark.
type SetMark struct{ Mask, Value uint32 }

// HasMark continues when the bits of the mask have the value in the connection's mark.
type HasMark struct{ Mask, Value uint32 }

// SetDSCP writes the class of service of a packet; the two bits of explicit congestion notification stay.
type SetDSCP struct {
	DSCP uint8
	IPv6 bool
}

// SetHops writes the time to live of an IPv4 packet, or the hop limit of an IPv6 one.
type SetHops struct {
	Hops uint8
	IPv6 bool
}

func (m SetMark) text() string {
	return fmt.Sprintf("ct mark set ct mark & 0x%08x | 0x%08x", ^m.Mask, m.Value)
}

func (m HasMark) text() string { return fmt.Sprintf("ct mark & 0x%08x == 0x%08x", m.Mask, m.Value) }

func (s SetDSCP) text() string {
	if s.IPv6 {
		return fmt.Sprintf("ip6 dscp set %d", s.DSCP)
	}
	return fmt.Sprintf("ip dscp set %d", s.DSCP)
}

func (s SetHops) text() string {
	if s.IPv6 {
		return fmt.Sprintf("ip6 hoplimit set %d", s.Hops)
	}
	return fmt.Sprintf("ip ttl set %d", s.Hops)
}
