package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

// policyPlaces are the places of the profile in comments, and the name of the table's fingerprint: they differ without
// a difference in meaning.
var policyPlaces = regexp.MustCompile(` \(\d+:\d+\)|fingerprint/[0-9a-f]+`)

// diffPolicies prints what differs between the policies of two profiles.
func diffPolicies(c *console, left, right string) error {
	var texts [2][]string
	var fates [2]map[string]string
	for i, name := range []string{left, right} {
		p, err := profiles.Load(name)
		if err != nil {
			return err
		}
		rules, err := filter.Compile(p)
		if err != nil {
			return fmt.Errorf("profile %s: %w", p.Name, err)
		}
		texts[i] = strings.Split(policyPlaces.ReplaceAllString(rules.Text(), ""), "\n")
		fates[i] = map[string]string{}
		for _, probe := range filter.Probes(p) {
			flow, fate := flowAndFate(probe)
			fates[i][flow] = fate
		}
	}
	different := false
	var last string
	for _, d := range lineDiff(texts[0], texts[1]) {
		if d.block != last && d.block != strings.TrimSpace(d.text) {
			fmt.Fprintln(c.out, "  "+d.block)
		}
		last, different = d.block, true
		fmt.Fprintf(c.out, "%c %s\n", d.side, strings.TrimSpace(d.text))
	}
	for _, line := range fateDiff(fates[0], fates[1]) {
		different = true
		fmt.Fprintln(c.out, line)
	}
	if different {
		return errDifferent
	}
	return nil
}

// flowAndFate says a probe in words: what is sent, and what becomes of it.
func flowAndFate(p filter.Probe) (flow, fate string) {
	what := string(p.Protocol)
	if p.Port != 0 {
		what += fmt.Sprintf(" %d", p.Port)
	}
	flow = fmt.Sprintf("%s %s -> %s by %s, %s", p.From, p.Src, shownAddr(p.Dst), p.Link, what)
	switch {
	case !p.Pass:
		return flow, "blocked"
	case p.SeenSrc == p.Src && p.SeenDst == p.Dst && p.SeenPort == p.Port:
		return flow, "passes"
	}
	return flow, fmt.Sprintf("passes to %s port %d as %s", shownAddr(p.SeenDst), p.SeenPort, shownSource(p))
}

// fateDiff tells the flows that two policies treat differently, of those that show something of both.
func fateDiff(a, b map[string]string) []string {
	var out []string
	for flow, before := range a {
		if after, both := b[flow]; both && before != after {
			out = append(out, fmt.Sprintf("! %s: %s, then %s", flow, before, after))
		}
	}
	slices.Sort(out)
	return out
}

// changed is a line that only one text has.
type changed struct {
	side  byte   // '-': the first, '+': the second
	block string // the chain, set or counter it is in
	text  string
}

// maxCompared bounds the table of lineDiff: beyond it the part that differs is shown as a whole.
const maxCompared = 16 << 20

// lineDiff is what to take out of a and put in to get b: the fewest lines.
func lineDiff(a, b []string) []changed {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	x, y := a[head:len(a)-tail], b[head:len(b)-tail]
	// common[i][j] is how many lines the rests of x from i and of y from j have in common, in order.
	common := make([][]int32, len(x)+1)
	if (len(x)+1)*(len(y)+1) <= maxCompared {
		for i := range common {
			common[i] = make([]int32, len(y)+1)
		}
		for i := len(x) - 1; i >= 0; i-- {
			for j := len(y) - 1; j >= 0; j-- {
				if x[i] == y[j] {
					common[i][j] = common[i+1][j+1] + 1
				} else {
					common[i][j] = max(common[i+1][j], common[i][j+1])
				}
			}
		}
	}
	longer := func(i, j int) bool { return common[0] == nil || common[i+1][j] >= common[i][j+1] }
	var out []changed
	for i, j := 0, 0; i < len(x) || j < len(y); {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j] && common[0] != nil:
			i, j = i+1, j+1
		case i < len(x) && (j == len(y) || longer(i, j)):
			out = append(out, changed{'-', blockOf(a, head+i), x[i]})
			i++
		default:
			out = append(out, changed{'+', blockOf(b, head+j), y[j]})
			j++
		}
	}
	return slices.DeleteFunc(out, func(c changed) bool { return len(strings.Trim(c.text, "\t }")) == 0 })
}

// blockOf is the heading of the block a line is in.
func blockOf(lines []string, i int) string {
	for ; i >= 0; i-- {
		if strings.HasPrefix(lines[i], "\t") && !strings.HasPrefix(lines[i], "\t\t") && strings.HasSuffix(lines[i], "{") {
			return strings.TrimSpace(strings.TrimSuffix(lines[i], "{"))
		}
	}
	return ""
}
