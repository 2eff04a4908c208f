package kernel

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
)

// Registers. The first 16-byte register also counts as four of 4 bytes, 8 to 11; parts of a concatenation lie one
// after the other in 4-byte registers (include/uapi/linux/netfilter/nf_tables.h, enum nft_registers).
const (
	reg1      = unix.NFT_REG_1
	reg2      = unix.NFT_REG_2
	reg32     = unix.NFT_REG32_00
	reg32Size = 4
)

// TCP option numbers and places, RFC 9293, section 3.2.
const (
	tcpOptionMSS       = 2
	tcpOptionMSSOffset = 2
	tcpOptionMSSLength = 2
)

// translator makes the expressions of one rule. What is known of the packet so far saves asking twice.
type translator struct {
	p       *planner
	conn    *nftables.Conn // nil: only see whether it can be done
	out     []expr.Any
	version uint8
	proto   uint8
}

func (p *planner) expressions(in *filter.Rule, conn *nftables.Conn) ([]expr.Any, error) {
	t := &translator{p: p, conn: conn}
	for _, e := range in.Do {
		if err := t.one(e); err != nil {
			return nil, err
		}
	}
	return t.out, nil
}

func (t *translator) emit(e ...expr.Any) { t.out = append(t.out, e...) }

// need makes sure that a field can be read: loading a field of a header the packet does not have gives garbage.
func (t *translator) need(f filter.Field) error {
	version, proto := f.Needs()
	if version != 0 && t.version == 0 {
		key, data := expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4}
		if version == 6 {
			data = []byte{unix.NFPROTO_IPV6}
		}
		if t.p.in.Family == filter.FamilyBridge { // where NFPROTO is the bridge's own
			key, data = expr.MetaKeyPROTOCOL, binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)
			if version == 6 {
				data = binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)
			}
		}
		t.emit(&expr.Meta{Key: key, Register: reg1}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: data})
		t.version = version
	}
	if proto != 0 && t.proto == 0 {
		t.emit(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{proto}})
		t.proto = proto
	}
	if version != 0 && t.version != version || proto != 0 && t.proto != proto {
		return fmt.Errorf("%s can never match after what stands before it", f)
	}
	return nil
}

// load puts a field into a register.
func (t *translator) load(f filter.Field, register uint32) error {
	if err := t.need(f); err != nil {
		return err
	}
	network := func(offset, length uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
	}
	transport := func(offset, length uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
	}
	var e expr.Any
	switch f {
	case filter.IIfName:
		e = &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}
	case filter.OIfName:
		e = &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register}
	case filter.Version:
		e = &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}
	case filter.LinkProtocol:
		e = &expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: register}
	case filter.EtherType: // IEEE 802.3, behind the two addresses
		e = &expr.Payload{DestRegister: register, Base: expr.PayloadBaseLLHeader, Offset: 12, Len: 2}
	case filter.L4Proto:
		e = &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}
	case filter.IPSAddr: // offsets: RFC 791, section 3.1
		e = network(12, 4)
	case filter.IPDAddr:
		e = network(16, 4)
	case filter.IP6HopLimit: // offsets: RFC 8200, section 3
		e = network(7, 1)
	case filter.IP6SAddr:
		e = network(8, 16)
	case filter.IP6DAddr:
		e = network(24, 16)
	case filter.UDPSPort: // offsets: RFC 768, RFC 9293 section 3.1
		e = transport(0, 2)
	case filter.TCPSPort, filter.SCTPSPort:
		e = transport(0, 2)
	case filter.TCPDPort, filter.UDPDPort, filter.SCTPDPort: // RFC 9260, section 3.1
		e = transport(2, 2)
	case filter.TCPFlags:
		e = transport(13, 1)
	case filter.ICMPType, filter.ICMP6Type: // offsets: RFC 792, RFC 4443 section 2.1
		e = transport(0, 1)
	case filter.ICMPCode:
		e = transport(1, 1)
	case filter.CTState:
		e = &expr.Ct{Key: expr.CtKeySTATE, Register: register}
	case filter.CTStatus:
		e = &expr.Ct{Key: expr.CtKeySTATUS, Register: register}
	case filter.DAddrType:
		e = &expr.Fib{Register: register, FlagDADDR: true, ResultADDRTYPE: true}
	case filter.DAddrTypeOnLink:
		e = &expr.Fib{Register: register, FlagDADDR: true, FlagIIF: true, ResultADDRTYPE: true}
	case filter.SAddrType:
		e = &expr.Fib{Register: register, FlagSADDR: true, ResultADDRTYPE: true}
	case filter.SAddrTypeOnLink:
		e = &expr.Fib{Register: register, FlagSADDR: true, FlagIIF: true, ResultADDRTYPE: true}
	case filter.DAddrOIfName:
		e = &expr.Fib{Register: register, FlagDADDR: true, ResultOIFNAME: true}
	case filter.SAddrOIfName:
		e = &expr.Fib{Register: register, FlagSADDR: true, ResultOIFNAME: true}
	default:
		return fmt.Errorf("%s cannot be loaded", f)
	}
	t.emit(e)
	return nil
}

