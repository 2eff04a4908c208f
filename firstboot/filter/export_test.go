package filter

import (
	"net/netip"
	"slices"

	"rempart/profiles"
)

// Box is box.
type Box = box

// NewBox makes a box of ranges.
func NewBox(ranges ...Range) Box { return box{ranges: ranges} }

// Meets is meets.
func (b Box) Meets(other Box) bool { return b.meets(other) }

// KeepApart is keepApart of a table for which nothing was merged yet.
func KeepApart(list []Box) (apart, others []Box) { return new(mergeWork).keepApart(list) }

// PlainAndMerged are the rules of all lines between two zones as they are and merged, and the table of their sets. Of
// what merging may cost a table, so many elements and comparisons are left.
func PlainAndMerged(p *profiles.Profile, from, to string, boxes, compared int) (
	table *Table, plain, merged []Rule, err error) {
	c, err := newCompiler(p)
	if err != nil {
		return nil, nil, nil, err
	}
	var ch Chain
	for i := range p.Policy {
		c.policyLine(&ch, i, from, to)
	}
	plain = slices.Clone(ch.Rules)
	c.work = mergeWork{maxBoxes - boxes, maxCompared - compared}
	c.merge(&ch)
	return &c.table, plain, ch.Rules, nil
}

// Compared is what a rule compares before it does anything else.
func Compared(r *Rule) []Match {
	compared, _ := split(r)
	return compared
}

// DecidedBy is what decide gives as the reason of what becomes of a flow.
func DecidedBy(p *profiles.Profile, from, to string, src, dst netip.Addr, protocol profiles.Protocol,
	port uint16) string {
	return decide(p, flow{from: from, to: to, src: src, dst: dst, protocol: protocol, port: port}).why
}
