// Package xenstore speaks the protocol of xenstore, the small shared tree by which domains of a Xen host and its tools
// know each other (xen.git, docs/misc/xenstore.txt and xen/include/public/io/xs_wire.h), and says where a guest of ours
// leaves its report there. Both sides use it: a guest and its host differ in nothing but the device they open.
//
// It is pure: whoever uses it brings the connection. What it deliberately does not do: permissions, introducing of
// domains and the other things that only a toolstack does.
package xenstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
)

// Device is where Linux offers the connection of its domain, guest or dom0 (drivers/xen/xenbus/xenbus_dev_frontend.c).
const Device = "/dev/xen/xenbus"

// Bounds of the protocol (xs_wire.h: XENSTORE_PAYLOAD_MAX, XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX).
const (
	MaxPayload      = 4096
	maxAbsolutePath = 3072
	maxRelativePath = 2048
)

// Types of messages (xs_wire.h, enum xsd_sockmsg_type).
const (
	typeDirectory        = 1
	typeRead             = 2
	typeWatch            = 4
	typeTransactionStart = 6
	typeTransactionEnd   = 7
	typeWrite            = 11
	typeRemove           = 13
	typeWatchEvent       = 15
	typeError            = 16
)

// headerSize is that of struct xsd_sockmsg: type, req_id, tx_id, len.
const headerSize = 16

// maxRequest is what Device takes after a header: its buffer for both has MaxPayload bytes
// (drivers/xen/xenbus/xenbus_dev_frontend.c, struct xenbus_file_priv).
const maxRequest = MaxPayload - headerSize

// Errors that callers decide on.
var (
	// ErrAbsent: there is no such node.
	ErrAbsent = errors.New("no such node in xenstore")
	// ErrProtocol: what came is no message of xenstore.
	ErrProtocol = errors.New("not the protocol of xenstore")
	// ErrClosed: the connection was closed, or broke.
	ErrClosed = errors.New("the connection with xenstore is closed")
	// errAgain: somebody else changed what a transaction has read or written.
	errAgain = errors.New("another transaction was faster")
)

// Event says that a watched node, or one below it, may have changed. The first comes at once.
type Event struct{ Path, Token string }

// maxEvents are kept for a reader of Events that is slow; what is beyond is dropped, for an event says no more than
// that it is time to look again.
const maxEvents = 64

type message struct {
	kind, request, transaction uint32
	payload                    []byte
}

// Conn is a connection. It is safe for concurrent use.
type Conn struct {
	rw     io.ReadWriteCloser
	events chan Event

	// turn is held from a request until its answer has come, also when who asked has given up. Device keeps the body of a
	// request where it was written to until a thread of the kernel has sent it, and what is written meanwhile is sent in
	// its place (drivers/xen/xenbus/xenbus_xs.c, xenbus_dev_request_and_reply). Xen's own library makes one request at a
	// time too (tools/libs/store/xs.c, request_mutex).
	turn chan struct{}
	over chan struct{} // closed when nothing more comes

	mu     sync.Mutex
	last   uint32
	asked  *request // that has no answer yet; nil: none
	broken error    // why nothing more comes
}

// request is one that an answer is due to.
type request struct {
	id     uint32
	answer chan message // holds one
}

// New takes a connection over and begins to read from it.
func New(rw io.ReadWriteCloser) *Conn {
	c := &Conn{rw: rw, events: make(chan Event, maxEvents), turn: make(chan struct{}, 1), over: make(chan struct{})}
	go c.listen()
	return c
}

// Close closes the connection; whoever waits gets ErrClosed.
func (c *Conn) Close() error { return c.rw.Close() }

// Events delivers what happens to watched nodes. It is closed with the connection.
func (c *Conn) Events() <-chan Event { return c.events }

