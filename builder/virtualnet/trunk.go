package virtualnet

import (
	"encoding/binary"
	"hash/fnv"
	"net"
	"sync"
)

// Ethernet types, from the IEEE registry, and the size of a VLAN tag in bytes (IEEE 802.1Q, 9.6).
const (
	etherTypeAt = 12 // behind the two addresses
	Ether8021Q  = 0x8100
	Ether8021AD = 0x88a8
	tagSize     = 4
	tagVLAN     = 0xfff // the rest of the tag is priority, which nobody here looks at
)

// CarryVLAN makes inner one VLAN of s: what the guest sends on s with that tag arrives on inner without it, and what
// hosts on inner send goes out on s with it. etherType is Ether8021Q, or Ether8021AD for the outer tag of two; for the
// inner one s is itself the inner segment of a VLAN.
func (s *Segment) CarryVLAN(inner *Segment, etherType, id uint16) {
	out, in := &port{}, &port{guest: true}
	out.deliver = func(frame []byte) {
		if untagged, ok := untag(frame, etherType, id); ok {
			inner.send(in, untagged)
		}
	}
	in.deliver = func(frame []byte) { s.send(out, tag(frame, etherType, id)) }
	s.attach(out)
	inner.attach(in)
}

// tag is a frame with one more tag.
func tag(frame []byte, etherType, id uint16) []byte {
	out := make([]byte, 0, len(frame)+tagSize)
	out = append(out, frame[:etherTypeAt]...)
	out = binary.BigEndian.AppendUint16(out, etherType)
	out = binary.BigEndian.AppendUint16(out, id)
	return append(out, frame[etherTypeAt:]...)
}

// untag is a frame without its outer tag, and false when that is another or none. Frames with it are for one VLAN only.
func untag(frame []byte, etherType, id uint16) ([]byte, bool) {
	if len(frame) < minFrame+tagSize || binary.BigEndian.Uint16(frame[etherTypeAt:]) != etherType ||
		binary.BigEndian.Uint16(frame[etherTypeAt+2:])&tagVLAN != id {
		return nil, false
	}
	out := make([]byte, 0, len(frame)-tagSize)
	out = append(out, frame[:etherTypeAt]...)
	return append(out, frame[etherTypeAt+tagSize:]...), true
}

// Bond is the far end of a bond of the guest: a switch that has all its members in one group. It is what hosts on the
// segment of the bond talk by.
type Bond struct {
	members []*Segment
	ports   []*port // one on each member
	segment *port
	lacp    bool

	mu      sync.Mutex
	serving []bool // by member: the guest says that it carries traffic, or did send some
	last    int    // the member the guest used last; -1: none yet
}

// NewBond makes inner the segment that is reached by all members together. With lacp it answers the guest's LACPDUs,
// and uses the members whose partner says they are in service; without, it takes the members the guest sends by. With
// oneAtATime it uses only the one the guest used last, as active-backup wants it.
func NewBond(inner *Segment, members []*Segment, lacp, oneAtATime bool) *Bond {
	b := &Bond{members: members, lacp: lacp, serving: make([]bool, len(members)), last: -1, segment: &port{guest: true}}
	for i, m := range members {
		p := &port{}
		p.deliver = func(frame []byte) {
			if answer, slow := b.lacpdu(i, frame); slow {
				if answer != nil {
					go m.send(p, answer) // not from inside a delivery
				}
				return
			}
			b.mu.Lock()
			b.last = i
			if !b.lacp {
				b.serving[i] = true
			}
			b.mu.Unlock()
			inner.send(b.segment, frame)
		}
		b.ports = append(b.ports, p)
		m.attach(p)
	}
	b.segment.deliver = func(frame []byte) {
		for _, i := range b.choose(frame, oneAtATime) {
			b.members[i].send(b.ports[i], frame)
		}
	}
	inner.attach(b.segment)
	return b
}

