// Package ctl is how commands travel to a running guest and their answers back: over a unix socket inside the guest,
// between its SSH server and who carries commands out, and over a port of the hypervisor. Many commands share one
// stream; each has its own input, output, errors and exit status, and can be given up.
//
// Both ends bound what they take: the guest does not trust what it reads more than it must, and the host trusts nothing
// a guest says. What the package deliberately does not do: open sockets or devices, or know any command.
package ctl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Kinds of a frame. The first four go to the guest, the others come from it.
const (
	kindCall     = 'c' // begins a command: a Call as JSON
	kindInput    = 'i' // bytes of its input
	kindInputEnd = 'e' // there are no more
	kindCancel   = 'x' // nobody waits for it any more

	kindOutput = 'o'
	kindErrors = 'r'
	kindExit   = 'q' // the exit status, one byte: nothing more comes of this command
)

// Bounds of a stream.
const (
	// MaxPayload bounds one frame, in bytes: a virtio port carries 32 KiB at a time.
	MaxPayload = 32 << 10
	// MaxCalls bounds the commands on one stream at a time.
	MaxCalls = 16
	// maxArgs and maxArg bound a command line.
	maxArgs = 64
	maxArg  = 4096
)

// The header of a frame: magic, kind, a zero byte, the length of the payload (16 bit) and the number of the command (32
// bit), both big-endian. The magic shows a stream that lost a byte, which is given up then.
const (
	headerBytes = 10
	magic       = 0x524d // "RM"
)

// ErrFrame is wrapped by the error for bytes that are no frame.
var ErrFrame = errors.New("not a frame of the control channel")

type frame struct {
	kind    byte
	id      uint32
	payload []byte
}

// append adds the frame's bytes to b.
func (f frame) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, magic)
	b = append(b, f.kind, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(f.payload)))
	b = binary.BigEndian.AppendUint32(b, f.id)
	return append(b, f.payload...)
}

// readFrame reads one frame. io.EOF means that the stream ended between two.
func readFrame(r io.Reader) (frame, error) {
	var header [headerBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return frame{}, err
	}
	f := frame{kind: header[2], id: binary.BigEndian.Uint32(header[6:])}
	size := int(binary.BigEndian.Uint16(header[4:]))
	switch {
	case binary.BigEndian.Uint16(header[:]) != magic || header[3] != 0:
		return frame{}, fmt.Errorf("%w: it begins with % x", ErrFrame, header)
	case size > MaxPayload:
		return frame{}, fmt.Errorf("%w: %d bytes, at most %d", ErrFrame, size, MaxPayload)
	}
	f.payload = make([]byte, size)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	return f, nil
}

// Call is a command on its way.
type Call struct {
	Args []string `json:"args"` // the command's name first
	// Since is the CLOCK_BOOTTIME, in seconds, at which the connection it came by was made; 0: it came by none that a
	// policy could cut.
	Since float64 `json:"since,omitempty"`
}

func (c Call) check() error {
	if len(c.Args) == 0 || c.Args[0] == "" || len(c.Args) > maxArgs {
		return fmt.Errorf("a command of %d words: want 1 to %d", len(c.Args), maxArgs)
	}
	for _, a := range c.Args {
		if len(a) > maxArg {
			return fmt.Errorf("a word of %d bytes: at most %d", len(a), maxArg)
		}
	}
	return nil
}

// Exit statuses of a command, the same as rempart's own.
const (
	Done   = 0
	Failed = 1
	Usage  = 2
)
