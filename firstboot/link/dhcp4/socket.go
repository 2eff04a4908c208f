package dhcp4

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"rempart/firstboot/link/packet"
)

const macLen = 6 // bytes of an Ethernet address

// socket hears all DHCP answers on one link, also before the link has an address, and sends broadcasts. Packets are
// seen before the packet filter.
type socket struct {
	packets *packet.Socket
	sink    *os.File // see openSink; nil if it could not be had
}

func openSocket(index int, name string) (*socket, error) {
	packets, err := packet.Open(index, unix.ETH_P_IP, answersOnly)
	if err != nil {
		return nil, err
	}
	return &socket{packets: packets, sink: openSink(name)}, nil
}

func (s *socket) close() {
	s.packets.Close()
	if s.sink != nil {
		_ = s.sink.Close()
	}
}

// answersOnly lets through unfragmented UDP to the client's port.
var answersOnly = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 9, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protocolUDP, SkipTrue: 5},
	bpf.LoadAbsolute{Off: 6, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: fragmentMask, SkipTrue: 3},
	bpf.LoadMemShift{Off: 0},
	bpf.LoadIndirect{Off: 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: portClient, SkipTrue: 1},
	bpf.RetConstant{Val: 0},
	bpf.RetConstant{Val: maxPacket},
}

// receive waits for a packet that came for us. summed says whether its UDP checksum can be checked.
func (s *socket) receive(buf []byte) (packet []byte, summed bool, err error) {
	return s.packets.Receive(buf)
}

// broadcast sends an IPv4 packet to everybody on the link.
func (s *socket) broadcast(b []byte) error { return s.packets.Send(b, packet.Broadcast()) }

// unicastSend sends an IPv4 packet by the link called name, along the kernel's routes and neighbours.
func unicastSend(name string, packet []byte, to netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("opening raw socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.BindToDevice(fd, name); err != nil {
		return fmt.Errorf("binding raw socket to %s: %w", name, err)
	}
	return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: to.As4()})
}

// openSink opens a UDP socket on the client's port that takes nothing: without it the kernel answers a server's
// unicast acknowledgement, which the packet socket has read already, with "port unreachable". It needs
// CAP_NET_BIND_SERVICE; without it there is just the needless ICMP.
func openSink(name string) *os.File {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			none := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.BindToDevice(int(fd), name),
				unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
					&unix.SockFprog{Len: 1, Filter: &none}))
		})
		return errors.Join(cerr, err)
	}}
	conn, err := lc.ListenPacket(context.Background(), "udp4", fmt.Sprintf("0.0.0.0:%d", portClient))
	if err != nil {
		return nil
	}
	defer func() { _ = conn.Close() }()
	file, err := conn.(*net.UDPConn).File()
	if err != nil {
		return nil
	}
	return file
}
