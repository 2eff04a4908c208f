package virtualnet

import (
	"bufio"
	"encoding/binary"
	"io"
	"sync"
	"time"
)

// The classic capture format, https://www.tcpdump.org/manpages/pcap-savefile.5.html, with nanosecond time stamps.
const (
	pcapMagic    = 0xa1b23c4d
	pcapMajor    = 2
	pcapMinor    = 4
	pcapEthernet = 1
)

// Capture writes the frames of a segment to a file that tcpdump and Wireshark read.
type Capture struct {
	mu  sync.Mutex
	out *bufio.Writer
	err error
}

// NewCapture starts a capture.
func NewCapture(w io.Writer) *Capture {
	c := &Capture{out: bufio.NewWriter(w)}
	h := binary.LittleEndian.AppendUint32(nil, pcapMagic)
	h = binary.LittleEndian.AppendUint16(h, pcapMajor)
	h = binary.LittleEndian.AppendUint16(h, pcapMinor)
	h = append(h, make([]byte, 8)...) // time zone and accuracy: always 0
	h = binary.LittleEndian.AppendUint32(h, MaxFrame)
	h = binary.LittleEndian.AppendUint32(h, pcapEthernet)
	_, c.err = c.out.Write(h)
	return c
}

// Observe is an Observer.
func (c *Capture) Observe(at time.Time, frame []byte, _ bool) {
	h := binary.LittleEndian.AppendUint32(nil, uint32(at.Unix()))
	h = binary.LittleEndian.AppendUint32(h, uint32(at.Nanosecond()))
	h = binary.LittleEndian.AppendUint32(h, uint32(len(frame)))
	h = binary.LittleEndian.AppendUint32(h, uint32(len(frame)))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	if _, c.err = c.out.Write(h); c.err == nil {
		_, c.err = c.out.Write(frame)
	}
}

// Flush writes out what is buffered and returns the first error there was.
func (c *Capture) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = c.out.Flush()
	}
	return c.err
}
