package packettest

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

// Report is the verdict on a guest.
type Report struct {
	Guest   string  `json:"guest"`
	Rows    []Row   `json:"rows"`
	Right   int     `json:"right"`
	Wrong   int     `json:"wrong"`
	Seconds float64 `json:"seconds"`
	// Knocks is what happened before the guest was ready; nil when nobody knocked.
	Knocks *Knocks `json:"knocks,omitempty"`
}

// OK tells whether everything is as the profile says.
func (r Report) OK() bool {
	return r.Wrong == 0 && len(r.Rows) > 0 && (r.Knocks == nil || len(r.Knocks.Through) == 0 && r.Knocks.Answered == 0)
}

// Row is the verdict on one flow.
type Row struct {
	Flow     string     `json:"flow"`     // "internet -> self"
	Packet   string     `json:"packet"`   // "tcp 198.51.100.7 -> 192.168.0.101:443"
	Proves   string     `json:"proves"`   // the line of the profile
	Expected string     `json:"expected"` // in words
	Seen     string     `json:"seen"`     // in words
	Right    bool       `json:"right"`
	Control  string     `json:"control,omitempty"` // what shows that the path of a blocked flow is alive
	Sent     int        `json:"sent"`              // packets of it delivered to the guest
	Left     []Sighting `json:"left,omitempty"`    // packets of it that came out of the guest
	Millis   float64    `json:"millis,omitempty"`  // until the answer was back
}

// judge turns attempts into rows.
func (b *Bench) judge(first, blocked, last []*attempt) Report {
	r := Report{Guest: b.profile.Name}
	// Which links are shown to be alive by a flow that passed before and after, and what it was called.
	alive := map[string]string{}
	verdicts := make([]Row, len(b.probes))
	for i, p := range b.probes {
		if !p.Pass {
			continue
		}
		row := b.judgePass(p, first[i])
		if again := b.judgePass(p, last[i]); row.Right && !again.Right {
			row.Right, row.Seen = false, "at first as expected, at the end: "+again.Seen
		}
		verdicts[i] = row
		for _, link := range livingLinks(p, first[i], last[i]) {
			if key := aliveKey(link, p.Src); alive[key] == "" {
				alive[key] = fmt.Sprintf("%s %s", row.Flow, knockName(p))
			}
		}
	}
	for i, p := range b.probes {
		row := verdicts[i]
		if !p.Pass {
			row = b.judgeBlocked(p, blocked[i], alive)
		}
		if row.Right {
			r.Right++
		} else {
			r.Wrong++
		}
		r.Rows = append(r.Rows, row)
	}
	return r
}

// livingLinks are the links that a flow has shown to carry packets both before and after those that must not pass,
// rightly translated or not: the one it came in by when it was answered at all, the one it left by when the answer
// came from beyond.
func livingLinks(p filter.Probe, tries ...*attempt) []string {
	for _, a := range tries {
		if _, _, said := a.snapshot(); !a.whole && (p.OutLink != "" || said == silent) {
			return nil
		}
	}
	if p.OutLink == "" {
		return []string{p.Link}
	}
	return []string{p.Link, p.OutLink}
}

// aliveKey is a link in one family: a link may speak one and not the other.
func aliveKey(link string, a netip.Addr) string {
	if a.Is6() {
		return link + " v6"
	}
	return link + " v4"
}

func newRow(p filter.Probe, a *attempt) Row {
	sent, left, _ := a.snapshot()
	return Row{Flow: p.From + " -> " + p.To, Proves: p.Proves, Packet: packetName(p), Sent: sent, Left: distinct(left)}
}

// distinct leaves out repetitions: a packet sent again comes out again.
func distinct(all []Sighting) []Sighting {
	var out []Sighting
	for _, s := range all {
		if !slices.ContainsFunc(out, func(o Sighting) bool { return o.Link == s.Link && o.Src == s.Src && o.Dst == s.Dst }) {
			out = append(out, s)
		}
	}
	return out
}

func packetName(p filter.Probe) string {
	if p.Protocol == profiles.Ping {
		return fmt.Sprintf("ping %s -> %s", p.Src, p.Dst)
	}
	return fmt.Sprintf("%s %s -> %s", p.Protocol, p.Src, netip.AddrPortFrom(p.Dst, p.Port))
}

func knockName(p filter.Probe) string {
	if p.Protocol == profiles.Ping {
		return "ping"
	}
	return fmt.Sprintf("%s/%d", p.Protocol, p.Port)
}

