package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"time"
)

// Health is what a guest of another system must show to be taken for healthy: all that is set. Such a guest says no
// READY, and what it shows is a claim like that: it may be compromised.
type Health struct {
	After   time.Duration `json:"after,omitempty"`   // nanoseconds that it must run for
	Console string        `json:"console,omitempty"` // regular expression (RE2) that a line of its console must match
	// TCP is where somebody must answer: ADDRESS:PORT as this machine reaches it, or a PORT of the guest itself on the
	// first of its links that is on a user-mode network. An answer is at least one byte; a guest that speaks first may,
	// else it is asked by a request of HTTP/1.0.
	TCP string `json:"tcp,omitempty"`
}

// maxAfter bounds Health.After, maxPattern the expression in bytes.
const (
	maxAfter   = 24 * time.Hour
	maxPattern = 1024
)

// Check tells everything that is wrong with it, at once.
func (h Health) Check() error {
	var errs []error
	if h.After < 0 || h.After > maxAfter {
		errs = append(errs, fmt.Errorf("healthy after %v: want 0 to %v", h.After, maxAfter))
	}
	if len(h.Console) > maxPattern {
		errs = append(errs, fmt.Errorf("healthy by a line of the console %.80q: want an expression of at most %d bytes",
			h.Console, maxPattern))
	} else if _, err := regexp.Compile(h.Console); err != nil {
		errs = append(errs, fmt.Errorf("healthy by a line of the console: %w", err))
	}
	if _, own := h.Port(); h.TCP != "" && !own {
		if a, err := netip.ParseAddrPort(h.TCP); err != nil || a.Port() == 0 {
			errs = append(errs, fmt.Errorf("healthy by TCP %.80q: want a port of the guest, such as 22, or an address and "+
				"a port such as 192.0.2.7:22", h.TCP))
		}
	}
	if h == (Health{}) {
		errs = append(errs, errors.New("nothing says when it is healthy"))
	}
	return errors.Join(errs...)
}

// Port is the port that TCP names of the guest itself.
func (h Health) Port() (port uint16, own bool) {
	n, err := strconv.ParseUint(h.TCP, 10, 16)
	return uint16(n), err == nil && n > 0
}

// prove waits until a guest has shown all that its health asks for, or has ended, and says so. Its Console was compiled
// when the guest was described.
func (g *Guest) prove(h Health) {
	if h.After > 0 {
		lapse := time.NewTimer(h.After)
		defer lapse.Stop()
		select {
		case <-lapse.C:
		case <-g.Done():
			return
		}
	}
	if h.Console != "" {
		select {
		case <-g.matched:
		case <-g.Done():
			return
		}
	}
	if h.TCP != "" {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			select {
			case <-g.Done():
				cancel()
			case <-ctx.Done():
			}
		}()
		if awaitAnswer(ctx, h.TCP) != nil {
			return
		}
	}
	closeOnce(g.ready)
}

// Times of asking at a TCP port: how long one connection may take, how long a guest is given to speak first, and what
// is left between two tries.
const (
	answerTime  = 10 * time.Second
	silenceTime = 2 * time.Second
	askInterval = 500 * time.Millisecond
)

// awaitAnswer asks at an address again and again until somebody answers or ctx ends.
func awaitAnswer(ctx context.Context, address string) error {
	for {
		if answers(ctx, address) {
			return nil
		}
		select {
		case <-time.After(askInterval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// answers tells whether a byte comes from an address. That a connection is made proves nothing: a user-mode network
// makes it before the guest is asked.
func answers(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	b := make([]byte, 1)
	if conn.SetReadDeadline(time.Now().Add(silenceTime)) != nil {
		return false
	}
	if n, err := conn.Read(b); n == 1 {
		return true
	} else if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		return false
	}
	if _, err := conn.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil || conn.SetReadDeadline(time.Time{}) != nil {
		return false
	}
	n, _ := conn.Read(b)
	return n == 1
}
