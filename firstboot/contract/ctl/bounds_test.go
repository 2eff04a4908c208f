package ctl

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// TestBudget: what all commands together do not read is bounded, and what was read, or dropped with its command, is
// given back.
func TestBudget(t *testing.T) {
	const most = 100
	b := NewBudget(most)
	one, other := newPipe(b), newPipe(b)
	if !one.add(make([]byte, 60)) || other.add(make([]byte, 41)) || !other.add(make([]byte, 40)) {
		t.Errorf("of %d bytes 60, then not 41, then 40 more should have found room; %d are left", most, b.left)
	}
	if n, err := one.Read(make([]byte, 25)); n != 25 || err != nil || b.left != 25 {
		t.Errorf("Read = %d, %v and %d are left; want 25 and 25", n, err, b.left)
	}
	other.drop()
	if b.left != 65 {
		t.Errorf("after a command was dropped %d are left; want 65", b.left)
	}
	if !other.add(make([]byte, 1000)) || b.left != 65 {
		t.Errorf("input of a command that is over was kept: %d are left; want 65", b.left)
	}
	if _, err := other.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Read of a command that is over = %v; want %v", err, io.ErrClosedPipe)
	}
	one.end(io.EOF)
	if rest, err := io.ReadAll(one); len(rest) != 35 || err != nil || b.left != most {
		t.Errorf("the rest = %d bytes, %v, and %d are left; want 35, nil, %d", len(rest), err, b.left, most)
	}
}

// TestGivingUpWaitsForNothing: a caller that gives up while the other end takes nothing is free at once.
func TestGivingUpWaitsForNothing(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	c := NewClient(near)
	defer c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = readFrame(far) // the call; from here on nobody reads
		cancel()
	}()
	endless := io.LimitReader(zeros{}, 1<<30)
	_, err := c.Run(ctx, Call{Args: []string{"x"}}, endless, io.Discard, io.Discard)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v; want %v", err, context.Canceled)
	}
	// The same before even the call is taken.
	given, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Run(given, Call{Args: []string{"x"}}, nil, io.Discard, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("Run of a call that is not taken = %v; want %v", err, context.Canceled)
	}
}

// TestWriterFailsWhileTheOtherEndWrites: the reader of a stream must not stop to write, or both ends wait for ever.
func TestWriterFailsWhileTheOtherEndWrites(t *testing.T) {
	c := joined(t, func(ctx context.Context, r Request) int {
		for {
			if _, err := io.WriteString(r.Stdout, strings.Repeat("x", MaxPayload)); err != nil || ctx.Err() != nil {
				return Failed
			}
		}
	})
	full := writerFunc(func([]byte) (int, error) { return 0, errors.New("full") })
	if status, err := c.Run(context.Background(), Call{Args: []string{"x"}}, nil, full, io.Discard); status != Failed ||
		err != nil {
		t.Errorf("Run = %d, %v; want %d, nil", status, err, Failed)
	}
}

func TestExitByte(t *testing.T) {
	for status, want := range map[int]byte{0: 0, 2: 2, 255: 255, 256: Failed, 512: Failed, -1: Failed} {
		if got := exitByte(status); got != want {
			t.Errorf("exitByte(%d) = %d; want %d", status, got, want)
		}
	}
}
