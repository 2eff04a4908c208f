package clock

import (
	"fmt"
	"time"
)

// Bounds of what is done to the clock.
const (
	// slewable is the largest offset that the kernel's own loop takes (kernel/time/ntp.c, MAXPHASE: 0.5 s), less what
	// the clock drifts meanwhile.
	slewable = 400 * time.Millisecond
	// sane is the largest jump that one round may ask for once the clock was right: ntpd's panic threshold.
	sane = 1000 * time.Second
	// confirmations are the rounds that must agree on a larger one: the machine slept, or the servers lie.
	confirmations = 4
	// patience is the largest offset that is made up for by letting the clock run slow: at slowdown, twelve hours.
	patience = time.Hour
	// near ends running slow.
	near = 50 * time.Millisecond
)

// Times between two rounds.
const (
	leastPoll = 64 * time.Second   // RFC 5905 section 7.2, MINPOLL
	mostPoll  = 1024 * time.Second // and what it calls the usual MAXPOLL
	calm      = 10 * time.Millisecond
	stormy    = 100 * time.Millisecond
)

// action is what is done to the clock.
type action int

const (
	nothing action = iota
	step           // set it to the time
	steer          // let the kernel's loop bring it there
	crawl          // let it run slow until the time has come up with it
)

// discipline decides what is done about an offset. It is a value of its own so that every case can be tried without a
// clock.
type discipline struct {
	settled bool // the guest counts on the clock: it never goes back again
	synced  bool // it was right once
	crawls  bool
	poll    time.Duration
	// doubted is the offset that rounds wait to be told again, and by how many it was.
	doubted time.Duration
	times   int
}

// decide takes the offset of a round: positive when the clock is behind.
func (d *discipline) decide(offset, distance time.Duration) (action, error) {
	d.pace(offset)
	size := offset.Abs()
	// While the clock runs slow the offset shrinks from round to round; that it was so large is settled then.
	expected := d.crawls && offset < 0 && offset >= -patience
	if size > sane && d.synced && !expected && !d.confirmed(offset, distance) {
		return d.hold(), fmt.Errorf("the clock would be set by %v; waiting for %d rounds that say the same", offset,
			confirmations)
	}
	switch {
	case offset > slewable, offset < -slewable && !d.settled:
		d.crawls, d.synced, d.times = false, true, 0
		return step, nil
	case offset < -patience:
		return d.hold(), fmt.Errorf("the clock is ahead by %v; it is not set back while the guest runs: reboot it", size)
	case offset < -slewable, d.crawls && offset < -near:
		d.crawls, d.synced = true, true
		return crawl, nil
	}
	d.crawls, d.synced, d.times = false, true, 0
	return steer, nil
}

// hold leaves the clock as it is.
func (d *discipline) hold() action {
	if d.crawls {
		d.crawls = false
		return steer // with nothing: it stops running slow
	}
	return nothing
}

// confirmed tells whether enough rounds have said the same.
func (d *discipline) confirmed(offset, distance time.Duration) bool {
	if d.times == 0 || (offset-d.doubted).Abs() > distance+slewable {
		d.doubted, d.times = offset, 0
	}
	d.times++
	return d.times >= confirmations
}

// pace sets when the next round is.
func (d *discipline) pace(offset time.Duration) {
	switch size := offset.Abs(); {
	case d.poll == 0, size >= stormy, d.crawls:
		d.poll = leastPoll
	case size < calm:
		d.poll = min(2*d.poll, mostPoll)
	}
}
