// Package packet sends and receives packets of one network protocol on one link, whatever addresses the link has. They
// pass beside the packet filter and the kernel's own network layer, so its users check all that these would have.
//
// What it deliberately does not do: link headers, VLANs inside the link, and anything above the network layer but its
// checksum.
package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	hardwareLen  = 6        // bytes of an Ethernet address
	receiveQueue = 64 << 10 // bytes; a flood of packets must not take the guest's memory
)

// Socket is a packet socket. It needs CAP_NET_RAW.
type Socket struct {
	file     *os.File
	raw      syscall.RawConn
	index    int
	protocol uint16
}

// Open opens a socket for one protocol (unix.ETH_P_*) on the link with an ifindex. The filter sees packets from their
// network header on. It is in place before the socket is bound, so nothing unfiltered is ever queued.
func Open(index int, protocol uint16, filter []bpf.Instruction) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening packet socket: %w", err)
	}
	fail := func(what string, err error) (*Socket, error) {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("packet socket: %s: %w", what, err)
	}
	code, err := bpf.Assemble(filter)
	if err != nil {
		return fail("assembling filter", err)
	}
	prog := make([]unix.SockFilter, len(code))
	for i, c := range code {
		prog[i] = unix.SockFilter{Code: c.Op, Jt: c.Jt, Jf: c.Jf, K: c.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}); err != nil {
		return fail("attaching filter", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		return fail("asking for auxiliary data", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveQueue); err != nil {
		return fail("setting receive buffer", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: index}); err != nil {
		return fail("binding to link", err)
	}
	s := &Socket{file: os.NewFile(uintptr(fd), "packet socket"), index: index, protocol: protocol}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		_ = s.file.Close()
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	return s, nil
}

// Close closes the socket and ends Receive with an error that is os.ErrClosed.
func (s *Socket) Close() { _ = s.file.Close() }

// SetReadDeadline sets when Receive ends with an error that is os.ErrDeadlineExceeded.
func (s *Socket) SetReadDeadline(t time.Time) error { return s.file.SetReadDeadline(t) }

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// Receive waits for a packet that came for us. summed says whether the checksum of its transport protocol can be
// checked: the kernel has not yet computed it for a packet from a guest of the same host, which cannot have been
// damaged either.
func (s *Socket) Receive(buf []byte) (packet []byte, summed bool, err error) {
	for {
		n, aux, from, err := s.recvmsg(buf)
		switch {
		// The link went down; the socket lives on and hears again when it is up.
		case errors.Is(err, unix.ENETDOWN):
			continue
		case err != nil:
			return nil, false, err
		}
		if ours(from, aux) {
			return buf[:n], aux.status&unix.TP_STATUS_CSUMNOTREADY == 0, nil
		}
	}
}

// auxdata is what tpacket_auxdata of linux/if_packet.h says about a packet.
type auxdata struct {
	status uint32
	vlan   uint16 // tag
}

const vlanMask = 0xfff // of the tag; 0: a priority tag, which belongs to no VLAN (IEEE 802.1Q)

// ours is false for what this host sent, what is for others (promiscuous mode), and what is in a VLAN.
func ours(from unix.Sockaddr, aux auxdata) bool {
	ll, ok := from.(*unix.SockaddrLinklayer)
	if !ok || ll.Pkttype == unix.PACKET_OUTGOING || ll.Pkttype == unix.PACKET_OTHERHOST {
		return false
	}
	return aux.status&unix.TP_STATUS_VLAN_VALID == 0 || aux.vlan&vlanMask == 0
}

func (s *Socket) recvmsg(buf []byte) (n int, aux auxdata, from unix.Sockaddr, err error) {
	oob := make([]byte, unix.CmsgSpace(int(unsafe.Sizeof(unix.TpacketAuxdata{}))))
	var oobn int
	if cerr := s.raw.Read(func(fd uintptr) bool {
		n, oobn, _, from, err = unix.Recvmsg(int(fd), buf, oob, 0)
		return !errors.Is(err, unix.EAGAIN)
	}); cerr != nil {
		return 0, aux, nil, cerr
	}
	if err != nil {
		return 0, aux, nil, err
	}
	list, perr := unix.ParseSocketControlMessage(oob[:oobn])
	if perr != nil {
		return 0, aux, nil, fmt.Errorf("auxiliary data: %w", perr)
	}
	for _, c := range list {
		if c.Header.Level == unix.SOL_PACKET && c.Header.Type == unix.PACKET_AUXDATA &&
			len(c.Data) >= int(unsafe.Sizeof(unix.TpacketAuxdata{})) {
			aux.status = binary.NativeEndian.Uint32(c.Data[unsafe.Offsetof(unix.TpacketAuxdata{}.Status):])
			aux.vlan = binary.NativeEndian.Uint16(c.Data[unsafe.Offsetof(unix.TpacketAuxdata{}.Vlan_tci):])
		}
	}
	return n, aux, from, nil
}

// Broadcast is the hardware address of everybody on an Ethernet.
func Broadcast() net.HardwareAddr { return net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// Send sends a packet, from its network header on, to a hardware address on the link.
func (s *Socket) Send(packet []byte, to net.HardwareAddr) error {
	ll := &unix.SockaddrLinklayer{Protocol: networkOrder(s.protocol), Ifindex: s.index, Halen: hardwareLen}
	if copy(ll.Addr[:], to) != hardwareLen {
		return fmt.Errorf("packet socket: %q is no Ethernet address", to)
	}
	var serr error
	if err := s.raw.Write(func(fd uintptr) bool {
		serr = unix.Sendto(int(fd), packet, 0, ll)
		return !errors.Is(serr, unix.EAGAIN)
	}); err != nil {
		return err
	}
	return serr
}

// ipv6Header is the length of an IPv6 header, RFC 8200, section 3.
const ipv6Header = 40

// Pseudo6 is what Sum begins with for the payload of an IPv6 packet without extension headers: the sum over the pseudo
// header of RFC 8200, section 8.1. The packet must have its header.
func Pseudo6(b []byte) uint32 {
	return uint32(Sum(0, b[8:ipv6Header])) + uint32(len(b)-ipv6Header) + uint32(b[6])
}

// Sum is the one's complement sum of RFC 1071 over b, begun with start and folded to 16 bits.
func Sum(start uint32, b []byte) uint16 {
	s := start
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
