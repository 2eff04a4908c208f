// Package turns gives the state machine of a protocol's client its turns: a packet came, its link changed, a time is
// over. Packets are received in a goroutine of their own; the machine knows of none.
//
// What it deliberately does not do: know a protocol, or open the socket.
package turns

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/time/rate"

	"rempart/firstboot/boottime"
)

// MaxPacket is how much of a packet is received, in bytes: an Ethernet frame's usual payload. What is longer is cut.
const MaxPacket = 1500

const (
	// maxSleep bounds how long a timer of the Go runtime is trusted: it stands still while the guest sleeps, and
	// CLOCK_BOOTTIME does not.
	maxSleep = 30 * time.Second
	// ahead is how many packets wait for their turn before receiving does.
	ahead = 16
)

// Client is a machine and what it is to be told. T is what it is told of its link.
type Client[T any] struct {
	Name string // for errors
	// Receive waits for a packet, as packet.Socket.Receive does; after the socket is closed its error is os.ErrClosed.
	Receive func(buf []byte) (packet []byte, summed bool, err error)
	// Hear reads a packet while the next is not received, and returns what is to be done about it; nil: nothing.
	Hear func(packet []byte, summed bool) func()
	// Told has news of the link, which Tell passes on. Closing it is not allowed.
	Told <-chan T
	Tell func(T)
	// Done has what else came to be done; nil: nothing ever.
	Done <-chan func()
	// Next is when Timer is to be called, by the clock of package boottime; 0: not at all. It may be called sooner.
	Next  func() time.Duration
	Timer func()
	// Perform is called at the start and after each turn: what the machine wants done.
	Perform func()
}

// Run gives turns until ctx is done, and then returns nil; it returns an error when packets can no longer be received.
// The caller closes what Receive reads from afterwards.
func (c Client[T]) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	heard := make(chan func(), ahead)
	broken := make(chan error, 1)
	go func() {
		if err := c.listen(ctx, heard); err != nil {
			broken <- err
		}
	}()
	timer := time.NewTimer(maxSleep)
	defer timer.Stop()
	for {
		c.Perform()
		wait := maxSleep
		if next := c.Next(); next != 0 {
			wait = min(max(next-boottime.Now(), 0), maxSleep)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return fmt.Errorf("%s: receiving: %w", c.Name, err)
		case news := <-c.Told:
			c.Tell(news)
		case do := <-heard:
			do()
		case do := <-c.Done:
			do()
		case <-timer.C:
			c.Timer()
		}
	}
}

// listen hands on packets until the socket is closed.
func (c Client[T]) listen(ctx context.Context, heard chan<- func()) error {
	buf := make([]byte, MaxPacket)
	for {
		b, summed, err := c.Receive(buf)
		if errors.Is(err, os.ErrClosed) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		do := c.Hear(b, summed)
		if do == nil {
			continue
		}
		select {
		case heard <- do:
		case <-ctx.Done():
			return nil
		}
	}
}

// Random is a source of randomness that nobody can foresee.
func Random() *rand.Rand {
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never fails (crypto/rand)
	return rand.New(rand.NewChaCha8(seed))
}

// Complaints bounds how often somebody on a link can make the guest write to its log.
func Complaints() rate.Sometimes {
	const first, interval = 3, 10 * time.Second
	return rate.Sometimes{First: first, Interval: interval}
}
