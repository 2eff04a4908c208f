package xenstore

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Nodes of a Channel, below the guest's own part of the tree. Each of the first two holds what its writer said last,
// "ID BYTES"; the node beside it, with takenSuffix, the ID of what the other end took last.
const (
	channelPath = Base + "/ctl"
	fromHost    = channelPath + "/down"
	fromGuest   = channelPath + "/up"
	takenSuffix = "-taken"
)

const (
	// maxChunk is how much is said at a time, in bytes; with its ID it stays below what a node holds (xenstored(8)).
	maxChunk = 1024
	maxID    = 64
	// reviewed is after how long a node is read again although no event came: an event says that it is time to look,
	// and one may be dropped where many come.
	reviewed = time.Second
)

// Channel is a stream of bytes between a guest and its host through xenstore, for when there is nothing else. A piece
// is said when the one before it was taken, so an end that does not read holds the other one up. It is slow: each KiB
// takes a few exchanges with xenstore. An end that begins anew goes on after what it took last; what it had said and
// nobody took is lost, which a greeting finds out.
//
// One goroutine may read and another write at a time.
type Channel struct {
	conn     *Conn
	ctx      context.Context
	cancel   context.CancelFunc
	out, in  string // nodes
	session  string // of the IDs of this end
	said     uint64
	lastRead string
	pending  []byte // taken, and not read by the caller yet

	closed  atomic.Bool // by Close
	mu      sync.Mutex
	changed chan struct{} // closed when something may have changed
}

// Dial opens the end of a guest (domain ""), or the host's end of the guest whose DomainPath that is. It takes conn
// over, also when it fails.
func Dial(ctx context.Context, conn *Conn, domain string) (*Channel, error) {
	c := &Channel{conn: conn, out: fromGuest, in: fromHost, changed: make(chan struct{})}
	watched := channelPath
	if domain != "" {
		c.out, c.in, watched = domain+"/"+fromHost, domain+"/"+fromGuest, domain+"/"+channelPath
	}
	var nonce [8]byte
	_, _ = crand.Read(nonce[:]) // never fails (crypto/rand)
	c.session = hex.EncodeToString(nonce[:])
	taken, err := conn.Now().Read(ctx, c.in+takenSuffix)
	if err == nil || errors.Is(err, ErrAbsent) {
		c.lastRead = string(taken)
		err = conn.Watch(ctx, watched, "ctl")
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		for range conn.Events() {
			c.mu.Lock()
			close(c.changed)
			c.changed = make(chan struct{})
			c.mu.Unlock()
		}
		c.cancel() // the connection is gone
	}()
	return c, nil
}

// Close ends the use of the channel; who reads or writes gets io.ErrClosedPipe.
func (c *Channel) Close() error {
	c.closed.Store(true)
	c.cancel()
	return c.conn.Close()
}

// next returns what waits until something may have changed since now, or it is time to look anyway.
func (c *Channel) next() (wait func() error) {
	c.mu.Lock()
	changed := c.changed
	c.mu.Unlock()
	return func() error {
		late := time.NewTimer(reviewed)
		defer late.Stop()
		select {
		case <-changed:
		case <-late.C:
		case <-c.ctx.Done():
			return c.failed(c.ctx.Err())
		}
		return nil
	}
}

// failed words an error: a channel that was closed has one of its own, and of one whose connection broke it says why.
func (c *Channel) failed(err error) error {
	switch broken := c.conn.whyBroken(); {
	case c.closed.Load():
		return io.ErrClosedPipe
	case broken != nil:
		return broken
	}
	return err
}

// Write says p and returns when the other end has taken all of it.
func (c *Channel) Write(p []byte) (n int, err error) {
	for n < len(p) {
		chunk := p[n:min(len(p), n+maxChunk)]
		c.said++
		id := c.session + "-" + strconv.FormatUint(c.said, 10)
		if err := c.conn.Now().Write(c.ctx, c.out, append([]byte(id+" "), chunk...)); err != nil {
			return n, c.failed(err)
		}
		for {
			wait := c.next()
			taken, err := c.conn.Now().Read(c.ctx, c.out+takenSuffix)
			if err != nil && !errors.Is(err, ErrAbsent) {
				return n, c.failed(err)
			}
			if string(taken) == id {
				break
			}
			if err := wait(); err != nil {
				return n, err
			}
		}
		n += len(chunk)
	}
	return n, nil
}

// Read waits for what the other end says.
func (c *Channel) Read(p []byte) (int, error) {
	for len(c.pending) == 0 {
		if len(p) == 0 {
			return 0, nil
		}
		wait := c.next()
		value, err := c.conn.Now().Read(c.ctx, c.in)
		if err != nil && !errors.Is(err, ErrAbsent) {
			return 0, c.failed(err)
		}
		if id, said, ok := bytes.Cut(value, []byte{' '}); ok && string(id) != c.lastRead {
			if len(id) == 0 || len(id) > maxID {
				return 0, fmt.Errorf("%w: %.80q stands for what was said", ErrProtocol, value)
			}
			if err := c.conn.Now().Write(c.ctx, c.in+takenSuffix, id); err != nil {
				return 0, c.failed(err)
			}
			c.lastRead, c.pending = string(id), bytes.Clone(said)
			continue
		}
		if err := wait(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.pending)
	c.pending = c.pending[n:]
	return n, nil
}
