package turns

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/boottime"
)

// packets are received one after the other; then comes the error.
type packets struct {
	queue chan string
	end   error
}

func (p packets) receive(buf []byte) ([]byte, bool, error) {
	b, ok := <-p.queue
	if !ok {
		return nil, false, p.end
	}
	return buf[:copy(buf, b)], true, nil
}

// TestTurns: everything that happens is done in the caller's goroutine, each followed by what the machine wants done,
// and the bytes of a packet are looked at before the next.
func TestTurns(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	in := packets{make(chan string, 3), os.ErrClosed}
	told, done := make(chan bool), make(chan func(), 1)
	var log []string
	performed := 0
	steps := []func(){ // each is started by what the one before it brought
		func() { told <- true },
		func() { in.queue <- "nothing"; in.queue <- "packet" },
		func() { done <- func() { log = append(log, "done") } },
		cancel,
	}
	err := Client[bool]{
		Name:    "test",
		Receive: in.receive,
		Hear: func(b []byte, summed bool) func() {
			if string(b) == "nothing" {
				return nil
			}
			text := string(b)
			return func() { log = append(log, text) }
		},
		Told: told,
		Tell: func(up bool) { log = append(log, "told") },
		Done: done,
		Next: func() time.Duration {
			if slices.Contains(log, "timer") {
				return 0
			}
			return boottime.Now()
		},
		Timer: func() { log = append(log, "timer") },
		Perform: func() {
			if performed++; performed > 1 { // after the timer, which is due at once
				go steps[performed-2]()
			}
		},
	}.Run(ctx)
	if want := []string{"timer", "told", "packet", "done"}; err != nil || !slices.Equal(log, want) || performed != 5 {
		t.Errorf("Run = %v after %q and %d looks at what is to be done; want no error, %q and 5", err, log, performed, want)
	}
}

// TestBroken: what can no longer receive ends with the error, and says whose it is.
func TestBroken(t *testing.T) {
	in := packets{make(chan string), errors.New("the link is gone")}
	close(in.queue)
	err := Client[bool]{Name: "DHCP on wan0", Receive: in.receive, Next: func() time.Duration { return 0 },
		Perform: func() {}}.Run(context.Background())
	if !errors.Is(err, in.end) || !strings.Contains(err.Error(), "DHCP on wan0: receiving") {
		t.Errorf("Run = %v; want %v, and on which link", err, in.end)
	}
}
