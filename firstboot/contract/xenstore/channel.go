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
	// maxBreaks is how many connections may break one after the other, or not come about, before anything is said or
	// heard. Before the second of them passes pause, and twice that before each next: three seconds in all, in which an
	// administrator's new xenstored stands in for the old one.
	maxBreaks = 8
	pause     = 25 * time.Millisecond
)

// Channel is a stream of bytes between a guest and its host through xenstore, for when there is nothing else. A piece
// is said when the one before it was taken, so an end that does not read holds the other one up. It is slow: each KiB
// takes a few exchanges with xenstore. An end that begins anew goes on after what it took last; what it had said and
// nobody took is lost, which a greeting finds out.
//
// One goroutine may read and another write at a time.
type Channel struct {
	redial   func(context.Context) (*Conn, error) // nil: a connection that breaks ends the channel
	ctx      context.Context
	cancel   context.CancelFunc
	out, in  string // nodes
	watched  string // the node above both
	session  string // of the IDs of this end
	said     uint64
	lastRead string
	pending  []byte // taken, and not read by the caller yet

	closed  atomic.Bool // by Close
	dialing sync.Mutex  // held by who replaces a connection
	mu      sync.Mutex
	conn    *Conn
	breaks  int           // connections that broke since something was said or heard
	changed chan struct{} // closed when something may have changed
}

// Connect opens the host's end of the guest whose DomainPath domain is, over what dial returns. A connection that
// breaks is replaced by another: xenstored may close one, or be replaced itself by its host's administrator, while a
// guest carries out a command. Neither end says or hears anything twice for it.
func Connect(ctx context.Context, dial func(context.Context) (*Conn, error), domain string) (*Channel, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	return open(ctx, conn, dial, domain)
}

// Dial opens the end of a guest (domain ""), or the host's end of the guest whose DomainPath that is. It takes conn
// over, also when it fails.
func Dial(ctx context.Context, conn *Conn, domain string) (*Channel, error) {
	return open(ctx, conn, nil, domain)
}

func open(ctx context.Context, conn *Conn, redial func(context.Context) (*Conn, error), domain string) (
	*Channel, error) {
	c := &Channel{redial: redial, conn: conn, out: fromGuest, in: fromHost, watched: channelPath,
		changed: make(chan struct{})}
	if domain != "" {
		c.out, c.in, c.watched = domain+"/"+fromHost, domain+"/"+fromGuest, domain+"/"+channelPath
	}
	var nonce [8]byte
	_, _ = crand.Read(nonce[:]) // never fails (crypto/rand)
	c.session = hex.EncodeToString(nonce[:])
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	taken, err := conn.Now().Read(ctx, c.in+takenSuffix)
	if err == nil || errors.Is(err, ErrAbsent) {
		c.lastRead = string(taken)
		err = c.watch(ctx, conn)
	}
	if err != nil {
		c.cancel()
		conn.Close()
		return nil, err
	}
	return c, nil
}

// watch has what happens on a connection wake whoever waits.
func (c *Channel) watch(ctx context.Context, conn *Conn) error {
	if err := conn.Watch(ctx, c.watched, "ctl"); err != nil {
		return err
	}
	go func() {
		for range conn.Events() {
			c.wake()
		}
		if c.redial == nil {
			c.cancel() // the connection is gone
		}
		c.wake() // who tries it next replaces it
	}()
	return nil
}

func (c *Channel) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
}

// current is the connection in use.
func (c *Channel) current() *Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

// do makes one request, over another connection where the one in use breaks. All that a channel asks for may be asked
// twice: an ID says which piece is meant.
func (c *Channel) do(request func(Tx) error) error {
	for {
		conn := c.current()
		err := request(conn.Now())
		if err == nil || errors.Is(err, ErrAbsent) {
			return err
		}
		if c.redial == nil || c.ctx.Err() != nil || !errors.Is(err, ErrClosed) {
			return c.failed(conn, err)
		}
		if err := c.replace(conn, err); err != nil {
			return c.failed(nil, err)
		}
	}
}

