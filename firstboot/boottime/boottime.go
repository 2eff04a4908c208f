// Package boottime is the clock that nobody sets: CLOCK_BOOTTIME (clock_gettime(2)), the same for every process until
// the next boot, going on while the machine sleeps.
//
// What it deliberately does not do: tell the time of day.
package boottime

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is how long ago the machine started.
func Now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // cannot fail since Linux 2.6.39
	}
	return time.Duration(t.Nano())
}
