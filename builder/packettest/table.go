package packettest

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// The SGR sequences of ECMA-48 that the table uses.
const (
	bold   = "\x1b[1m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	faint  = "\x1b[2m"
	normal = "\x1b[0m"
)

// grouped are the rows with those of one pair of zones together, pairs in the order of their first row.
func (r Report) grouped() []Row {
	order := map[string]int{}
	for _, row := range r.Rows {
		if _, known := order[row.Flow]; !known {
			order[row.Flow] = len(order)
		}
	}
	rows := slices.Clone(r.Rows)
	slices.SortStableFunc(rows, func(a, b Row) int { return order[a.Flow] - order[b.Flow] })
	return rows
}

// Table prints the report for people: flow, expected, seen, one line each, under a heading for each pair of zones.
// With colour it uses the terminal's; without, it is plain text for a log.
func (r Report) Table(w io.Writer, colour bool) error {
	paint := func(code, s string) string {
		if !colour {
			return s
		}
		return code + s + normal
	}
	flow, expected, seen := len("FLOW"), len("EXPECTED"), len("SEEN")
	for _, row := range r.Rows {
		flow, expected, seen = max(flow, len(row.Packet)+2), max(expected, len(row.Expected)), max(seen, len(row.Seen))
	}
	var out strings.Builder
	line := func(a, b, c string) {
		fmt.Fprintf(&out, "%-*s  %-*s  %s", flow, a, expected, b, c)
	}
	line("FLOW", "EXPECTED", "SEEN")
	out.WriteByte('\n')
	heading := ""
	for _, row := range r.grouped() {
		if row.Flow != heading {
			heading = row.Flow
			fmt.Fprintf(&out, "%s\n", paint(bold, heading))
		}
		line("  "+row.Packet, row.Expected, fmt.Sprintf("%-*s", seen, row.Seen))
		if row.Right {
			fmt.Fprintf(&out, "  %s\n", paint(green, "right"))
			continue
		}
		fmt.Fprintf(&out, "  %s\n", paint(bold+red, "WRONG"))
		fmt.Fprintf(&out, "    %s\n", paint(faint, row.Proves))
	}
	out.WriteByte('\n')
	if k := r.Knocks; k != nil {
		fmt.Fprintf(&out, "%d packets knocked while the guest booted, %d got through, %d flows answered\n", k.Sent,
			len(k.Through), k.Answered)
		for i, s := range k.Through {
			if i == 5 { // enough to act on
				fmt.Fprintf(&out, "  and %d more\n", len(k.Through)-i)
				break
			}
			fmt.Fprintf(&out, "  %s\n", paint(bold+red, "LET THROUGH "+s.String()))
		}
	}
	verdict := paint(green, fmt.Sprintf("%d flows, all right", len(r.Rows)))
	if !r.OK() {
		verdict = paint(bold+red, fmt.Sprintf("%d flows, %d WRONG", len(r.Rows), r.Wrong))
	}
	fmt.Fprintf(&out, "%s: %s, tried in %.1f s\n", r.Guest, verdict, r.Seconds)
	_, err := io.WriteString(w, out.String())
	return err
}
