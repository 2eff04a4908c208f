package kernel

import (
	"encoding/binary"

	"github.com/google/nftables/expr"

	"rempart/firstboot/filter"
)

// setMark writes some bits of the connection's mark.
func (t *translator) setMark(m filter.SetMark) {
	t.emit(&expr.Ct{Key: expr.CtKeyMARK, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: reg32Size,
			Mask: binary.NativeEndian.AppendUint32(nil, ^m.Mask), Xor: binary.NativeEndian.AppendUint32(nil, m.Value)},
		&expr.Ct{Key: expr.CtKeyMARK, Register: reg1, SourceRegister: true})
}

// hasMark compares some bits of the connection's mark.
func (t *translator) hasMark(m filter.HasMark) {
	t.emit(&expr.Ct{Key: expr.CtKeyMARK, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: reg32Size,
			Mask: binary.NativeEndian.AppendUint32(nil, m.Mask), Xor: make([]byte, reg32Size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: binary.NativeEndian.AppendUint32(nil, m.Value)})
}

// ipChecksumOffset is where an IPv4 header has its checksum, RFC 791, section 3.1.
const ipChecksumOffset = 10

// rewrite writes two bytes of the IP header anew: what the mask keeps, and the bits of set. The kernel mends the
// checksum of an IPv4 header, in units of which nft writes also what is shorter.
func (t *translator) rewrite(v6 bool, offset uint32, mask, set [2]byte) {
	write := &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: reg1, Base: expr.PayloadBaseNetworkHeader,
		Offset: offset, Len: uint32(len(mask))}
	if !v6 {
		write.CsumType, write.CsumOffset = expr.CsumTypeInet, ipChecksumOffset
	}
	t.emit(&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(mask))},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: uint32(len(mask)), Mask: mask[:], Xor: set[:]}, write)
}

// setDSCP writes the upper six bits of the second byte of IPv4, and of the traffic class of IPv6, which begins in the
// middle of the first byte: RFC 791, section 3.1, RFC 8200, section 3, RFC 2474, section 3.
func (t *translator) setDSCP(s filter.SetDSCP) error {
	if s.IPv6 {
		if err := t.need(filter.IP6DAddr); err != nil {
			return err
		}
		t.rewrite(true, 0, [2]byte{0xf0, 0x3f}, [2]byte{s.DSCP >> 2, s.DSCP << 6})
		return nil
	}
	if err := t.need(filter.IPDAddr); err != nil {
		return err
	}
	t.rewrite(false, 0, [2]byte{0xff, 0x03}, [2]byte{0, s.DSCP << 2})
	return nil
}

// setHops writes the time to live of IPv4, which shares two bytes with the protocol, or the hop limit of IPv6.
func (t *translator) setHops(s filter.SetHops) error {
	if s.IPv6 {
		if err := t.need(filter.IP6DAddr); err != nil {
			return err
		}
		const hopLimit, length = 7, 1
		t.emit(&expr.Immediate{Register: reg1, Data: []byte{s.Hops}},
			&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: reg1, Base: expr.PayloadBaseNetworkHeader,
				Offset: hopLimit, Len: length})
		return nil
	}
	if err := t.need(filter.IPDAddr); err != nil {
		return err
	}
	const timeToLive = 8
	t.rewrite(false, timeToLive, [2]byte{0x00, 0xff}, [2]byte{s.Hops, 0})
	return nil
}

// TCP control bits, RFC 9293, section 3.1.
const (
	tcpFIN = 1 << 0
	tcpSYN = 1 << 1
	tcpRST = 1 << 2
	tcpACK = 1 << 4
)

// begins asks for a SYN without FIN, RST and ACK.
func (t *translator) begins() error {
	if err := t.load(filter.TCPFlags, reg1); err != nil {
		return err
	}
	t.emit(&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 1, Mask: []byte{tcpFIN | tcpSYN | tcpRST | tcpACK},
		Xor: []byte{0}}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{tcpSYN}})
	return nil
}

func (t *translator) synProxy(s filter.SynProxy) error {
	if err := t.need(filter.TCPFlags); err != nil {
		return err
	}
	t.emit(&expr.SynProxy{Mss: s.MSS, MssValueSet: true, Wscale: s.WScale, WscaleValueSet: true, Timestamp: true,
		SackPerm: true})
	return nil
}