// choose tells by which members a frame goes: by one, chosen by its addresses so that no flow is reordered; by
// all while it is not known which of them the guest listens on.
func (b *Bond) choose(frame []byte, oneAtATime bool) []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if oneAtATime && b.last >= 0 {
		return []int{b.last}
	}
	var usable, all []int
	for i := range b.members {
		all = append(all, i)
		if b.serving[i] {
			usable = append(usable, i)
		}
	}
	if oneAtATime || len(usable) == 0 {
		return all
	}
	h := fnv.New32a()
	h.Write(frame[:etherTypeAt])
	n := int(h.Sum32() % uint32(len(usable)))
	return usable[n : n+1]
}

// InService tells by how many members traffic goes.
func (b *Bond) InService() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, yes := range b.serving {
		if yes {
			n++
		}
	}
	return n
}

// LACPDUs, IEEE 802.1AX, 6.4.2.3: offsets behind the Ethernet header.
const (
	etherSlow     = 0x8809 // slow protocols, IEEE 802.3, Annex 57A
	lacpSubtype   = 1
	lacpVersion   = 1
	lacpActor     = 2  // TLV: type 1, length 20
	lacpPartner   = 22 // TLV: type 2, length 20
	lacpCollector = 42 // TLV: type 3, length 16
	lacpInfo      = 15 // bytes of either end that the other repeats: behind type and length, with the state last
	lacpState     = lacpInfo - 1
	lacpSize      = 110 // bytes; the rest is terminator and reserved
)

// Bits of the state of an end, 6.4.2.3 m) and t).
const (
	lacpActive       = 1 << 0
	lacpShortTimeout = 1 << 1
	lacpAggregatable = 1 << 2
	lacpInSync       = 1 << 3
	lacpCollecting   = 1 << 4
	lacpDistributing = 1 << 5
	lacpCarries      = lacpInSync | lacpCollecting | lacpDistributing
)

// lacpdu notes what the guest says on a member and returns the answer, if the frame is of a slow protocol at all. The
// answer says that all is well here, repeats what the guest said of itself, and asks for the short timeout: then the
// guest speaks each second, and each time is answered.
func (b *Bond) lacpdu(member int, frame []byte) (answer []byte, slow bool) {
	if binary.BigEndian.Uint16(frame[etherTypeAt:]) != etherSlow {
		return nil, false
	}
	heard := frame[minFrame:]
	if !b.lacp || len(heard) < lacpSize || heard[0] != lacpSubtype || heard[lacpActor] != 1 {
		return nil, true
	}
	theirs := heard[lacpActor+2:][:lacpInfo]
	b.mu.Lock()
	b.serving[member] = theirs[lacpState]&lacpCarries == lacpCarries
	b.mu.Unlock()

	system := net.HardwareAddr{0x02, 0x52, 0x4d, 0x50, 0xfe, 0xff} // as Bench numbers hosts, and none of them
	out := make([]byte, minFrame+lacpSize)
	copy(out, []byte{0x01, 0x80, 0xc2, 0x00, 0x00, 0x02}) // IEEE 802.3, Annex 57A.3
	copy(out[6:], system)
	out[11] = byte(member)
	binary.BigEndian.PutUint16(out[etherTypeAt:], etherSlow)
	d := out[minFrame:]
	d[0], d[1] = lacpSubtype, lacpVersion
	d[lacpActor], d[lacpActor+1] = 1, 20
	ours := d[lacpActor+2:]
	binary.BigEndian.PutUint16(ours, 0xffff) // priority of the system: the guest decides
	copy(ours[2:], system)
	binary.BigEndian.PutUint16(ours[8:], 1)                 // key: one group
	binary.BigEndian.PutUint16(ours[10:], 0xff)             // priority of the port
	binary.BigEndian.PutUint16(ours[12:], uint16(member+1)) // the port
	ours[lacpState] = lacpActive | lacpShortTimeout | lacpAggregatable | lacpCarries
	d[lacpPartner], d[lacpPartner+1] = 2, 20
	copy(d[lacpPartner+2:], theirs)
	d[lacpCollector], d[lacpCollector+1] = 3, 16
	return out, true
}
