package clock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"rempart/firstboot/onlink"
)

// server answers questions on links.
type server struct {
	reference func() Reference
	port      int
	answered  atomic.Uint64
	ignored   atomic.Uint64
}

// link answers on one link until ctx is done, by IPv4 and IPv6, from the very address that was asked.
func (s *server) link(ctx context.Context, l onlink.Link) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var both sync.WaitGroup
	defer both.Wait()
	for _, network := range []string{"udp4", "udp6"} {
		conn, err := s.listen(ctx, network, l)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			continue // IPv6 is switched off
		}
		if err != nil {
			cancel(err)
			return err
		}
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		both.Go(func() {
			defer conn.Close()
			cancel(s.serve(conn, network, l.Index))
		})
	}
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// listen opens a socket that hears one link only.
func (s *server) listen(ctx context.Context, network string, l onlink.Link) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE,
				l.Name)
		})
		return errors.Join(err, failed)
	}}
	conn, err := config.ListenPacket(ctx, network, fmt.Sprintf(":%d", s.port))
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// serve answers what comes until the socket is closed. One question at a time: an answer takes microseconds and no
// memory, and who floods the guest waits behind himself in the kernel's bounded buffer.
func (s *server) serve(conn *net.UDPConn, network string, index int) error {
	read, write, err := packets(conn, network, index)
	if err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		n, from, own, err := read(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading questions for the time: %w", err)
		}
		received := time.Now()
		reply, ok := answer(buf[:n], s.reference(), received, time.Now())
		if !ok {
			s.ignored.Add(1)
			continue
		}
		if err := write(reply[:], from, own); err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.ignored.Add(1) // who cannot be reached asks again
			continue
		}
		s.answered.Add(1)
	}
}

// packets are how to read a question with the address it came to, and how to answer from that address.
func packets(conn *net.UDPConn, network string, index int) (
	read func([]byte) (int, net.Addr, net.IP, error), write func([]byte, net.Addr, net.IP) error, err error) {
	if network == "udp4" {
		p := ipv4.NewPacketConn(conn)
		if err := p.SetControlMessage(ipv4.FlagDst, true); err != nil {
			return nil, nil, err
		}
		return func(b []byte) (int, net.Addr, net.IP, error) {
				n, c, from, err := p.ReadFrom(b)
				if c == nil {
					c = &ipv4.ControlMessage{}
				}
				return n, from, c.Dst, err
			}, func(b []byte, to net.Addr, own net.IP) error {
				if own.IsMulticast() || own.Equal(net.IPv4bcast) {
					own = nil
				}
				_, err := p.WriteTo(b, &ipv4.ControlMessage{Src: own, IfIndex: index}, to)
				return err
			}, nil
	}
	p := ipv6.NewPacketConn(conn)
	if err := p.SetControlMessage(ipv6.FlagDst, true); err != nil {
		return nil, nil, err
	}
	return func(b []byte) (int, net.Addr, net.IP, error) {
			n, c, from, err := p.ReadFrom(b)
			if c == nil {
				c = &ipv6.ControlMessage{}
			}
			return n, from, c.Dst, err
		}, func(b []byte, to net.Addr, own net.IP) error {
			if own.IsMulticast() {
				own = nil
			}
			_, err := p.WriteTo(b, &ipv6.ControlMessage{Src: own, IfIndex: index}, to)
			return err
		}, nil
}
