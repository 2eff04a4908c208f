package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"

	"rempart/firstboot/filter"
)

// ErrOther is returned by Swap when the kernel's rules are not those of the Ruleset.
var ErrOther = errors.New("the kernel holds other rules than these")

// Swap puts the lists of a Ruleset that is in force in place of those that are, and touches nothing else: counters,
// limits and all other rules stay as they are. A list that changed goes in as a set of its own that no rule asks yet;
// then, in one transaction, each rule that asked the old one is replaced by one that asks the new, and the old set
// goes. So no packet meets an empty set, or one that is half of each; see lasting.go. On an error the old lists are in
// force.
func Swap(ctx context.Context, rs filter.Ruleset, opts Options) error {
	inForce, err := InForce(ctx, rs, opts)
	switch {
	case err != nil:
		return fmt.Errorf("change lists: %w", err)
	case !inForce:
		return fmt.Errorf("change lists: %w", ErrOther)
	}
	var steps []step
	for i := range rs.Tables {
		more, err := swapIn(ctx, &rs.Tables[i], opts)
		if err != nil {
			return fmt.Errorf("change lists: %w", err)
		}
		steps = append(steps, more...)
	}
	if len(steps) == 0 {
		return nil
	}
	if err := send(steps, opts); err != nil {
		return culprit(ctx, steps, opts, err) // InForce cannot tell: the fingerprint does not depend on lists
	}
	return nil
}

// swapIn adds the lists of a table that are missing, and returns what puts them in force.
func swapIn(ctx context.Context, t *filter.Table, opts Options) ([]step, error) {
	before, err := find(ctx, t, opts)
	if err != nil {
		return nil, err
	}
	var old []*nftables.Set
	renewed := map[string]bool{} // names of the sets that come in place of others
	for i := range t.Sets {
		list := &t.Sets[i]
		if before == nil || list.List == "" {
			continue
		}
		for _, set := range before.sets {
			if isOf(set.Name, list.List) && set.Name != list.Name {
				old = append(old, set)
				// Whether it is there or not: one that was put in and never asked may be left.
				renewed[list.Name] = true
			}
		}
	}
	if len(old) == 0 {
		return nil, nil
	}
	if err := fill(ctx, t, before, opts); err != nil {
		return nil, err
	}
	if before, err = find(ctx, t, opts); err != nil {
		return nil, err
	}
	if before == nil {
		return nil, ErrOther
	}
	p := newPlanner(t)
	for _, set := range before.sets {
		p.sets[set.Name] = set
	}
	if err := p.replaceRules(before, renewed, opts); err != nil {
		return nil, err
	}
	for _, set := range old {
		p.step("the end of set "+set.Name, func(c *nftables.Conn) error { c.DelSet(set); return nil })
	}
	return p.steps, nil
}

// isOf tells whether a set holds, or held, a list.
func isOf(name, list string) bool {
	rest, ok := strings.CutPrefix(name, list+"/")
	return list != "" && ok && !strings.Contains(rest, "/")
}

// replaceRules replaces each rule that asks one of the sets by itself, which asks the set that is named in it now.
func (p *planner) replaceRules(before *present, sets map[string]bool, opts Options) error {
	conn, err := dial(opts)
	if err != nil {
		return err
	}
	for i := range p.in.Chains {
		in := &p.in.Chains[i]
		if !slices.ContainsFunc(in.Rules, func(r filter.Rule) bool { return asks(&r, sets) }) {
			continue
		}
		chain := &nftables.Chain{Table: before.table, Name: in.Name}
		there, err := conn.GetRules(before.table, chain)
		if err != nil {
			return fmt.Errorf("rules of chain %s: %w", in.Name, err)
		}
		if len(there) != len(in.Rules) {
			return fmt.Errorf("chain %s has %d rules, not %d: %w", in.Name, len(there), len(in.Rules), ErrOther)
		}
		for k := range in.Rules {
			if !asks(&in.Rules[k], sets) {
				continue
			}
			if err := p.rule(chain, &in.Rules[k], k, there[k].Handle); err != nil {
				return err
			}
		}
	}
	return nil
}

// asks tells whether a rule looks something up in one of the sets.
func asks(r *filter.Rule, sets map[string]bool) bool {
	return slices.ContainsFunc(r.Do, func(e filter.Expr) bool {
		l, ok := e.(filter.Lookup)
		return ok && sets[l.Set]
	})
}
