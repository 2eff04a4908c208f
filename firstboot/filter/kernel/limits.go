package kernel

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/nftables/expr"

	"rempart/firstboot/filter"
)

func rate(r filter.Rate) *expr.Limit {
	return &expr.Limit{Type: expr.LimitTypePkts, Rate: r.Packets, Unit: expr.LimitTime(r.Per / time.Second),
		Burst: r.Burst}
}

// over is rate the other way round.
func over(r filter.Rate) *expr.Limit {
	e := rate(r)
	e.Over = true
	return e
}

// loadParty puts what stands for the sender or the receiver into reg1: the address, or the first half of an IPv6 one.
func (t *translator) loadParty(v4, v6 filter.Field, six bool) error {
	if !six {
		return t.load(v4, reg1)
	}
	if err := t.load(v6, reg1); err != nil {
		return err
	}
	const addrLen, prefixLen = 16, 8 // bytes
	mask := make([]byte, addrLen)
	for i := range prefixLen {
		mask[i] = 0xff
	}
	t.emit(&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: addrLen, Mask: mask, Xor: make([]byte, addrLen)})
	return nil
}

// loadSource puts what stands for the sender into reg1.
func (t *translator) loadSource(v6 bool) error {
	return t.loadParty(filter.IPSAddr, filter.IP6SAddr, v6)
}

// perSource asks an expression of the source's own in a set that rules fill.
func (t *translator) perSource(name string, v6 bool, op uint32, e expr.Any) error {
	return t.dynamic(name, v6, &expr.Dynset{Operation: op, Exprs: []expr.Any{e}})
}

// dynamic puts the source into a set.
func (t *translator) dynamic(name string, v6 bool, e *expr.Dynset) error {
	set := t.p.sets[name]
	if set == nil {
		return fmt.Errorf("there is no set %s", name)
	}
	if err := t.loadSource(v6); err != nil {
		return err
	}
	e.SrcRegKey, e.SetName, e.SetID = reg1, set.Name, set.ID
	t.emit(e)
	return nil
}

// fromSource and toSource continue when the sender or the receiver is in a set.
func (t *translator) fromSource(f filter.FromSource) error {
	return t.partyIn(f.Set, filter.IPSAddr, filter.IP6SAddr, f.IPv6)
}

func (t *translator) toSource(f filter.ToSource) error {
	return t.partyIn(f.Set, filter.IPDAddr, filter.IP6DAddr, f.IPv6)
}

func (t *translator) partyIn(name string, v4, v6 filter.Field, six bool) error {
	set := t.p.sets[name]
	if set == nil {
		return fmt.Errorf("there is no set %s", name)
	}
	if err := t.loadParty(v4, v6, six); err != nil {
		return err
	}
	t.emit(&expr.Lookup{SourceRegister: reg1, SetName: set.Name, SetID: set.ID})
	return nil
}

// uncounted and counted ask for and set the bit of the connection mark that says that an attempt was counted.
func (t *translator) uncounted() {
	bit := binary.NativeEndian.AppendUint32(nil, filter.MarkCounted)
	t.emit(&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{0}},
		&expr.Ct{Key: expr.CtKeyMARK, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: reg32Size, Mask: bit, Xor: make([]byte, reg32Size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: make([]byte, reg32Size)})
}

func (t *translator) counted() {
	bit := binary.NativeEndian.AppendUint32(nil, filter.MarkCounted)
	others := binary.NativeEndian.AppendUint32(nil, ^uint32(filter.MarkCounted))
	t.emit(&expr.Ct{Key: expr.CtKeyMARK, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: reg32Size, Mask: others, Xor: bit},
		&expr.Ct{Key: expr.CtKeyMARK, Register: reg1, SourceRegister: true})
}
