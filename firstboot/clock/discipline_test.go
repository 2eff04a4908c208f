package clock

import (
	"strings"
	"testing"
	"time"
)

// TestDecide follows the clock through rounds: what each is told, and what is done.
func TestDecide(t *testing.T) {
	type round struct {
		offset time.Duration
		want   action
		err    string
	}
	for _, c := range []struct {
		what   string
		d      discipline
		rounds []round
	}{
		{"before the start is over the clock is set either way", discipline{}, []round{
			{-50 * 365 * 24 * time.Hour, step, ""}, {30 * time.Millisecond, steer, ""}}},
		{"and a clock that was right at once is steered", discipline{}, []round{{-300 * time.Millisecond, steer, ""}}},
		{"afterwards it goes forward", discipline{settled: true}, []round{{20 * time.Hour, step, ""},
			{time.Second, step, ""}, {0, steer, ""}}},
		{"and never back", discipline{settled: true}, []round{{-time.Second, crawl, ""}, {-500 * time.Millisecond, crawl, ""},
			{-200 * time.Millisecond, crawl, ""}, {-40 * time.Millisecond, steer, ""}, {-200 * time.Millisecond, steer, ""}}},
		{"what is too far ahead stays", discipline{settled: true}, []round{{-2 * time.Hour, nothing, "reboot"},
			{-2 * time.Hour, nothing, "reboot"}, {0, steer, ""}}},
		{"it stops crawling when it is told nonsense", discipline{settled: true}, []round{{-10 * time.Second, crawl, ""},
			{-3 * time.Hour, steer, "waiting"}, {-10 * time.Second, crawl, ""}}},
		{"it crawls on from far ahead", discipline{settled: true}, []round{{-1500 * time.Second, crawl, ""},
			{-1495 * time.Second, crawl, ""}, {-1490 * time.Second, crawl, ""}}},
		{"one that lies is not followed", discipline{settled: true, synced: true}, []round{
			{24 * time.Hour, nothing, "waiting"},
			{0, steer, ""}, {24 * time.Hour, nothing, "waiting"}, {24 * time.Hour, nothing, "waiting"},
			{48 * time.Hour, nothing, "waiting"}, {24 * time.Hour, nothing, "waiting"}}},
		{"a machine that slept is", discipline{settled: true, synced: true}, []round{{24 * time.Hour, nothing, "waiting"},
			{24 * time.Hour, nothing, "waiting"}, {24*time.Hour + 100*time.Millisecond, nothing, "waiting"},
			{24 * time.Hour, step, ""}, {0, steer, ""}}},
	} {
		d := c.d
		for i, r := range c.rounds {
			got, err := d.decide(r.offset, 20*time.Millisecond)
			if got != r.want || (err != nil) != (r.err != "") || err != nil && !strings.Contains(err.Error(), r.err) {
				t.Errorf("%s: round %d: decide(%v) = %d, %v; want %d, %q", c.what, i, r.offset, got, err, r.want, r.err)
			}
			if d.settled && got == step && r.offset < 0 {
				t.Errorf("%s: the clock goes back by %v", c.what, r.offset)
			}
		}
	}
}

func TestPace(t *testing.T) {
	var d discipline
	for i, c := range []struct {
		offset, want time.Duration
	}{{0, leastPoll}, {0, 2 * leastPoll}, {50 * time.Millisecond, 2 * leastPoll}, {0, 4 * leastPoll},
		{0, 8 * leastPoll}, {0, mostPoll}, {0, mostPoll}, {-200 * time.Millisecond, leastPoll}} {
		if d.pace(c.offset); d.poll != c.want {
			t.Errorf("round %d: after %v the next is in %v; want %v", i, c.offset, d.poll, c.want)
		}
	}
}
