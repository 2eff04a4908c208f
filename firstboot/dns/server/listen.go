package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"rempart/profiles"
)

// Sockets are those of one link.
type Sockets struct {
	udp    []*net.UDPConn
	tcp    []net.Listener
	secure []net.Listener // for TLS
}

// receiveBuffer is what waits in the kernel while we are busy, in bytes: some hundred queries; rmem_max bounds it.
const receiveBuffer = 1 << 20

var (
	portText       = strconv.Itoa(profiles.PortDNS)
	securePortText = strconv.Itoa(profiles.PortDNSTLS)
)

// Listen opens the sockets of a link, which hear what comes by it alone: they are bound to the device (socket(7),
// SO_BINDTODEVICE), not to addresses, which come and go. Where the kernel has no IPv6, there is none. With secure there
// are those of DNS over TLS too.
func Listen(ctx context.Context, device string, secure bool) (s Sockets, err error) {
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	for _, family := range []struct {
		name, any    string
		level, wants int
	}{
		{"4", "0.0.0.0", unix.IPPROTO_IP, unix.IP_PKTINFO},
		{"6", "::", unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO},
	} {
		config := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) error {
			var failed error
			err := raw.Control(func(fd uintptr) {
				failed = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device)
				if failed == nil && network[:3] == "udp" {
					failed = errors.Join(unix.SetsockoptInt(int(fd), family.level, family.wants, 1),
						unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer))
				}
			})
			return errors.Join(err, failed)
		}}
		packets, err := config.ListenPacket(ctx, "udp"+family.name, net.JoinHostPort(family.any, portText))
		if errors.Is(err, unix.EAFNOSUPPORT) && family.name == "6" {
			continue
		}
		if err != nil {
			return s, fmt.Errorf("listening for DNS on link %s: %w", device, err)
		}
		udp, ok := packets.(*net.UDPConn)
		if !ok {
			return s, fmt.Errorf("listening for DNS on link %s: %T is no UDP socket", device, packets)
		}
		s.udp = append(s.udp, udp)
		tcp, err := config.Listen(ctx, "tcp"+family.name, net.JoinHostPort(family.any, portText))
		if err != nil {
			return s, fmt.Errorf("listening for DNS by TCP on link %s: %w", device, err)
		}
		s.tcp = append(s.tcp, tcp)
		if !secure {
			continue
		}
		if tcp, err = config.Listen(ctx, "tcp"+family.name, net.JoinHostPort(family.any, securePortText)); err != nil {
			return s, fmt.Errorf("listening for DNS by TLS on link %s: %w", device, err)
		}
		s.secure = append(s.secure, tcp)
	}
	return s, nil
}

// Close closes them.
func (s Sockets) Close() {
	for _, c := range s.udp {
		c.Close()
	}
	for _, l := range slices.Concat(s.tcp, s.secure) {
		l.Close()
	}
}

// readers is how many goroutines read one socket: one reads while another answers.
const readers = 2

// Serve answers what comes by the sockets until ctx is done or one of them fails, and closes them. secure is how TLS is
// spoken; it may be nil when there are no sockets for it.
func (s *Server) Serve(ctx context.Context, sockets Sockets, access *Access, secure *tls.Config) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	errs := make(chan error, readers*len(sockets.udp)+len(sockets.tcp)+len(sockets.secure))
	count := 0
	run := func(serve func() error) {
		count++
		go func() { errs <- serve() }()
	}
	for _, c := range sockets.udp {
		for range readers {
			run(func() error { return s.ServeUDP(ctx, c, access) })
		}
	}
	for _, l := range sockets.tcp {
		run(func() error { return s.ServeTCP(ctx, l, access, nil) })
	}
	for _, l := range sockets.secure {
		run(func() error { return s.ServeTCP(ctx, l, access, secure) })
	}
	var first error
	for range count {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
		stop()
	}
	return first
}
