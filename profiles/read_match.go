//go:build !guest

package profiles

import (
	"fmt"
	"strconv"
	"strings"
)

// defaultBurst is nft's own, in packets.
const defaultBurst = 5

// readLimit reads "10/s" or "10/m burst 20".
func readLimit(r *reader, v value, d *matchDraft) {
	text, ok := r.word(v, "a rate such as 10/s or 10/m burst 20")
	if !ok {
		return
	}
	rate, burst, bursts := strings.Cut(text, " burst ")
	count, per, _ := strings.Cut(rate, "/")
	limit := &Limit{Per: per, Burst: defaultBurst}
	n, good := parseCount(count)
	limit.Count = n
	if bursts {
		m, ok := parseCount(burst)
		limit.Burst, good = m, good && ok
	}
	if _, known := limit.Seconds(); !good || !known {
		r.expected(v, fmt.Sprintf("a rate such as 10/s, 10/m, 10/h, 10/d or 10/s burst 20, of 1 to %d", maxRate), "")
		return
	}
	d.limit = limit
}

// parseCount reads a number from 1 to maxRate.
func parseCount(text string) (uint32, bool) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err == nil && n > 0 && n <= maxRate && strconv.FormatUint(n, 10) == text
}

func readConnections(r *reader, v value, d *matchDraft) {
	d.connections, _ = r.integer(v, 1, maxConnections, "")
}

func readLog(r *reader, v value, d *matchDraft) {
	const what = "true, or what the lines in the log begin with"
	if v.node.Tag == "!!bool" {
		d.logged, _ = r.boolean(v)
		return
	}
	text, ok := r.word(v, what)
	if !ok {
		return
	}
	if problem := checkLog(text); problem != "" {
		r.rejectAt(v.pos(), "", "%s: %s", v.name, problem)
		return
	}
	d.logged, d.log = true, text
}

func readWith(r *reader, v value, d *matchDraft) {
	text, ok := r.word(v, strings.Join(rejectWords(), ", "))
	if !ok {
		return
	}
	if RejectWith(text).known() {
		d.with = RejectWith(text)
		return
	}
	r.expected(v, strings.Join(rejectWords(), ", "), suggest(text, rejectWords()))
}