// judgePass judges a flow that must pass.
func (b *Bench) judgePass(p filter.Probe, a *attempt) Row {
	row := newRow(p, a)
	row.Millis = float64(a.took.Microseconds()) / float64(time.Millisecond/time.Microsecond)
	_, _, said := a.snapshot()
	if p.OutLink == "" {
		row.Expected = "answered"
		// Port closed and reset are the guest's own answers: nobody listens, but the packet got to where it would.
		row.Right = row.Sent > 0 && (a.whole || said == replied || said == reset || said == portClosed)
		row.Seen = said.String()
		if row.Right && said != replied {
			row.Seen = "answered: nobody listens"
		}
		if row.Sent == 0 {
			row.Seen = b.notSent(p, a)
		}
		return row
	}
	want := Sighting{Link: p.OutLink, Src: p.SeenSrc, Dst: netip.AddrPortFrom(p.SeenDst, p.SeenPort)}
	row.Expected = "reaches " + endName(want)
	as := len(row.Left) > 0
	for _, s := range row.Left {
		as = as && s.Link == want.Link && p.SeenAs(s.Src) && s.Dst == want.Dst
	}
	if p.SeenSrc != p.Src {
		row.Expected += " as " + p.SeenSrc.String()
		if p.SeenLast.IsValid() {
			row.Expected += "-" + p.SeenLast.String()
		}
	}
	row.Right = as && a.whole
	switch {
	case row.Right:
		row.Seen = row.Expected
	case row.Sent == 0:
		row.Seen = b.notSent(p, a)
	case len(row.Left) == 0:
		row.Seen = "did not come out; " + said.String()
	case !as:
		row.Seen = "came out " + row.Left[0].String()
	default:
		row.Seen = "came out right, but no answer got back: " + a.failure
	}
	return row
}

func endName(s Sighting) string {
	if s.Dst.Port() == 0 {
		return s.Dst.Addr().String()
	}
	return s.Dst.String()
}

func (b *Bench) notSent(p filter.Probe, a *attempt) string {
	return fmt.Sprintf("never delivered to the guest on %s: %s", p.Link, a.failure)
}

// judgeBlocked judges a flow that must not pass.
func (b *Bench) judgeBlocked(p filter.Probe, a *attempt, alive map[string]string) Row {
	row := newRow(p, a)
	row.Expected = "blocked"
	_, _, said := a.snapshot()
	refused := said == prohibited || said == reset && (p.OutLink != "" || b.rejects(p))
	control, live := alive[aliveKey(p.Link, p.Src)]
	if live && p.OutLink != "" && p.OutLink != p.Link {
		var out string
		if out, live = alive[aliveKey(p.OutLink, p.Src)]; live && out != control {
			control += "; " + out
		}
	}
	if b.controlLess(p) {
		// The profile lets nothing pass over these links in this family: that the guest answered for its hardware
		// address, or nothing would have been delivered, is the only life sign there can be.
		control, live = "the guest answers for its address", true
	}
	row.Control = control
	switch {
	case row.Sent == 0:
		row.Seen = b.notSent(p, a)
	case len(row.Left) > 0:
		row.Seen = "LET THROUGH: " + row.Left[0].String()
	case a.whole || said == replied:
		row.Seen = "ANSWERED"
	case said != silent && !refused:
		row.Seen = "blocked? " + said.String()
	case !live:
		row.Seen = "silence, but no control shows the path alive"
	default:
		row.Right = true
		row.Seen = "blocked"
		if refused {
			row.Seen = "blocked: " + said.String()
		}
	}
	return row
}

// controlLess tells whether the profile has no flow that must pass over one of the probe's links in its family.
func (b *Bench) controlLess(p filter.Probe) bool {
	for _, link := range []string{p.Link, p.OutLink} {
		if link != "" && !slices.ContainsFunc(b.probes, func(o filter.Probe) bool {
			return o.Pass && o.Src.Is6() == p.Src.Is6() && (o.Link == link || o.OutLink == link)
		}) {
			return true
		}
	}
	return false
}

// rejects tells whether a line of the policy may answer a probe with a refusal.
func (b *Bench) rejects(p filter.Probe) bool {
	return slices.ContainsFunc(b.profile.Policy, func(r profiles.Rule) bool {
		if r.Action != profiles.Reject || r.From != p.From && r.From != profiles.Any ||
			r.To != p.To && (r.To != profiles.Any || p.To == profiles.Self) {
			return false
		}
		return len(r.Matches) == 0 || slices.ContainsFunc(r.Matches, func(m profiles.Match) bool {
			return m.Protocol == p.Protocol || m.Protocol == profiles.AnyProtocol
		})
	})
}