// replace puts another connection in the place of one that broke, unless the other direction has done so.
func (c *Channel) replace(broken *Conn, why error) error {
	c.dialing.Lock()
	defer c.dialing.Unlock()
	if c.current() != broken {
		return nil
	}
	broken.Close()
	first := why
	for {
		c.mu.Lock()
		c.breaks++
		breaks := c.breaks
		c.mu.Unlock()
		if breaks > maxBreaks {
			return fmt.Errorf("%d connections broke one after the other: %w", breaks, why)
		}
		if breaks > 1 {
			select {
			case <-time.After(pause << (breaks - 2)):
			case <-c.ctx.Done():
				return why
			}
		}
		conn, err := c.redial(c.ctx)
		if err != nil {
			why = fmt.Errorf("%w; connecting again: %w", first, err)
			continue
		}
		if err := c.watch(c.ctx, conn); err != nil {
			conn.Close()
			if why = err; errors.Is(err, ErrClosed) {
				continue
			}
			return err
		}
		c.mu.Lock()
		c.conn = conn
		c.mu.Unlock()
		if c.closed.Load() { // meanwhile, when it was not the one in use yet
			conn.Close()
		}
		return nil
	}
}

// progress is noted when a piece was taken: what broke before was not for ever.
func (c *Channel) progress() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.breaks = 0
}

// Close ends the use of the channel; who reads or writes gets io.ErrClosedPipe.
func (c *Channel) Close() error {
	c.closed.Store(true)
	c.cancel()
	return c.current().Close()
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
			return c.failed(c.current(), c.ctx.Err())
		}
		return nil
	}
}

// failed words an error: a channel that was closed has one of its own, and of one whose connection broke it says why.
// conn may be nil.
func (c *Channel) failed(conn *Conn, err error) error {
	if c.closed.Load() {
		return io.ErrClosedPipe
	}
	if conn != nil {
		if broken := conn.whyBroken(); broken != nil {
			return broken
		}
	}
	return err
}

// Write says p and returns when the other end has taken all of it.
func (c *Channel) Write(p []byte) (n int, err error) {
	for n < len(p) {
		chunk := p[n:min(len(p), n+maxChunk)]
		c.said++
		id := c.session + "-" + strconv.FormatUint(c.said, 10)
		value := append([]byte(id+" "), chunk...)
		if err := c.do(func(t Tx) error { return t.Write(c.ctx, c.out, value) }); err != nil {
			return n, err
		}
		for {
			wait := c.next()
			taken, err := c.read(c.out + takenSuffix)
			if err != nil {
				return n, err
			}
			if string(taken) == id {
				break
			}
			if err := wait(); err != nil {
				return n, err
			}
		}
		c.progress()
		n += len(chunk)
	}
	return n, nil
}

// read returns what a node holds; nothing when it is not there.
func (c *Channel) read(node string) (value []byte, err error) {
	err = c.do(func(t Tx) (err error) {
		value, err = t.Read(c.ctx, node)
		return err
	})
	if errors.Is(err, ErrAbsent) {
		return nil, nil
	}
	return value, err
}

// Read waits for what the other end says.
func (c *Channel) Read(p []byte) (int, error) {
	for len(c.pending) == 0 {
		if len(p) == 0 {
			return 0, nil
		}
		wait := c.next()
		value, err := c.read(c.in)
		if err != nil {
			return 0, err
		}
		if id, said, ok := bytes.Cut(value, []byte{' '}); ok && string(id) != c.lastRead {
			if len(id) == 0 || len(id) > maxID {
				return 0, fmt.Errorf("%w: %.80q stands for what was said", ErrProtocol, value)
			}
			if err := c.do(func(t Tx) error { return t.Write(c.ctx, c.in+takenSuffix, id) }); err != nil {
				return 0, err
			}
			c.progress()
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
