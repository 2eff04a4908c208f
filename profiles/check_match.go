package profiles

import "fmt"

// Bounds of what a policy line adds to its services.
const (
	maxRate        = 1_000_000 // a second's worth of new flows is more than a guest of this kind handles
	maxConnections = 65_535
	maxLog         = 48  // bytes; the kernel takes 127 (NF_LOG_PREFIXLEN), of which some are ours
	maxICMPType    = 255 // RFC 792: one byte
)

// Seconds is how long Per is; false when it is none.
func (l Limit) Seconds() (uint64, bool) {
	switch l.Per {
	case "s":
		return 1, true
	case "m":
		return 60, true
	case "h":
		return 3600, true
	case "d":
		return 86400, true
	}
	return 0, false
}

// String is "10/s burst 20".
func (l Limit) String() string { return fmt.Sprintf("%d/%s burst %d", l.Count, l.Per, l.Burst) }

func rejectWords() []string {
	return []string{string(PortUnreachable), string(HostUnreachable), string(NoRoute), string(AdminProhibited)}
}

func (w RejectWith) known() bool {
	switch w {
	case AdminProhibited, PortUnreachable, HostUnreachable, NoRoute:
		return true
	}
	return false
}

// checkLog tells what is wrong with what log lines begin with. It becomes part of a line for people and programs.
func checkLog(text string) string {
	if text == "" || len(text) > maxLog {
		return fmt.Sprintf("a log text of %d bytes, expected 1 to %d", len(text), maxLog)
	}
	for i := range len(text) {
		c := text[i]
		if !isLower(c) && !(c >= 'A' && c <= 'Z') && !isDigit(c) && !containsByte(" _.:>-", c) {
			return "the log text " + quote(text) + " has more than letters, digits, blanks and _ . : > -"
		}
	}
	return ""
}

func containsByte(set string, c byte) bool {
	for i := range len(set) {
		if set[i] == c {
			return true
		}
	}
	return false
}

// extras checks what a rule says beyond what it matches.
func (v *validator) extras(rule Rule) {
	const accepting = "limit what is accepted; what no line accepts is dropped"
	if l := rule.Limit; l != nil {
		_, known := l.Seconds()
		if !known || l.Count == 0 || l.Count > maxRate || l.Burst == 0 || l.Burst > maxRate {
			v.reject(rule.At, "", "policy: %s is no rate", quote(l.String()))
		}
		if rule.Action != Accept {
			v.reject(rule.At, accepting, "policy: a limit on a line that does not accept")
		}
	}
	if rule.Connections > maxConnections {
		v.reject(rule.At, "", "policy: %d connections, expected at most %d", rule.Connections, maxConnections)
	}
	if rule.Connections > 0 && rule.Action != Accept {
		v.reject(rule.At, accepting, "policy: a number of connections on a line that does not accept")
	}
	if (rule.Limit != nil || rule.Connections > 0) && rule.From == Self {
		v.reject(rule.At, "", "policy: the guest's own packets have one source, it cannot be limited by source")
	}
	if rule.Log != "" {
		if problem := checkLog(rule.Log); problem != "" {
			v.reject(rule.At, "", "policy: %s", problem)
		}
	}
	if rule.With != "" && !rule.With.known() {
		v.reject(rule.At, "", "policy: reject with %s", quote(string(rule.With)))
	}
	if rule.With != "" && rule.Action != Reject {
		v.reject(rule.At, "add action: reject", "policy: with says what reject answers, and the action is %s",
			quote(string(rule.Action)))
	}
}
