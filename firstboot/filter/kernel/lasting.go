package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"rempart/firstboot/filter"
)

// Large sets of ranges go in by a transaction of their own, before the one that puts the rules in force. The likely
// reason for what is lost otherwise is the order of nf_tables_commit in the kernel's net/netfilter/nf_tables_api.c:
// rules are in force as soon as the generation changes, but a set of ranges (nft_set_rbtree.c, nft_set_pipapo.c)
// publishes what was put in only when its commit hook is called at the end; a lookup in between misses. A set that is
// complete before any rule asks it misses nothing. Such a set is named after its content, so one that is there already
// is kept, and reloading a policy with 100,000 addresses costs little more than one without.

// present is what the kernel has of a table.
type present struct {
	table  *nftables.Table
	chains []*nftables.Chain
	sets   []*nftables.Set
	objs   []nftables.Obj
	flows  []*nftables.Flowtable
}

// hasLasting tells whether a Ruleset has sets that are kept.
func hasLasting(rs filter.Ruleset) bool {
	for i := range rs.Tables {
		for k := range rs.Tables[i].Sets {
			if rs.Tables[i].Sets[k].Lasting {
				return true
			}
		}
	}
	return false
}

// find reads what the kernel has of a table; nil when it is not there.
func find(ctx context.Context, t *filter.Table, opts Options) (*present, error) {
	const attempts = 5 // a dump that another change interrupts is incomplete, and says so with EINTR
	for attempt := 1; ; attempt++ {
		found, err := findOnce(t, opts)
		if err == nil || attempt == attempts || ctx.Err() != nil || !errors.Is(err, syscall.EINTR) {
			return found, err
		}
	}
}

func findOnce(t *filter.Table, opts Options) (*present, error) {
	conn, err := dial(opts)
	if err != nil {
		return nil, err
	}
	family := nftables.TableFamily(t.Family)
	tables, err := conn.ListTablesOfFamily(family)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	found := &present{}
	for _, table := range tables {
		if table.Name == t.Name {
			found.table = table
		}
	}
	if found.table == nil {
		return nil, nil
	}
	chains, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name == t.Name {
			found.chains = append(found.chains, c)
		}
	}
	sets, err := conn.GetSets(found.table)
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	for _, s := range sets {
		if !s.Anonymous {
			found.sets = append(found.sets, s)
		}
	}
	if found.objs, err = conn.GetNamedObjects(found.table); err != nil {
		return nil, fmt.Errorf("list counters: %w", err)
	}
	if found.flows, err = flowTables(conn, found.table); err != nil {
		return nil, err
	}
	return found, nil
}

// has tells whether a set is there, complete.
func (f *present) has(name string) bool {
	if f == nil {
		return false
	}
	return !f.begun(name) && slices.ContainsFunc(f.sets, func(s *nftables.Set) bool { return s.Name == name })
}

// begun tells whether somebody began to fill a set and did not finish.
func (f *present) begun(name string) bool {
	return f != nil && slices.ContainsFunc(f.objs, func(o nftables.Obj) bool {
		named, ok := o.(*nftables.NamedObj)
		return ok && named.Name == incomplete+name
	})
}

// planLasting is plan for a Ruleset with sets that are kept: it puts in those that are missing, which no rule asks yet.
func planLasting(ctx context.Context, rs filter.Ruleset, opts Options) ([]step, error) {
	var steps []step
	for i := range rs.Tables {
		t := &rs.Tables[i]
		before, err := find(ctx, t, opts)
		switch {
		case errors.Is(err, syscall.EPERM):
			return nil, needsAdmin(err)
		case err != nil:
			return nil, fmt.Errorf("apply policy: read table %s %s: %w", t.Family, t.Name, err)
		}
		if err := fill(ctx, t, before, opts); err != nil {
			return nil, err
		}
		if before, err = find(ctx, t, opts); err != nil {
			return nil, fmt.Errorf("apply policy: read table %s %s: %w", t.Family, t.Name, err)
		}
		more, err := planInto(t, before)
		if err != nil {
			return nil, err
		}
		steps = append(steps, more...)
	}
	return steps, nil
}

