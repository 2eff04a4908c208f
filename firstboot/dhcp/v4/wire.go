package v4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"rempart/firstboot/link/packet"
	"rempart/firstboot/onlink"
)

// receiveQueue is what waits in the kernel while leases are written, in bytes: some hundred messages.
const receiveQueue = 512 << 10

// maxMessage bounds what is read; longer ones are cut and then are no DHCP messages.
const maxMessage = 4096

// wire is the server's place on one link. The UDP socket is bound to the link, so that nothing from elsewhere ever
// comes in by it, and its packets pass the packet filter; the packet socket only sends, to clients that cannot be found
// by ARP.
type wire struct {
	link onlink.Link
	udp  *net.UDPConn
	raw  *packet.Socket
	log  *slog.Logger
}

// Serve answers what comes by one link until ctx is done. It needs CAP_NET_BIND_SERVICE and CAP_NET_RAW.
func (s *Server) Serve(ctx context.Context, l onlink.Link, log *slog.Logger) error {
	w := &wire{link: l, log: log}
	var err error
	if w.udp, err = listen(ctx, l.Name); err != nil {
		return err
	}
	defer w.udp.Close()
	nothing := []bpf.Instruction{bpf.RetConstant{Val: 0}}
	if w.raw, err = packet.Open(l.Index, unix.ETH_P_IP, nothing); err != nil {
		return err
	}
	defer w.raw.Close()
	stop := context.AfterFunc(ctx, func() { _ = w.udp.Close() })
	defer stop()
	buf := make([]byte, maxMessage)
	for {
		n, from, err := w.udp.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EHOSTUNREACH):
			continue // about what was sent before
		case err != nil:
			return fmt.Errorf("receiving DHCP messages on %s: %w", l.Name, err)
		}
		m, err := parse(buf[:n])
		if err != nil {
			continue // not DHCP; a flood of it must not fill the log
		}
		s.Handle(Packet{Link: l.Name, From: from, Message: m}, w.send)
	}
}

// listen opens the server's port on one link. Several links have one each.
func listen(ctx context.Context, link string) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			err = errors.Join(
				os.NewSyscallError("binding to the link", unix.BindToDevice(int(fd), link)),
				os.NewSyscallError("SO_REUSEADDR", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)),
				os.NewSyscallError("SO_RCVBUF", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveQueue)))
		})
		return errors.Join(cerr, err)
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", fmt.Sprintf("0.0.0.0:%d", portServer))
	if err != nil {
		return nil, fmt.Errorf("the DHCP server's port on %s: %w", link, err)
	}
	return conn.(*net.UDPConn), nil
}

// send sends an answer. One that cannot be sent is asked for again.
func (w *wire) send(r Reply) {
	var err error
	if r.Hardware != nil {
		err = w.raw.Send(frame(r), r.Hardware)
	} else {
		_, err = w.udp.WriteToUDPAddrPort(r.Message, r.To)
	}
	if err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, net.ErrClosed) {
		w.log.Debug("DHCP answer not sent", "link", w.link.Name, "to", r.To, "error", err)
	}
}

// Numbers of IPv4 (RFC 791) and UDP (RFC 768).
const (
	ipHeader    = 20
	udpHeader   = 8
	protocolUDP = 17
	ttl         = 64
	dontCut     = 0x4000
)

// frame puts an answer into UDP and IPv4.
func frame(r Reply) []byte {
	b := make([]byte, ipHeader+udpHeader+len(r.Message))
	ip, udp := b[:ipHeader], b[ipHeader:]
	ip[0] = 4<<4 | ipHeader/4
	binary.BigEndian.PutUint16(ip[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(ip[6:], dontCut)
	ip[8], ip[9] = ttl, protocolUDP
	copy(ip[12:], r.Server.AsSlice())
	copy(ip[16:], r.To.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^packet.Sum(0, ip))
	binary.BigEndian.PutUint16(udp[0:], portServer)
	binary.BigEndian.PutUint16(udp[2:], r.To.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	copy(udp[udpHeader:], r.Message)
	c := ^packet.Sum(uint32(packet.Sum(0, ip[12:20]))+protocolUDP+uint32(len(udp)), udp)
	if c == 0 {
		c = 0xffff // zero means none
	}
	binary.BigEndian.PutUint16(udp[6:], c)
	return b
}

// source is our address on a link for the network's sake; invalid: none.
func source(link string) netip.Addr {
	i, err := net.InterfaceByName(link)
	if err != nil {
		return netip.Addr{}
	}
	addrs, err := i.Addrs()
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range addrs {
		if p, ok := a.(*net.IPNet); ok && p.IP.To4() != nil {
			return netip.AddrFrom4([4]byte(p.IP.To4()))
		}
	}
	return netip.Addr{}
}
