package filter

import "rempart/profiles"

// # The short way
//
// With flowtable: true the packets of TCP and UDP connections that are established are handed on where they arrive,
// before any rule, routing or connection tracking: the kernel's flow table rewrites and sends them by what it learnt of
// the first ones. So each rule that is about every packet must keep its flows off the short way: those of lines that
// write class of service or hops are kept off here; those with helpers, and those whose sequence numbers a SYN proxy
// shifts, by the kernel (nft_flow_offload.c). SYN and FIN go the long way, so segments are clamped as ever; what is too
// large for the way out or has no hops left does too. Each flow is bound to the link it arrives by, so forged packets
// by other links meet antispoof. When routing leads a flow elsewhere it meets the rules again: nf_flow_table_ip.c asks
// whether its route still holds (nf_flow_dst_check).
//
// A flow table is bound to devices, which come and go, and the policy is loaded before any has its name: the table is
// made without, and package filter/offload adds them. To end all short ways, as a ban must, the flow table is made
// anew; that is why the rule that uses it is alone in a chain.

// FlowTable is the name of the flow table, and OffloadChain that of the one rule that uses it.
const (
	FlowTable    = "flows"
	OffloadChain = "shortway"
)

// offload adds what hands known flows over.
func (c *compiler) offload(ch *Chain) {
	if !c.profile.FlowTable {
		return
	}
	c.table.FlowTables = append(c.table.FlowTables, FlowTable)
	c.chain(OffloadChain, nil).Rules = []Rule{OffloadRule()}
	do := []Expr{Bits{Field: CTState, Mask: ctEstablished}}
	for i := range c.profile.Policy {
		if r := &c.profile.Policy[i]; settingsOf(r) != 0 && !r.NoTrack {
			do = append(do, HasMark{Mask: markSettings})
			break
		}
	}
	for _, proto := range []uint8{ProtoTCP, ProtoUDP} {
		ch.add("the short way", append(append([]Expr{Match{L4Proto, []Range{number(proto)}}}, do...),
			Verdict{VerdictJump, OffloadChain})...)
	}
}

// OffloadRule is the one rule of OffloadChain.
func OffloadRule() Rule {
	return Rule{Do: []Expr{Offload{FlowTable}}, Comment: "what follows skips the rules"}
}

// OffloadLinks are the links whose packets may take the short way: those that zones are on, and no dummies. Of VLANs,
// bonds and bridges it is they themselves and not what is below them: so bridges go on learning who is where.
func OffloadLinks(p *profiles.Profile) (all []string) {
	if !p.FlowTable {
		return nil
	}
	s := newSpace(p)
	for _, l := range p.Links {
		used := false
		for _, shares := range s.zones {
			for _, sh := range shares {
				used = used || sh.link == l.Name
			}
		}
		if used && !l.Dummy {
			all = append(all, l.Name)
		}
	}
	return all
}

// Offload hands the packet's connection to a flow table.
type Offload struct{ Table string }

func (o Offload) text() string { return "flow add @" + o.Table }