// listen reads messages until the connection ends.
func (c *Conn) listen() {
	var err error
	for {
		var m message
		if m, err = readMessage(c.rw); err != nil {
			break
		}
		if m.kind == typeWatchEvent {
			if e, ok := parseEvent(m.payload); ok {
				select {
				case c.events <- e:
				default:
				}
			}
			continue
		}
		c.mu.Lock()
		if r := c.asked; r != nil && r.id == m.request {
			r.answer <- m
			c.asked = nil
			<-c.turn
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = fmt.Errorf("%w: %w", ErrClosed, err)
	close(c.over)
	close(c.events)
}

// whyBroken is why nothing more comes; nil: something may.
func (c *Conn) whyBroken() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

func readMessage(r io.Reader) (m message, err error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return m, err
	}
	le := binary.LittleEndian
	m = message{kind: le.Uint32(header[0:]), request: le.Uint32(header[4:]), transaction: le.Uint32(header[8:])}
	size := le.Uint32(header[12:])
	if size > MaxPayload {
		return m, fmt.Errorf("%w: a message of %d bytes; want %d at most", ErrProtocol, size, MaxPayload)
	}
	m.payload = make([]byte, size)
	_, err = io.ReadFull(r, m.payload)
	return m, err
}

// parseEvent reads "PATH\0TOKEN\0".
func parseEvent(payload []byte) (Event, bool) {
	words := bytes.Split(payload, []byte{0})
	if len(words) < 2 {
		return Event{}, false
	}
	return Event{string(words[0]), string(words[1])}, true
}

// ask sends one request and waits for its answer.
func (c *Conn) ask(ctx context.Context, kind, transaction uint32, payload []byte) ([]byte, error) {
	if len(payload) > maxRequest {
		return nil, fmt.Errorf("a message of %d bytes; xenstore takes %d at most", len(payload), maxRequest)
	}
	select {
	case c.turn <- struct{}{}:
	case <-c.over:
		return nil, c.whyBroken()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	r := &request{answer: make(chan message, 1)}
	c.mu.Lock()
	c.last++
	r.id, c.asked = c.last, r
	c.mu.Unlock()
	b := make([]byte, 0, headerSize+len(payload))
	for _, word := range []uint32{kind, r.id, transaction, uint32(len(payload))} {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	if _, err := c.rw.Write(append(b, payload...)); err != nil { // as a whole: the kernel acts on whole messages
		c.withdraw(r)
		return nil, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	select {
	case m := <-r.answer:
		return m.of(kind)
	case <-ctx.Done():
		return nil, context.Cause(ctx) // listen ends the turn
	case <-c.over:
	}
	select {
	case m := <-r.answer: // the last thing that came
		return m.of(kind)
	default:
		return nil, c.whyBroken()
	}
}

// withdraw ends the turn of a request that was not sent.
func (c *Conn) withdraw(r *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked == r {
		c.asked = nil
		<-c.turn
	}
}

// of is what an answer says to a request of a type.
func (m message) of(kind uint32) ([]byte, error) {
	switch m.kind {
	case typeError:
		return nil, errorOf(string(bytes.TrimRight(m.payload, "\x00")))
	case kind:
		return m.payload, nil
	}
	return nil, fmt.Errorf("%w: an answer of type %d to a request of type %d", ErrProtocol, m.kind, kind)
}

// errorOf is the error of a name of xsd_errors (xs_wire.h).
func errorOf(name string) error {
	switch name {
	case "ENOENT":
		return ErrAbsent
	case "EAGAIN":
		return errAgain
	}
	return fmt.Errorf("xenstore says %.32q", name)
}

// Tx is where requests take effect: at once, or with a transaction of Transact.
type Tx struct {
	c  *Conn
	id uint32
}

// Now is for single requests.
func (c *Conn) Now() Tx { return Tx{c: c} }

// checkPath keeps a path from being two: a NUL separates arguments.
func checkPath(path string) error {
	most := maxRelativePath
	if strings.HasPrefix(path, "/") {
		most = maxAbsolutePath
	}
	if path == "" || len(path) >= most || strings.IndexByte(path, 0) >= 0 {
		return fmt.Errorf("%.64q is no path of xenstore", path)
	}
	return nil
}

func (t Tx) ask(ctx context.Context, what string, kind uint32, path string, more []byte) ([]byte, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	b, err := t.c.ask(ctx, kind, t.id, append(append([]byte(path), 0), more...))
	if err != nil {
		return nil, fmt.Errorf("xenstore: %s %s: %w", what, path, err)
	}
	return b, nil
}

// Read returns the value of a node; ErrAbsent when it is not there.
func (t Tx) Read(ctx context.Context, path string) ([]byte, error) {
	return t.ask(ctx, "reading", typeRead, path, nil)
}

// Write makes a node, with all above it, or replaces its value.
func (t Tx) Write(ctx context.Context, path string, value []byte) error {
	_, err := t.ask(ctx, "writing", typeWrite, path, value)
	return err
}

// Remove removes a node and all below it; ErrAbsent when it is not there.
func (t Tx) Remove(ctx context.Context, path string) error {
	_, err := t.ask(ctx, "removing", typeRemove, path, nil)
	return err
}

// List returns the names of the nodes right below one.
func (t Tx) List(ctx context.Context, path string) ([]string, error) {
	b, err := t.ask(ctx, "listing", typeDirectory, path, nil)
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(b), func(c rune) bool { return c == 0 }), nil
}

// Watch asks for an Event each time something changes at a node or below it.
func (c *Conn) Watch(ctx context.Context, path, token string) error {
	_, err := c.Now().ask(ctx, "watching", typeWatch, path, append([]byte(token), 0))
	return err
}

// maxTries bounds how often a transaction is begun anew because others were faster.
const maxTries = 32

// Transact carries out do as one change that others see whole or not at all. It may be called several times.
func (c *Conn) Transact(ctx context.Context, do func(t Tx) error) error {
	var err error
	for range maxTries {
		var b []byte
		if b, err = c.ask(ctx, typeTransactionStart, 0, []byte{0}); err != nil {
			return fmt.Errorf("xenstore: beginning a transaction: %w", err)
		}
		id, parseErr := strconv.ParseUint(strings.TrimRight(string(b), "\x00"), 10, 32)
		if parseErr != nil || id == 0 {
			return fmt.Errorf("%w: a transaction called %.32q", ErrProtocol, b)
		}
		end := []byte("T\x00")
		failed := do(Tx{c, uint32(id)})
		if failed != nil {
			end = []byte("F\x00")
		}
		_, err = c.ask(ctx, typeTransactionEnd, uint32(id), end)
		if failed != nil && !errors.Is(failed, errAgain) {
			return failed
		}
		if err == nil {
			err = failed
		}
		if !errors.Is(err, errAgain) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("xenstore: ending a transaction: %w", err)
	}
	return nil
}
