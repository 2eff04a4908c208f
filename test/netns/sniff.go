package netns

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// room is the receive buffer of a sniffer in bytes: some seconds of a busy test while both cores do other things. The
// kernel gives an ordinary user less; lost packets never go unnoticed.
const room = 8 << 20

// Sniff hands every packet of an interface to see, in order and before any filter of the node, until the test ends;
// with a nil interface those of all. kind is unix.SOCK_RAW for whole frames or unix.SOCK_DGRAM for what is in them. The
// bytes are see's until it returns. A packet the kernel had no room for fails the test.
func (n *Node) Sniff(tb testing.TB, dev netlink.Link, kind int, see func([]byte, *unix.SockaddrLinklayer)) {
	tb.Helper()
	file := n.packetSocket(tb, dev, kind, unix.ETH_P_ALL)
	raw, err := file.SyscallConn()
	Must(tb, err)
	done := make(chan struct{})
	tb.Cleanup(func() {
		err := raw.Control(func(fd uintptr) {
			counts, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
			if err != nil || counts.Drops > 0 {
				tb.Errorf("the sniffer of %s missed packets: %+v, %v; want none lost", n.Name, counts, err)
			}
		})
		if err != nil {
			tb.Errorf("the sniffer of %s: %v", n.Name, err)
		}
		_ = file.Close()
		<-done
	})
	go func() {
		defer close(done)
		buffer := make([]byte, 1<<16)
		_ = raw.Read(func(fd uintptr) bool { // ends with an error only when the socket is closed
			for {
				size, from, err := unix.Recvfrom(int(fd), buffer, 0)
				if errors.Is(err, unix.EAGAIN) {
					return false
				}
				if err != nil {
					tb.Errorf("the sniffer of %s ended early: %v", n.Name, err)
					return true
				}
				if ll, ok := from.(*unix.SockaddrLinklayer); ok {
					see(buffer[:size], ll)
				}
			}
		})
	}()
}

// Sender is where whole frames can be written to an interface. It is gone at the end of the test.
func (n *Node) Sender(tb testing.TB, dev netlink.Link) *os.File {
	tb.Helper()
	file := n.packetSocket(tb, dev, unix.SOCK_RAW, 0) // of no protocol: it receives nothing
	tb.Cleanup(func() { _ = file.Close() })
	return file
}

// packetSocket is a non-blocking packet(7) socket, so that Close ends a Read.
func (n *Node) packetSocket(tb testing.TB, dev netlink.Link, kind int, protocol uint16) *os.File {
	tb.Helper()
	at := &unix.SockaddrLinklayer{Protocol: binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, protocol))}
	if dev != nil {
		at.Ifindex = dev.Attrs().Index
	}
	var fd int
	n.In(tb, func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room) != nil { // root's alone
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, room)
		}
		return errors.Join(err, unix.Bind(fd, at))
	})
	return os.NewFile(uintptr(fd), "packets of "+n.Name)
}
