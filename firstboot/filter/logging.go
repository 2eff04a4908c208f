package filter

import (
	"slices"
	"time"
)

// logDrop adds the line that logs what the next rule of a chain drops, when the profile wants that of the zone; the
// empty zone stands for what is in none. The rate bounds it: the drop itself counts everything.
func (c *compiler) logDrop(ch *Chain, zone, what string) {
	l := c.profile.Logging
	if l.AllDrops || zone != "" && slices.Contains(l.Drops, zone) {
		ch.add("logging.drops"+at(l.At), Rate{logsPerMinute, time.Minute, logBurst}, Log{"drop " + what + ": "})
	}
}
