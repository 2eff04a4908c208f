package clock

import (
	"fmt"
	"math/bits"
	"time"

	"golang.org/x/sys/unix"
)

// Fields of struct timex (<linux/timex.h>) that x/sys does not name.
const (
	adjOffset    = 0x0001
	adjMaxError  = 0x0004
	adjEstError  = 0x0008
	adjStatus    = 0x0010
	adjTimeConst = 0x0020
	adjSetOffset = 0x0100
	adjNano      = 0x2000
	adjTick      = 0x4000
	staPLL       = 0x0001

	usualTick = 10000 // microseconds of a tick at USER_HZ 100
	// slowTick lets the clock run slow by 8.33 %, chrony's maxslewrate: timers, which slow down with it, still do their
	// job.
	slowTick = 9167
)

// Machine is the clock of the machine.
type Machine interface {
	// Step sets the clock by an offset at once.
	Step(offset time.Duration) error
	// Steer lets it reach an offset, at most 0.5 s, while it goes on; poll is the time to the next call.
	Steer(offset, poll time.Duration) error
	// Crawl lets it run slow until Step or Steer is called.
	Crawl() error
}

// kernel is the machine's real clock. It needs CAP_SYS_TIME.
type kernel struct{}

func (kernel) Step(offset time.Duration) error {
	t := unix.Timex{Modes: adjStatus | adjNano | adjSetOffset | adjMaxError | adjEstError | adjTick, Status: staPLL,
		Tick: usualTick}
	seconds := offset / time.Second
	rest := offset % time.Second
	if rest < 0 { // the kernel wants the fraction positive
		seconds, rest = seconds-1, rest+time.Second
	}
	t.Time.Sec, t.Time.Usec = int64(seconds), int64(rest) // nanoseconds, by adjNano
	return adjust(&t)
}

func (kernel) Steer(offset, poll time.Duration) error {
	// The loop's time constant is log2 of the poll interval, less 4 (RFC 5905's clock_adj against kernel/time/ntp.c's
	// SHIFT_PLL).
	constant := max(0, bits.Len64(uint64(poll/time.Second))-1-4)
	return adjust(&unix.Timex{Modes: adjStatus | adjNano | adjOffset | adjTimeConst | adjMaxError | adjEstError | adjTick,
		Status: staPLL, Offset: int64(offset), Constant: int64(constant), Tick: usualTick})
}

func (kernel) Crawl() error {
	return adjust(&unix.Timex{Modes: adjStatus | adjNano | adjOffset | adjTick, Status: staPLL, Tick: slowTick})
}

func adjust(t *unix.Timex) error {
	if _, err := unix.Adjtimex(t); err != nil {
		return fmt.Errorf("adjusting the clock: %w", err)
	}
	return nil
}
