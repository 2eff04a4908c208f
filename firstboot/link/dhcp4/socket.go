package dhcp4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	macLen       = 6        // bytes of an Ethernet address
	receiveQueue = 64 << 10 // bytes; a flood of answers must not take the guest's memory
)

// socket hears all DHCP answers on one link, also before the link has an address, and sends broadcasts. It needs
// CAP_NET_RAW. Packets are seen before the packet filter.
type socket struct {
	file  *os.File
	raw   syscall.RawConn
	index int
	sink  *os.File // see openSink; nil if it could not be had
}

func openSocket(index int, name string) (*socket, error) {
	file, err := packetSocket(index, unix.ETH_P_IP, answersOnly)
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	return &socket{file: file, raw: raw, index: index, sink: openSink(name)}, nil
}

func (s *socket) close() {
	_ = s.file.Close()
	if s.sink != nil {
		_ = s.sink.Close()
	}
}

// packetSocket opens a packet socket without link headers for one protocol and one link. The filter is in place
// before the socket is bound, so nothing unfiltered is ever queued.
func packetSocket(index int, protocol uint16, filter []bpf.Instruction) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening packet socket: %w", err)
	}
	fail := func(what string, err error) (*os.File, error) {
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
	return os.NewFile(uintptr(fd), "packet socket"), nil
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
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
	for {
		n, flags, from, err := recvmsg(s.raw, buf)
		switch {
		// The link went down; the socket lives on and hears again when it is up.
		case errors.Is(err, unix.ENETDOWN):
			continue
		case err != nil:
			return nil, false, err
		}
		if ours(from, flags) {
			return buf[:n], flags.status&unix.TP_STATUS_CSUMNOTREADY == 0, nil
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

func recvmsg(raw syscall.RawConn, buf []byte) (n int, aux auxdata, from unix.Sockaddr, err error) {
	oob := make([]byte, unix.CmsgSpace(int(unsafe.Sizeof(unix.TpacketAuxdata{}))))
	var oobn int
	if cerr := raw.Read(func(fd uintptr) bool {
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

// broadcast sends an IPv4 packet to everybody on the link.
func (s *socket) broadcast(packet []byte) error {
	return sendTo(s.file, packet, s.index, unix.ETH_P_IP)
}

func sendTo(file *os.File, packet []byte, index int, protocol uint16) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	to := &unix.SockaddrLinklayer{
		Protocol: networkOrder(protocol), Ifindex: index, Halen: macLen,
		Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	}
	var serr error
	if err := raw.Write(func(fd uintptr) bool {
		serr = unix.Sendto(int(fd), packet, 0, to)
		return !errors.Is(serr, unix.EAGAIN)
	}); err != nil {
		return err
	}
	return serr
}

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
