package kernel

import (
	"fmt"
	"time"

	"github.com/google/nftables/expr"

	"rempart/firstboot/filter"
)

func rate(r filter.Rate) *expr.Limit {
	return &expr.Limit{Type: expr.LimitTypePkts, Rate: r.Packets, Unit: expr.LimitTime(r.Per / time.Second),
		Burst: r.Burst}
}

// perSource asks an expression of the source's own in a set that rules fill.
func (t *translator) perSource(name string, v6 bool, op uint32, e expr.Any) error {
	set := t.p.sets[name]
	if set == nil {
		return fmt.Errorf("there is no set %s", name)
	}
	field := filter.IPSAddr
	if v6 {
		field = filter.IP6SAddr
	}
	if err := t.load(field, reg1); err != nil {
		return err
	}
	if v6 {
		const addrLen, prefixLen = 16, 8 // bytes
		mask := make([]byte, addrLen)
		for i := range prefixLen {
			mask[i] = 0xff
		}
		t.emit(&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: addrLen, Mask: mask, Xor: make([]byte, addrLen)})
	}
	t.emit(&expr.Dynset{SrcRegKey: reg1, SetName: set.Name, SetID: set.ID, Operation: op, Exprs: []expr.Any{e}})
	return nil
}
