// Package pcap writes captured packets in the file format of libpcap (draft-ietf-opsawg-pcap), and tells which packets
// somebody wants to see.
//
// What it deliberately does not do: capture. It reads packets from the network, so it believes none of them.
package pcap

import (
	"encoding/binary"
	"io"
	"time"
)

// Types of links in a file (https://www.tcpdump.org/linktypes.html).
const (
	Ethernet = 1
	Raw      = 101 // begins with the header of IPv4 or IPv6
)

// SnapLen is the most that is kept of a packet, in bytes: what a NIC with segmentation offload hands on is smaller.
const SnapLen = 262144

const magic = 0xa1b2c3d4 // times in microseconds, in the byte order of the file

// Writer writes a file.
type Writer struct {
	w   io.Writer
	buf []byte
}

// NewWriter begins a file.
func NewWriter(w io.Writer, linkType uint32) (*Writer, error) {
	b := binary.LittleEndian.AppendUint32(nil, magic)
	b = binary.LittleEndian.AppendUint16(b, 2) // version 2.4
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...) // two fields that are always zero
	b = binary.LittleEndian.AppendUint32(b, SnapLen)
	b = binary.LittleEndian.AppendUint32(b, linkType)
	_, err := w.Write(b)
	return &Writer{w: w}, err
}

// Write adds a packet that was length bytes long.
func (w *Writer) Write(at time.Time, packet []byte, length int) error {
	w.buf = binary.LittleEndian.AppendUint32(w.buf[:0], uint32(at.Unix()))
	w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(at.Nanosecond()/1000))
	w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(len(packet)))
	w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(length))
	w.buf = append(w.buf, packet...)
	_, err := w.w.Write(w.buf)
	return err
}
