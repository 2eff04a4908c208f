package kernel

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
)

// step is one part of a transaction: what it is, for errors, and how it is added to a batch. It can be carried out
// more than once, each time for another batch.
type step struct {
	what string
	do   func(*nftables.Conn) error
}

// plan turns a Ruleset into steps. It fails on what has no netlink form.
func plan(rs filter.Ruleset) ([]step, error) {
	var steps []step
	for i := range rs.Tables {
		t := &rs.Tables[i]
		p := newPlanner(t)
		if err := p.all(); err != nil {
			return nil, fmt.Errorf("apply policy: table %s %s: %w", t.Family, t.Name, err)
		}
		steps = append(steps, p.steps...)
	}
	return steps, nil
}

// planner gathers the steps of one table.
type planner struct {
	in    *filter.Table
	table *nftables.Table
	sets  map[string]*nftables.Set
	steps []step
}

func newPlanner(t *filter.Table) *planner {
	return &planner{in: t, table: &nftables.Table{Name: t.Name, Family: nftables.TableFamily(t.Family)},
		sets: map[string]*nftables.Set{}}
}

func (p *planner) step(what string, do func(*nftables.Conn) error) {
	p.steps = append(p.steps, step{what, do})
}

func (p *planner) all() error {
	name := p.in.Family.String() + " " + p.in.Name
	p.step("table "+name, func(c *nftables.Conn) error {
		// Adding first makes deleting succeed whether the table existed or not.
		c.AddTable(p.table)
		c.DelTable(p.table)
		c.AddTable(p.table)
		return nil
	})
	return p.content()
}

