package ssh

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// refusalsEvery is how often refused connections become a line of the log: whoever floods the port must not flood the
// log too.
const refusalsEvery = time.Minute

// refusals tells the log of connections that were turned away before anything was said: the first at once, what comes
// within a minute after it as a number with the next.
type refusals struct {
	log    *slog.Logger
	now    func() time.Time
	mu     sync.Mutex
	silent time.Time // until then nothing is said
	unsaid int
}

// note tells of one.
func (r *refusals) note(from netip.Prefix, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if now.Before(r.silent) {
		r.unsaid++
		return
	}
	more := ""
	if r.unsaid > 0 {
		more = fmt.Sprintf("; %d more since this was last said", r.unsaid)
	}
	r.log.Warn("SSH connection refused"+more, "from", from, "why", why)
	r.silent, r.unsaid = now.Add(refusalsEvery), 0
}
