package logging

import "time"

// Rates of one source. The kernel says 400 lines while it starts, which is the burst; a firewall whose policy logs a
// few lines says ten a minute for each.
const (
	perSecond  = 20
	burst      = 1000
	maxSources = 64
)

// meter is a token bucket on the clock of the guest's uptime, which no one sets.
type meter struct {
	tokens  float64
	at      time.Duration
	dropped int
}

func newMeter(now time.Duration) *meter { return &meter{tokens: burst, at: now} }

// allow takes a token if there is one.
func (m *meter) allow(now time.Duration) bool {
	m.tokens = min(burst, m.tokens+perSecond*max(0, now-m.at).Seconds())
	m.at = now
	if m.tokens < 1 {
		m.dropped++
		return false
	}
	m.tokens--
	return true
}

// rested tells whether the source has said nothing for so long that another line of it would be kept.
func (m *meter) rested(now time.Duration) bool { return m.tokens+perSecond*(now-m.at).Seconds() >= 1 }
