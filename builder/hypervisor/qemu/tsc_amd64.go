package qemu

import "time"

// readTSC reads the processor's time stamp counter.
func readTSC() uint64

// tscWindow is how long the counter is watched. Reading counter and clock together takes under a microsecond when
// nothing comes between, so the result is right to about 20 parts in a million.
const tscWindow = 30 * time.Millisecond

// tscKHz measures the frequency of the time stamp counter in kHz, 0 where it cannot be known.
func tscKHz() uint64 {
	c0, t0 := readTogether()
	time.Sleep(tscWindow)
	c1, t1 := readTogether()
	if c1 <= c0 {
		return 0
	}
	return (c1 - c0) * uint64(time.Millisecond) / uint64(t1.Sub(t0))
}

// readTogether reads the counter and the clock at one moment: of several tries the one least disturbed.
func readTogether() (uint64, time.Time) {
	var counter uint64
	var clock time.Time
	best := ^uint64(0)
	for range 20 {
		before := readTSC()
		now := time.Now()
		if took := readTSC() - before; took < best {
			best, counter, clock = took, before+took/2, now
		}
	}
	return counter, clock
}
