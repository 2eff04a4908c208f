package segment

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Severity is how bad an entry is: the numbers of RFC 5424, table 2. Lower is worse.
type Severity int

// The severities a guest uses; the kernel uses the others too.
const (
	Error   Severity = 3
	Warning Severity = 4
	Info    Severity = 6
	lowest  Severity = 7
)

// Bounds of an entry.
const (
	MaxText = 1000 // bytes
	MaxFrom = 32   // bytes
	// maxLine holds any entry: the text, the name, and the longest number, time and uptime with a blank after each.
	maxLine = MaxText + MaxFrom + 20 + len(timeLayout) + 20 + 16
)

// timeLayout is RFC 3339 in UTC with microseconds: of one width, so that lines sort.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// Entry is one line of the guest's log.
type Entry struct {
	Number   uint64        // counts from 1 over the whole life of the log, without gaps
	Time     time.Time     // by the clock of the guest, which may have been wrong
	Uptime   time.Duration // since the kernel started, microseconds: what to trust for order and distance
	Severity Severity
	From     string // a child, "init" or "kernel": letters, digits and -
	Text     string // UTF-8 without control characters
}

// ErrEntry is wrapped by every error of Parse.
var ErrEntry = errors.New("not a line of the log")

// String is the entry as a line, without a newline: "NUMBER TIME UPTIME SEVERITY FROM TEXT". What does not fit the
// bounds is cut, what a terminal would obey is replaced.
func (e Entry) String() string {
	return fmt.Sprintf("%d %s %d.%06d %d %s %s", e.Number, e.Time.UTC().Format(timeLayout), e.Uptime/time.Second,
		e.Uptime%time.Second/time.Microsecond, e.Severity, name(e.From), printable(e.Text))
}

// Parse reads a line that String wrote, without its newline.
func Parse(line string) (Entry, error) {
	fail := func(what string) (Entry, error) { return Entry{}, fmt.Errorf("%w: %s", ErrEntry, what) }
	if len(line) > maxLine {
		return fail("too long")
	}
	parts := strings.SplitN(line, " ", 6)
	if len(parts) != 6 {
		return fail("want NUMBER TIME UPTIME SEVERITY FROM TEXT")
	}
	var e Entry
	var err error
	if e.Number, err = strconv.ParseUint(parts[0], 10, 64); err != nil || e.Number == 0 ||
		e.Number > maxNumber || parts[0][0] == '0' {
		return fail("number")
	}
	if e.Time, err = time.Parse(timeLayout, parts[1]); err != nil || len(parts[1]) != len(timeLayout) {
		return fail("time")
	}
	seconds, micros, ok := strings.Cut(parts[2], ".")
	s, err := strconv.ParseUint(seconds, 10, 32)
	if err != nil || !ok || len(micros) != 6 || strconv.FormatUint(s, 10) != seconds {
		return fail("uptime")
	}
	us, err := strconv.ParseUint(micros, 10, 32)
	if err != nil {
		return fail("uptime")
	}
	e.Uptime = time.Duration(s)*time.Second + time.Duration(us)*time.Microsecond
	if len(parts[3]) != 1 || parts[3][0] < '0' || parts[3][0] > '0'+byte(lowest) {
		return fail("severity")
	}
	e.Severity = Severity(parts[3][0] - '0')
	if e.From = parts[4]; name(e.From) != e.From {
		return fail("from")
	}
	if e.Text = parts[5]; printable(e.Text) != e.Text {
		return fail("text")
	}
	return e, nil
}

// name makes a word fit to stand in a line.
func name(s string) string {
	var b strings.Builder
	for _, c := range []byte(s[:min(len(s), MaxFrom)]) {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			c = '-'
		}
		b.WriteByte(c)
	}
	if b.Len() == 0 {
		return "-"
	}
	return b.String()
}

// printable replaces what a terminal would obey, and cuts.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n', r == '\t':
			r = ' '
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError || r == 0x2028 || r == 0x2029:
			r = '?'
		}
		if b.Len()+utf8.RuneLen(r) > MaxText {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}
