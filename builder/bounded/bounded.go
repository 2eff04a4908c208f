// Package bounded keeps what others say, a guest or a command, up to a number of bytes: they may be in a stranger's
// hands, or broken.
//
// What it deliberately does not do: keep the end of what is said in place of its beginning.
package bounded

import (
	"bytes"
	"errors"
	"fmt"
)

// ErrOver is returned for what is beyond the bound.
var ErrOver = errors.New("more is said than is taken")

// Buffer is a writer that keeps the first bytes of what is written to it.
type Buffer struct {
	// Most is how many; 0: none.
	Most int
	// Drain has it take all the rest too, and forget it: whoever writes is not disturbed. Else a write that is beyond the
	// bound fails with ErrOver, of which a command ends that is written from.
	Drain bool

	kept bytes.Buffer
	over bool
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	room := min(len(p), b.Most-b.kept.Len())
	b.kept.Write(p[:room])
	if room == len(p) {
		return room, nil
	}
	if b.over = true; b.Drain {
		return len(p), nil
	}
	return room, fmt.Errorf("%w: %d bytes", ErrOver, b.Most)
}

// Over tells whether more was written than is kept.
func (b *Buffer) Over() bool { return b.over }

// Bytes is what was kept; the next write may change it.
func (b *Buffer) Bytes() []byte { return b.kept.Bytes() }

// String is what was kept.
func (b *Buffer) String() string { return b.kept.String() }
