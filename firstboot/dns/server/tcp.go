package server

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/dns/wire"
)

// Bounds of one connection (RFC 7766 6.2); places has those of all.
const (
	// idle is how long one may say nothing; slow how long a message may take in either direction.
	idle = 10 * time.Second
	slow = 5 * time.Second
	// pipelined is how many of its queries are under way at a time.
	pipelined = 16
	// acceptPause is how long it is waited where there is no room for another connection in the process.
	acceptPause = 100 * time.Millisecond
)

// ServeTCP answers on the connections of a listener until ctx is done or the listener fails; it closes it and waits for
// its connections. secure, when there is any, has them by TLS (RFC 7858).
func (s *Server) ServeTCP(ctx context.Context, listener net.Listener, access *Access, secure *tls.Config) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				continue
			}
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) ||
				errors.Is(err, unix.ENOMEM) {
				select { // others have all there is; that is no reason to end what is served by UDP, too
				case <-ctx.Done():
					return nil
				case <-time.After(acceptPause):
				}
				continue
			}
			return err
		}
		peer, ok := conn.RemoteAddr().(*net.TCPAddr)
		if !ok {
			conn.Close()
			continue
		}
		from := peer.AddrPort().Addr().Unmap().WithZone("")
		if may, _ := access.may(from); !may {
			conn.Close()
			continue
		}
		s.Counts.connections.Add(1)
		own, end := context.WithCancel(ctx)
		place := s.places.enter(conn, owner{access, from}, end)
		all.Go(func() {
			defer end()
			defer s.places.leave(place)
			defer conn.Close()
			if secure == nil {
				s.connection(own, conn, place, access, false)
				return
			}
			if c := s.handshake(own, conn, secure); c != nil {
				s.connection(own, c, place, access, true)
			}
		})
	}
}

// handshake begins TLS; nil: the client does not get it done in time, and whatever it was is its own affair.
func (s *Server) handshake(ctx context.Context, conn net.Conn, config *tls.Config) net.Conn {
	ctx, stop := context.WithTimeout(ctx, slow)
	defer stop()
	c := tls.Server(conn, config)
	if err := c.HandshakeContext(ctx); err != nil {
		s.Counts.handshakes.Add(1)
		return nil
	}
	s.Counts.secure.Add(1)
	return c
}

// connection answers the queries of one connection, several at a time and in the order their answers come.
func (s *Server) connection(ctx context.Context, conn net.Conn, place *place, access *Access, secure bool) {
	from := place.client
	ctx, stop := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	room := make(chan struct{}, pipelined)
	var write sync.Mutex
	var under sync.WaitGroup
	defer stop()
	defer under.Wait()
	var length [2]byte
	for {
		if err := conn.SetReadDeadline(time.Now().Add(idle)); err != nil {
			return
		}
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(length[:]))
		if n < wire.HeaderSize || n > maxQuery {
			return // no query is that long, and none that short
		}
		in := make([]byte, n)
		if err := conn.SetReadDeadline(time.Now().Add(slow)); err != nil {
			return
		}
		if _, err := io.ReadFull(conn, in); err != nil {
			return
		}
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		s.places.use(place, 1)
		under.Go(func() {
			defer func() {
				s.places.use(place, -1)
				<-room
			}()
			limited, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			if done, err := s.transfer(ctx, from, access, in, conn, &write); done {
				if err != nil {
					stop()
				}
				return
			}
			out, v := s.stream(limited, from, access, secure, in)
			if v != answered {
				stop() // nothing will come: the client need not wait
				return
			}
			write.Lock()
			defer write.Unlock()
			_ = conn.SetWriteDeadline(time.Now().Add(slow))
			if _, err := conn.Write(out); err != nil {
				stop()
			}
		})
	}
}

// stream answers one query of a connection, with its length before it.
func (s *Server) stream(ctx context.Context, from netip.Addr, access *Access, secure bool, in []byte) (
	[]byte, verdict) {
	r := &request{from: from, access: access, tcp: true, secure: secure}
	out, v := s.short(r, in, make([]byte, 2, 2+512))
	if v == longer {
		out, v = s.local(ctx, r, in, out[:2])
	}
	if v == longer {
		out, v = s.long(ctx, r, in, out[:2])
	}
	binary.BigEndian.PutUint16(out, uint16(len(out)-2))
	return out, v
}
