package admin

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Where the words of tpacket_auxdata stand, and its size, in bytes (linux/if_packet.h).
const (
	auxStatus = 0
	auxTCI    = 16
	auxTPID   = 18
	auxBytes  = 20
)

// tap reads packets from a packet socket, with the VLAN tags that the kernel took off.
type tap struct {
	raw   syscall.RawConn
	frame []byte
	oob   []byte
}

// Where a VLAN tag stands in a frame, and how long it is (IEEE 802.1Q).
const (
	tagAt    = 12
	tagBytes = 4
)

// next returns the next packet, which is good until the next call, and how long it was.
func (t *tap) next() (frame []byte, length int, err error) {
	var n, oobn int
	var rerr error
	if err := t.raw.Read(func(fd uintptr) bool {
		// Room is left for a tag in front.
		n, oobn, _, _, rerr = unix.Recvmsg(int(fd), t.frame[tagBytes:], t.oob, unix.MSG_TRUNC)
		return !errors.Is(rerr, unix.EAGAIN)
	}); err != nil {
		return nil, 0, err
	}
	if rerr != nil {
		return nil, 0, rerr
	}
	length = n
	frame = t.frame[tagBytes : tagBytes+min(n, len(t.frame)-tagBytes)]
	protocol, tag, ok := t.tag(oobn)
	if !ok || len(frame) < tagAt {
		return frame, length, nil
	}
	copy(t.frame, frame[:tagAt])
	binary.BigEndian.PutUint16(t.frame[tagAt:], protocol)
	binary.BigEndian.PutUint16(t.frame[tagAt+2:], tag)
	return t.frame[:tagBytes+len(frame)], length + tagBytes, nil
}

// tag is the VLAN tag that the auxiliary data tells of.
func (t *tap) tag(oobn int) (protocol, tag uint16, ok bool) {
	list, err := unix.ParseSocketControlMessage(t.oob[:oobn])
	if err != nil {
		return 0, 0, false
	}
	for _, c := range list {
		if c.Header.Level != unix.SOL_PACKET || c.Header.Type != unix.PACKET_AUXDATA ||
			len(c.Data) < auxBytes {
			continue
		}
		status := binary.NativeEndian.Uint32(c.Data[auxStatus:])
		if status&unix.TP_STATUS_VLAN_VALID == 0 {
			continue
		}
		protocol = unix.ETH_P_8021Q
		if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			protocol = binary.NativeEndian.Uint16(c.Data[auxTPID:])
		}
		return protocol, binary.NativeEndian.Uint16(c.Data[auxTCI:]), true
	}
	return 0, 0, false
}

// lost says how many packets the kernel had no room for; empty: none.
func (t *tap) lost() string {
	var dropped uint32
	_ = t.raw.Control(func(fd uintptr) {
		if s, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			dropped = s.Drops
		}
	})
	if dropped == 0 {
		return ""
	}
	return fmt.Sprintf(", %d more were lost: they came faster than they could be sent on", dropped)
}
