package server

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
)

// datagram is what one packet needs, kept for the next one.
type datagram struct {
	request
	in   [maxQuery]byte
	n    int
	out  []byte
	oob  [oobSize]byte
	oobn int
	to   netip.AddrPort
}

// maxQuery is how long a query may be by UDP: with padding (RFC 8467 4.1) and cookie the longest has 300 bytes or so.
const maxQuery = 1232

// oobSize has room for one in6_pktinfo.
const oobSize = 64

var datagrams = sync.Pool{New: func() any { return &datagram{out: make([]byte, 0, 2*maxQuery)} }}

// ServeUDP answers what comes by a socket until ctx is done or the socket fails; it closes the socket. The socket
// delivers IP_PKTINFO or IPV6_PKTINFO, by which an answer leaves from the address that was asked: what the kernel said
// of a query is what it wants to hear of the answer (ip(7), ipv6(7)).
func (s *Server) ServeUDP(ctx context.Context, conn *net.UDPConn, access *Access) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	var waiting sync.WaitGroup
	defer waiting.Wait()
	for {
		d := datagrams.Get().(*datagram)
		n, oobn, _, from, err := conn.ReadMsgUDPAddrPort(d.in[:], d.oob[:])
		if err != nil {
			datagrams.Put(d)
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			if oe := (*net.OpError)(nil); errors.As(err, &oe) && oe.Temporary() {
				continue // an ICMP error about an answer that nobody wanted
			}
			return err
		}
		d.n, d.oobn, d.to = n, oobn, from
		d.from, d.access, d.tcp, d.secure = from.Addr().Unmap().WithZone(""), access, false, false
		d.waits, d.chasing, d.cookie = false, false, nil
		v := dropped
		if d.to.Port() != 0 {
			d.out, v = s.short(&d.request, d.in[:n], d.out[:0])
		}
		if v == longer {
			d.out, v = s.local(ctx, &d.request, d.in[:n], d.out[:0])
		}
		if v == longer {
			waiting.Go(func() {
				limited, cancel := context.WithTimeout(ctx, patience)
				defer cancel()
				var v verdict
				if d.out, v = s.long(limited, &d.request, d.in[:d.n], d.out[:0]); v == answered {
					d.send(conn)
				}
				datagrams.Put(d)
			})
			continue
		}
		if v == answered {
			d.send(conn)
		}
		datagrams.Put(d)
	}
}

// send sends the answer to who asked, from where it asked. Nobody is told of an answer that cannot be sent: the client
// comes again.
func (d *datagram) send(conn *net.UDPConn) {
	_, _, _ = conn.WriteMsgUDPAddrPort(d.out, d.oob[:d.oobn], d.to)
}
