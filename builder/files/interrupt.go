package files

import (
	"context"
	"io"
)

// Interruptible reads from r until ctx is done, and from then on fails with its error: a copy of something large ends
// when nobody waits for it any more.
func Interruptible(ctx context.Context, r io.Reader) io.Reader { return &interruptible{ctx, r} }

type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(b []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(b)
}