// content adds what is in the table, but for the sets that are there already.
func (p *planner) content() error {
	for _, counter := range p.in.Counters {
		p.step("counter "+counter, func(c *nftables.Conn) error {
			c.AddObj(&nftables.NamedObj{Table: p.table, Name: counter, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
			return nil
		})
	}
	for _, h := range p.in.Helpers {
		p.step("helper "+h.Name, func(c *nftables.Conn) error {
			c.AddObj(&nftables.NamedObj{Table: p.table, Name: h.Name, Type: nftables.ObjTypeCtHelper,
				Obj: &expr.CtHelper{Name: h.Kind, L3Proto: unix.NFPROTO_INET, L4Proto: h.Proto}})
			return nil
		})
	}
	for _, name := range p.in.FlowTables {
		p.step("flowtable "+name, func(c *nftables.Conn) error {
			c.AddFlowtable(flowTable(p.table, name, nil))
			return nil
		})
	}
	chains := map[string]*nftables.Chain{}
	for i := range p.in.Chains {
		chain := p.chain(&p.in.Chains[i])
		chains[chain.Name] = chain
		p.step("chain "+chain.Name, func(c *nftables.Conn) error {
			c.AddChain(chain)
			return nil
		})
	}
	for i := range p.in.Sets {
		if p.sets[p.in.Sets[i].Name] != nil {
			continue
		}
		if err := p.set(&p.in.Sets[i]); err != nil {
			return err
		}
	}
	for i := range p.in.Chains {
		in := &p.in.Chains[i]
		for k := range in.Rules {
			if err := p.rule(chains[in.Name], &in.Rules[k], k, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *planner) chain(in *filter.Chain) *nftables.Chain {
	chain := &nftables.Chain{Table: p.table, Name: in.Name}
	if in.Base != nil {
		policy := nftables.ChainPolicyAccept
		if in.Base.Policy == filter.VerdictDrop {
			policy = nftables.ChainPolicyDrop
		}
		chain.Type = nftables.ChainType(in.Base.Type)
		chain.Hooknum = nftables.ChainHookRef(nftables.ChainHook(in.Base.Hook))
		chain.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(in.Base.Priority))
		chain.Policy = &policy
	}
	return chain
}

// keyType is a value's type as nft(8) knows it; it matters for `nft list` only.
func keyType(t filter.Type) (nftables.SetDatatype, error) {
	switch t {
	case filter.TypeIfName:
		return nftables.TypeIFName, nil
	case filter.TypeIPv4:
		return nftables.TypeIPAddr, nil
	case filter.TypeIPv6:
		return nftables.TypeIP6Addr, nil
	case filter.TypePort:
		return nftables.TypeInetService, nil
	case filter.TypeICMP:
		return nftables.TypeICMPType, nil
	case filter.TypeICMP6:
		return nftables.TypeICMP6Type, nil
	case filter.TypeEther:
		return nftables.TypeEtherType, nil
	case filter.TypeProto:
		return nftables.TypeInetProto, nil
	}
	return nftables.SetDatatype{}, fmt.Errorf("values of type %d cannot be in a set", t)
}

func (p *planner) set(in *filter.Set) error {
	var types []nftables.SetDatatype
	for _, t := range in.Key {
		kt, err := keyType(t)
		if err != nil {
			return fmt.Errorf("set %s: %w", in.Name, err)
		}
		types = append(types, kt)
	}
	set := nftables.Set{Table: p.table, Name: in.Name, Interval: in.Interval, KeyByteOrder: binaryutil.BigEndian}
	set.Dynamic, set.Size = in.Size > 0, in.Size
	set.HasTimeout, set.Timeout = in.Timeout > 0, in.Timeout
	if len(types) == 1 {
		set.KeyType = types[0]
		if in.Key[0] == filter.TypeIfName {
			set.KeyByteOrder = binaryutil.NativeEndian // a string to nft, which it prints from the other end otherwise
		}
	} else {
		key, err := nftables.ConcatSetType(types...)
		if err != nil {
			return fmt.Errorf("set %s: %w", in.Name, err)
		}
		set.KeyType = key
		set.Concatenation = in.Interval // as nft does: only the interval kind needs the lengths of the parts
	}
	switch in.Map {
	case filter.MapVerdict:
		set.IsMap, set.DataType = true, nftables.TypeVerdict
	case filter.MapPort:
		set.IsMap, set.DataType = true, nftables.TypeInetService
	case filter.MapTarget:
		address := nftables.TypeIPAddr
		if len(in.Elements) > 0 && len(in.Elements[0].To.First) == filter.IPv6Size {
			address = nftables.TypeIP6Addr
		}
		both, err := nftables.ConcatSetType(address, nftables.TypeInetService)
		if err != nil {
			return fmt.Errorf("set %s: %w", in.Name, err)
		}
		set.IsMap, set.DataType = true, both
	}
	if in.Absent > 0 {
		return fmt.Errorf("set %s: its %d elements are not here", in.Name, in.Absent)
	}
	for _, e := range in.Elements {
		if len(e.Key) != len(in.Key) {
			return fmt.Errorf("set %s: an element has %d parts, the key has %d", in.Name, len(e.Key), len(in.Key))
		}
		if _, err := verdict(e.Verdict); err != nil && in.Map == filter.MapVerdict {
			return fmt.Errorf("set %s: %w", in.Name, err)
		}
	}
	p.sets[in.Name] = &set
	p.step("set "+in.Name, func(c *nftables.Conn) error { return c.AddSet(&set, nil) })
	const rangesPerMessage = elementsPerMessage / 2 // each may be a start and an end
	for from := 0; from < in.Len(); from += rangesPerMessage {
		// Made when they are sent: those of a large set take twice its memory.
		p.step("elements of set "+in.Name, func(c *nftables.Conn) error {
			elements, err := setElements(in, from, min(from+rangesPerMessage, in.Len()))
			if err != nil {
				return err
			}
			return c.SetAddElements(&set, elements)
		})
	}
	return nil
}

// setElements are some elements of a set as netlink has them: from one to before another.
func setElements(in *filter.Set, from, to int) ([]nftables.SetElement, error) {
	out := make([]nftables.SetElement, 0, 2*(to-from))
	for i := from; i < to; i++ {
		e := in.At(i)
		var el nftables.SetElement
		for _, part := range e.Key {
			el.Key = append(el.Key, part.First...)
			el.KeyEnd = append(el.KeyEnd, part.Last...)
			for len(in.Key) > 1 && len(el.Key)%reg32Size != 0 { // each part fills whole registers
				el.Key, el.KeyEnd = append(el.Key, 0), append(el.KeyEnd, 0)
			}
		}
		el.Comment = e.Comment
		switch in.Map {
		case filter.MapVerdict:
			v, err := verdict(e.Verdict)
			if err != nil {
				return nil, err
			}
			el.VerdictData = v
		case filter.MapPort:
			el.Val = binary.BigEndian.AppendUint16(nil, e.Port)
		case filter.MapTarget:
			el.Val = binary.BigEndian.AppendUint16(slices.Clone(e.To.First), e.Port)
			el.Val = append(el.Val, make([]byte, reg32Size-2)...) // a part fills whole registers
		}
		switch {
		case in.Interval && len(in.Key) == 1:
			// One-part intervals are a start and an end of their own.
			end := el.KeyEnd
			el.KeyEnd = nil
			out = append(out, el)
			if next, ok := filter.Following(end); ok { // after the last value the end is left out
				out = append(out, nftables.SetElement{Key: next, IntervalEnd: true})
			}
			continue
		case !in.Interval:
			el.KeyEnd = nil
		}
		out = append(out, el)
	}
	return out, nil
}

func verdict(v filter.Verdict) (*expr.Verdict, error) {
	switch v.Kind {
	case filter.VerdictAccept:
		return &expr.Verdict{Kind: expr.VerdictAccept}, nil
	case filter.VerdictDrop:
		return &expr.Verdict{Kind: expr.VerdictDrop}, nil
	case filter.VerdictJump:
		return &expr.Verdict{Kind: expr.VerdictJump, Chain: v.Chain}, nil
	case filter.VerdictGoto:
		return &expr.Verdict{Kind: expr.VerdictGoto, Chain: v.Chain}, nil
	}
	return nil, fmt.Errorf("there is no verdict %d", v.Kind)
}

// rule adds the n-th rule of a chain, or puts it in place of the one with the handle.
func (p *planner) rule(chain *nftables.Chain, in *filter.Rule, n int, handle uint64) error {
	what := fmt.Sprintf("rule %d of chain %s (%s)", n+1, chain.Name, in.Text())
	// The expressions are made anew for each batch: an anonymous set gets its number when it is added to one.
	if _, err := p.expressions(in, nil); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	p.step(what, func(c *nftables.Conn) error {
		exprs, err := p.expressions(in, c)
		if err != nil {
			return err
		}
		rule := &nftables.Rule{Table: p.table, Chain: chain, Exprs: exprs, Handle: handle}
		if text := in.CommentText(); text != "" {
			rule.UserData = userdata.AppendString(nil, userdata.TypeComment, text)
		}
		c.AddRule(rule)
		return nil
	})
	return nil
}