func (t *translator) one(e filter.Expr) error {
	switch e := e.(type) {
	case filter.Match:
		return t.match(e)
	case filter.Bits:
		if err := t.load(e.Field, reg1); err != nil {
			return err
		}
		mask := binary.NativeEndian.AppendUint32(nil, e.Mask)
		if e.Field == filter.TCPFlags {
			mask = []byte{byte(e.Mask)}
		}
		zero, op := make([]byte, len(mask)), expr.CmpOpNeq
		if e.None {
			op = expr.CmpOpEq
		}
		t.emit(&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: uint32(len(mask)), Mask: mask, Xor: zero},
			&expr.Cmp{Op: op, Register: reg1, Data: zero})
	case filter.HostPart:
		return t.hostPart(e)
	case filter.Lookup:
		return t.lookup(e)
	case filter.Count:
		t.emit(&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: e.Name})
	case filter.Verdict:
		v, err := verdict(e)
		if err != nil {
			return err
		}
		t.emit(v)
	case filter.Reject:
		if e.TCPReset {
			t.emit(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
		} else {
			t.emit(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: uint8(e.With)})
		}
	case filter.DestinationNAT:
		return t.destinationNAT(e)
	case filter.SetHelper:
		t.emit(&expr.Objref{Type: unix.NFT_OBJECT_CT_HELPER, Name: e.Name})
	case filter.Share:
		return t.share(e)
	case filter.SourceNAT:
		return t.sourceNAT(e)
	case filter.MapPrefix:
		return t.mapPrefix(e)
	case filter.Masquerade:
		t.emit(&expr.Masq{})
	case filter.ClampMSS:
		t.emit(&expr.Rt{Register: reg1, Key: expr.RtTCPMSS},
			&expr.Byteorder{SourceRegister: reg1, DestRegister: reg1, Op: expr.ByteorderHton, Len: 2, Size: 2},
			&expr.Exthdr{SourceRegister: reg1, Type: tcpOptionMSS, Offset: tcpOptionMSSOffset, Len: tcpOptionMSSLength,
				Op: expr.ExthdrOpTcpopt})
	case filter.Rate:
		t.emit(rate(e))
	case filter.LimitSource:
		return t.perSource(e.Set, e.IPv6, unix.NFT_DYNSET_OP_UPDATE, rate(e.Rate))
	case filter.CountSource:
		return t.perSource(e.Set, e.IPv6, unix.NFT_DYNSET_OP_ADD, &expr.Connlimit{Count: e.Max})
	case filter.Uncounted:
		t.uncounted()
	case filter.Counted:
		t.counted()
	case filter.FromSource:
		return t.fromSource(e)
	case filter.ToSource:
		return t.toSource(e)
	case filter.OverSource:
		return t.perSource(e.Set, e.IPv6, unix.NFT_DYNSET_OP_ADD, over(e.Rate))
	case filter.BanSource:
		return t.dynamic(e.Set, e.IPv6, &expr.Dynset{Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: e.For})
	case filter.SetMark:
		t.setMark(e)
	case filter.HasMark:
		t.hasMark(e)
	case filter.SetDSCP:
		return t.setDSCP(e)
	case filter.SetHops:
		return t.setHops(e)
	case filter.Offload:
		t.emit(&expr.FlowOffload{Name: e.Table})
	case filter.NoTrack:
		t.emit(&expr.Notrack{})
	case filter.Begins:
		return t.begins()
	case filter.SynProxy:
		return t.synProxy(e)
	case filter.Log:
		t.emit(&expr.Log{Key: 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_LEVEL, Level: expr.LogLevelInfo,
			Data: []byte(e.Prefix)})
	default:
		return fmt.Errorf("expression %T has no netlink form", e)
	}
	return nil
}

