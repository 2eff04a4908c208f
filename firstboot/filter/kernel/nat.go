package kernel

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
)

// nfproto is a family as translations name it.
func nfproto(v6 bool) uint32 {
	if v6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// share hashes the source address, and compares the number that gives.
func (t *translator) share(s filter.Share) error {
	field, length := filter.IPSAddr, uint32(4)
	if s.IPv6 {
		field, length = filter.IP6SAddr, 16
	}
	if err := t.load(field, reg1); err != nil {
		return err
	}
	t.emit(&expr.Hash{SourceRegister: reg1, DestRegister: reg1, Length: length, Modulus: s.Of, Seed: filter.ShareSeed,
		Type: expr.HashTypeJenkins},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: binary.NativeEndian.AppendUint32(nil, s.Part)})
	return nil
}

func (t *translator) sourceNAT(s filter.SourceNAT) error {
	nat := &expr.NAT{Type: expr.NATTypeSourceNAT, Family: nfproto(s.IPv6), RegAddrMin: reg1}
	t.emit(&expr.Immediate{Register: reg1, Data: s.To.First})
	if !s.To.Single() {
		t.emit(&expr.Immediate{Register: reg2, Data: s.To.Last})
		nat.RegAddrMax, nat.Persistent = reg2, true
	}
	t.emit(nat)
	return nil
}

// mapPrefix is what the kernel calls NETMAP: it takes the host part of the address that is translated.
func (t *translator) mapPrefix(m filter.MapPrefix) error {
	if prefixMask(m.To) == nil {
		return fmt.Errorf("%v is no prefix", m.To)
	}
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: nfproto(m.IPv6), RegAddrMin: reg1, RegAddrMax: reg2, Prefix: true}
	if m.Source {
		nat.Type = expr.NATTypeSourceNAT
	}
	t.emit(&expr.Immediate{Register: reg1, Data: m.To.First}, &expr.Immediate{Register: reg2, Data: m.To.Last}, nat)
	return nil
}

func (t *translator) destinationNAT(d filter.DestinationNAT) error {
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: nfproto(d.IPv6), RegAddrMin: reg1}
	if d.Targets != "" {
		return t.targets(d, nat)
	}
	t.emit(&expr.Immediate{Register: reg1, Data: d.To.First})
	switch {
	case d.PortMap != "":
		set := t.p.sets[d.PortMap]
		if set == nil {
			return fmt.Errorf("there is no map %s", d.PortMap)
		}
		if err := t.load(d.Field, reg2); err != nil {
			return err
		}
		t.emit(&expr.Lookup{SourceRegister: reg2, DestRegister: reg2, IsDestRegSet: true, SetName: set.Name, SetID: set.ID})
		nat.RegProtoMin, nat.Specified = reg2, true
	case d.Port != 0:
		t.emit(&expr.Immediate{Register: reg2, Data: binaryutil.BigEndian.PutUint16(d.Port)})
		nat.RegProtoMin, nat.Specified = reg2, true
	}
	t.emit(nat)
	return nil
}

// targets asks a map for both the address and the port, which the kernel puts one after the other.
func (t *translator) targets(d filter.DestinationNAT, nat *expr.NAT) error {
	set := t.p.sets[d.Targets]
	if set == nil {
		return fmt.Errorf("there is no map %s", d.Targets)
	}
	if err := t.load(d.Field, reg1); err != nil {
		return err
	}
	nat.RegProtoMin, nat.Specified = reg32+filter.IPv4Size/reg32Size, true
	if d.IPv6 {
		nat.RegProtoMin = reg2
	}
	t.emit(&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
		nat)
	return nil
}
