package upstream

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/wire"
)

// Bounds of connections to a server.
const (
	dialWait = 2 * time.Second
	// idle is how long a connection nobody uses stays (RFC 7766 6.2.3: a few seconds; TLS costs more to begin).
	idle = 15 * time.Second
	// pipelined is how many questions are under way on one.
	pipelined = 128
)

// streams asks over connections, of which one is kept and used by many questions at once (RFC 7766 6.2.1.1).
type streams struct {
	dial    func(ctx context.Context) (net.Conn, error)
	dialing chan struct{} // one at a time: the others wait for that connection
	mu      sync.Mutex
	now     *stream
}

// stream is one connection.
type stream struct {
	conn    net.Conn
	write   sync.Mutex
	mu      sync.Mutex
	waiting map[uint16]chan *dns.Msg
	closed  error
}

var (
	errFull       = errors.New("too many questions on one connection")
	errClosed     = errors.New("the connection was closed")
	errUnreadable = errors.New("an answer cannot be read")
)

// dial connects, and shakes hands where TLS is spoken.
func (s *Server) dial(ctx context.Context) (net.Conn, error) {
	select {
	case s.sockets <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("no socket is free: %w", ctx.Err())
	}
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.addr.String())
	if err != nil {
		<-s.sockets
		return nil, err
	}
	counted := &countedConn{Conn: conn, sockets: s.sockets}
	if s.tls == nil {
		return counted, nil
	}
	secure := tls.Client(counted, s.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		counted.Close()
		return nil, err
	}
	return secure, nil
}

// countedConn gives its room back when it is closed.
type countedConn struct {
	net.Conn
	once    sync.Once
	sockets chan struct{}
}

func (c *countedConn) Close() error {
	c.once.Do(func() { <-c.sockets })
	return c.Conn.Close()
}

// exchange asks on the connection there is, and on a new one when that fails: the server may have closed it.
func (p *streams) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	for first := true; ; first = false {
		st, fresh, err := p.get(ctx)
		if err != nil {
			return nil, err
		}
		answer, err := st.exchange(ctx, q)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			p.forget(st) // nothing came for all that time
		}
		if err == nil || fresh || !first || ctx.Err() != nil || errors.Is(err, errUnreadable) {
			return answer, err
		}
		p.forget(st)
	}
}

// get returns a connection with room, a fresh one where there is none.
func (p *streams) get(ctx context.Context) (st *stream, fresh bool, err error) {
	if st = p.current(); st != nil {
		return st, false, nil
	}
	select {
	case p.dialing <- struct{}{}:
		defer func() { <-p.dialing }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	if st = p.current(); st != nil { // somebody else's, made meanwhile
		return st, false, nil
	}
	conn, err := p.dial(ctx)
	if err != nil {
		return nil, false, err
	}
	st = &stream{conn: conn, waiting: map[uint16]chan *dns.Msg{}}
	go st.read()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = st // the one before goes when it is idle
	return st, true, nil
}

// current is the connection there is if it has room, or nil.
func (p *streams) current() *stream {
	p.mu.Lock()
	st := p.now
	p.mu.Unlock()
	if st != nil && st.usable() {
		return st
	}
	return nil
}

func (p *streams) forget(st *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == st {
		p.now = nil
	}
}

func (st *stream) usable() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.closed == nil && len(st.waiting) < pipelined
}

func (st *stream) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	got := make(chan *dns.Msg, 1)
	st.mu.Lock()
	switch {
	case st.closed != nil:
		st.mu.Unlock()
		return nil, st.closed
	case len(st.waiting) >= pipelined:
		st.mu.Unlock()
		return nil, errFull
	}
	for st.waiting[q.Id] != nil {
		q.Id++ // on one connection ids tell questions apart, and keep nobody out
	}
	id := q.Id
	st.waiting[id] = got
	st.mu.Unlock()
	defer func() {
		st.mu.Lock()
		delete(st.waiting, id)
		st.mu.Unlock()
	}()
	packed, err := q.Pack()
	if err != nil {
		return nil, err
	}
	// In one write: a length in a packet of its own confuses some servers (RFC 7766 8).
	out := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(packed)), uint16(len(packed))), packed...)
	st.write.Lock()
	_ = st.conn.SetDeadline(time.Now().Add(idle))
	_, err = st.conn.Write(out)
	st.write.Unlock()
	if err != nil {
		st.close(err)
		return nil, err
	}
	select {
	case answer := <-got:
		if answer == nil {
			st.mu.Lock()
			defer st.mu.Unlock()
			if st.closed == nil {
				return nil, errUnreadable
			}
			return nil, st.closed
		}
		return answer, sameLetters(q, answer)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// read hands answers to who waits for them until the connection ends.
func (st *stream) read() {
	var length [2]byte
	for {
		if _, err := io.ReadFull(st.conn, length[:]); err != nil {
			st.close(errClosed)
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(st.conn, b); err != nil {
			st.close(errClosed)
			return
		}
		m := new(dns.Msg)
		err := m.Unpack(b)
		if err != nil && len(b) < wire.HeaderSize {
			st.close(fmt.Errorf("reading an answer: %w", err))
			return
		}
		st.mu.Lock()
		got := st.waiting[m.Id]
		delete(st.waiting, m.Id)
		st.mu.Unlock()
		switch {
		case got == nil:
		case err != nil: // what somebody's zone holds is no reason to lose the other questions
			close(got)
		default:
			got <- m
		}
	}
}

// close ends the connection and tells who waits.
func (st *stream) close(why error) {
	st.conn.Close()
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed == nil {
		st.closed = why
	}
	for id, got := range st.waiting {
		close(got)
		delete(st.waiting, id)
	}
}