func (t *translator) match(m filter.Match) error {
	if len(m.Ranges) == 0 {
		return fmt.Errorf("%s is compared with nothing", m.Field)
	}
	if err := t.load(m.Field, reg1); err != nil {
		return err
	}
	if m.Field == filter.L4Proto && len(m.Ranges) == 1 && m.Ranges[0].Single() {
		t.proto = m.Ranges[0].First[0]
	}
	if m.Field == filter.Version && len(m.Ranges) == 1 {
		t.version = 4
		if m.Ranges[0].First[0] == filter.VersionIPv6 {
			t.version = 6
		}
	}
	if m.Field == filter.LinkProtocol && len(m.Ranges) == 1 {
		switch binary.BigEndian.Uint16(m.Ranges[0].First) {
		case unix.ETH_P_IP:
			t.version = 4
		case unix.ETH_P_IPV6:
			t.version = 6
		}
	}
	if len(m.Ranges) > 1 {
		return t.anonymous(m)
	}
	switch r := m.Ranges[0]; {
	case r.Single():
		t.emit(&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: r.First})
	case prefixMask(r) != nil:
		t.emit(&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: uint32(len(r.First)),
			Mask: prefixMask(r), Xor: make([]byte, len(r.First))},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: r.First})
	default:
		t.emit(&expr.Range{Op: expr.CmpOpEq, Register: reg1, FromData: r.First, ToData: r.Last})
	}
	return nil
}

// hostPart compares the lower 64 bits of an address.
func (t *translator) hostPart(h filter.HostPart) error {
	if err := t.load(h.Field, reg1); err != nil {
		return err
	}
	t.emit(&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: filter.IPv6Size, Mask: filter.HostMask(),
		Xor: make([]byte, filter.IPv6Size)}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: h.Host.AsSlice()})
	return nil
}

// prefixMask is the mask of an address range that is a prefix, and nil for all else.
func prefixMask(r filter.Range) []byte {
	if len(r.First) != 4 && len(r.First) != 16 {
		return nil
	}
	mask := make([]byte, len(r.First))
	hosts := false // past the network part
	for i := range mask {
		differ := r.First[i] ^ r.Last[i]
		mask[i] = ^differ
		// The bits that differ are the lowest, zero in the first and one in the last address, and all that follow.
		if hosts && differ != 0xff || differ&(differ+1) != 0 || r.First[i]&differ != 0 {
			return nil
		}
		hosts = hosts || differ != 0
	}
	return mask
}

// anonymous looks reg1 up in a set made for this rule alone.
func (t *translator) anonymous(m filter.Match) error {
	kt, err := keyType(m.Field.Type())
	if err != nil {
		return fmt.Errorf("%s: %w", m.Field, err)
	}
	set := &nftables.Set{Table: t.p.table, Anonymous: true, Constant: true, KeyType: kt}
	for _, r := range m.Ranges {
		set.Interval = set.Interval || !r.Single()
	}
	if t.conn != nil {
		var elements []nftables.SetElement
		for _, r := range m.Ranges {
			elements = append(elements, nftables.SetElement{Key: r.First})
			if next, ok := filter.Following(r.Last); ok && set.Interval {
				elements = append(elements, nftables.SetElement{Key: next, IntervalEnd: true})
			}
		}
		if err := t.conn.AddSet(set, elements); err != nil {
			return fmt.Errorf("%s: %w", m.Field, err)
		}
	}
	t.emit(&expr.Lookup{SourceRegister: reg1, SetName: set.Name, SetID: set.ID})
	return nil
}

// lookup loads the parts of a key one after the other and looks them up together.
func (t *translator) lookup(l filter.Lookup) error {
	set := t.p.sets[l.Set]
	if set == nil {
		return fmt.Errorf("there is no set %s", l.Set)
	}
	for _, f := range l.Fields {
		if err := t.need(f); err != nil {
			return err
		}
	}
	register := uint32(reg32)
	for _, f := range l.Fields {
		if err := t.load(f, register); err != nil {
			return err
		}
		register += fieldSize(f) / reg32Size
	}
	e := &expr.Lookup{SourceRegister: reg32, SetName: set.Name, SetID: set.ID}
	if l.Map == filter.MapVerdict {
		e.DestRegister, e.IsDestRegSet = unix.NFT_REG_VERDICT, true
	}
	t.emit(e)
	return nil
}

// fieldSize is how many bytes of registers a field takes, in whole 4-byte registers.
func fieldSize(f filter.Field) uint32 {
	switch f.Type() {
	case filter.TypeIfName, filter.TypeIPv6:
		return 16
	}
	return reg32Size
}