// incomplete begins the name of the counter that is there while a set is filled: one that is there with it is not
// taken for what it is named after.
const incomplete = "incomplete/"

// messagesAtOnce is how many messages a transaction has that fills a set: the messages of one and the kernel's answers
// are in memory together, some 100 bytes for a range.
const messagesAtOnce = 64

// fill adds the sets that are missing, complete or not at all. No rule asks them yet, so it may take several
// transactions, which bounds the memory that it takes.
func fill(ctx context.Context, t *filter.Table, before *present, opts Options) error {
	if before == nil {
		p := newPlanner(t)
		p.step("table "+t.Name, func(c *nftables.Conn) error { c.AddTable(p.table); return nil })
		if err := sendAll(ctx, p.steps, opts); err != nil {
			return err
		}
	}
	for i := range t.Sets {
		if s := &t.Sets[i]; s.Lasting && !before.has(s.Name) {
			if err := fillOne(ctx, t, s, before, opts); err != nil {
				return err
			}
		}
	}
	return nil
}

// fillOne adds one set.
func fillOne(ctx context.Context, t *filter.Table, s *filter.Set, before *present, opts Options) error {
	p := newPlanner(t)
	marker := &nftables.NamedObj{Table: p.table, Name: incomplete + s.Name, Type: nftables.ObjTypeCounter,
		Obj: &expr.Counter{}}
	set := step{"what was left of set " + s.Name, func(c *nftables.Conn) error {
		c.DelSet(&nftables.Set{Table: p.table, Name: s.Name})
		return nil
	}}
	mark := step{"counter " + marker.Name, func(c *nftables.Conn) error { c.DeleteObject(marker); return nil }}
	if before.begun(s.Name) {
		left := []step{mark}
		if slices.ContainsFunc(before.sets, func(b *nftables.Set) bool { return b.Name == s.Name }) {
			left = append(left, set)
		}
		if err := sendAll(ctx, left, opts); err != nil {
			return err
		}
	}
	p.step("counter "+marker.Name, func(c *nftables.Conn) error { c.AddObj(marker); return nil })
	if err := p.set(s); err != nil {
		return fmt.Errorf("apply policy: %w", err)
	}
	p.step("the end of counter "+marker.Name, func(c *nftables.Conn) error { c.DeleteObject(marker); return nil })
	for steps := p.steps; len(steps) > 0; {
		n := min(len(steps), messagesAtOnce)
		if err := sendAll(ctx, steps[:n], opts); err != nil {
			_ = send([]step{mark, set}, opts) // else it is withdrawn before the next try
			return err
		}
		steps = steps[n:]
	}
	return nil
}

// sendAll sends a transaction, and finds out what the kernel refuses.
func sendAll(ctx context.Context, steps []step, opts Options) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("apply policy: %w", err)
	}
	if err := send(steps, opts); err != nil {
		return culprit(ctx, steps, opts, err)
	}
	return nil
}

// planInto is plan for a table that is there and whose lasting sets are: all else in it is replaced.
func planInto(t *filter.Table, before *present) ([]step, error) {
	p := newPlanner(t)
	if before == nil {
		return nil, fmt.Errorf("apply policy: table %s %s went away; another program changes it", t.Family, t.Name)
	}
	kept := map[string]bool{}
	for i := range t.Sets {
		kept[t.Sets[i].Name] = t.Sets[i].Lasting
	}
	p.step("what is replaced of table "+t.Name, func(c *nftables.Conn) error {
		c.FlushTable(before.table)
		for _, chain := range before.chains {
			c.DelChain(chain)
		}
		for _, set := range before.sets {
			if !kept[set.Name] {
				c.DelSet(set)
			}
		}
		for _, obj := range before.objs {
			c.DeleteObject(obj)
		}
		for _, flows := range before.flows {
			c.DelFlowtable(flows)
		}
		return nil
	})
	for _, set := range before.sets {
		if kept[set.Name] {
			p.sets[set.Name] = set
		}
	}
	if err := p.content(); err != nil {
		return nil, fmt.Errorf("apply policy: table %s %s: %w", t.Family, t.Name, err)
	}
	return p.steps, nil
}
