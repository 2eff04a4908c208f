package ra

import (
	"math/rand/v2"
	"time"
)

// Times of routers, RFC 4861 section 10.
const (
	maxInitialInterval = 16 * time.Second       // MAX_INITIAL_RTR_ADVERT_INTERVAL
	maxInitial         = 3                      // MAX_INITIAL_RTR_ADVERTISEMENTS
	minDelay           = 3 * time.Second        // MIN_DELAY_BETWEEN_RAS
	maxAnswerDelay     = 500 * time.Millisecond // MAX_RA_DELAY_TIME
)

// schedule says when the next advertisement goes out on a link. Times are of any clock that does not go back. There is
// one next time, whatever is asked: a flood of solicitations costs one advertisement in three seconds and no memory.
type schedule struct {
	random   *rand.Rand
	interval time.Duration // the longest between two
	initial  int           // of those at the beginning, how many went out
	last     time.Duration // when the last went out; 0: never
	at       time.Duration // when the next goes out
}

// begin is for a link that just came up: hosts shall not wait.
func (s *schedule) begin(now time.Duration) {
	s.initial, s.at = 0, s.earliest(now)
}

// news is for something else to be said than before. It is repeated as at the beginning, so that a lost packet does
// not leave a host with what is no more.
func (s *schedule) news(now time.Duration) { s.begin(now) }

// asked is for a solicitation (section 6.2.6).
func (s *schedule) asked(now time.Duration) {
	s.at = min(s.at, s.earliest(now+time.Duration(s.random.Int64N(int64(maxAnswerDelay)))))
}

func (s *schedule) earliest(at time.Duration) time.Duration {
	if s.last == 0 {
		return at
	}
	return max(at, s.last+minDelay)
}

// sent is for an advertisement that went out (section 6.2.4).
func (s *schedule) sent(now time.Duration) {
	s.last = max(now, 1)
	least := max(s.interval/3, minDelay)
	wait := least + time.Duration(s.random.Int64N(int64(max(s.interval-least, 1))))
	if s.initial++; s.initial < maxInitial {
		wait = min(wait, maxInitialInterval)
	}
	s.at = now + wait
}
