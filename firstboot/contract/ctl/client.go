package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Client has commands carried out by who serves the other end of a stream. It is for several goroutines at once.
type Client struct {
	stream io.ReadWriteCloser
	out    *writer
	done   chan struct{}

	mu    sync.Mutex
	next  uint32
	calls map[uint32]*waiting
	err   error // why the stream is over
}

// waiting is a command whose end somebody waits for.
type waiting struct {
	stdout, stderr io.Writer
	exit           chan int
	failed         bool // one of the writers did; of the goroutine that reads
}

// NewClient takes the stream over. Close ends it.
func NewClient(stream io.ReadWriteCloser) *Client {
	c := &Client{stream: stream, out: &writer{w: stream}, done: make(chan struct{}), calls: map[uint32]*waiting{}}
	go c.read()
	return c
}

// Close ends the stream; commands still running fail.
func (c *Client) Close() error { return c.stream.Close() }

// ErrLost is wrapped by Run's error when the stream ended before the command did: whether it was carried out is not
// known.
var ErrLost = errors.New("the control channel was lost before the command ended")

// Run has a command carried out and returns its exit status. stdin may be nil: the command reads nothing. When ctx is
// done the other end is told to give the command up, and the error is ctx's. A writer that fails has the command given
// up too. Input is read to its end even by a command that does not want it.
func (c *Client) Run(ctx context.Context, call Call, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	if err := call.check(); err != nil {
		return Usage, err
	}
	payload, err := json.Marshal(call)
	if err != nil {
		return Usage, err
	}
	if len(payload) > MaxPayload {
		return Usage, fmt.Errorf("a command line of %d bytes: at most %d", len(payload), MaxPayload)
	}
	w := &waiting{stdout: stdout, stderr: stderr, exit: make(chan int, 1)}
	c.mu.Lock()
	c.next++
	id := c.next
	c.calls[id] = w
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.calls, id)
		c.mu.Unlock()
	}()
	// Whatever is sent may have to wait for an end that takes nothing just now; who gives up waits for nothing.
	broken := make(chan error, 1)
	go func() {
		if err := c.out.send(frame{kindCall, id, payload}); err != nil {
			broken <- err
			return
		}
		c.feed(id, stdin)
	}()
	select {
	case status := <-w.exit:
		return status, nil
	case err := <-broken:
		c.mu.Lock()
		if c.err != nil { // the stream was closed because of what came; that there was nowhere to write then says nothing
			err = c.err
		}
		c.mu.Unlock()
		return Failed, fmt.Errorf("%w: %w", ErrLost, err)
	case <-ctx.Done():
		c.giveUp(id)
		return Failed, ctx.Err()
	case <-c.done:
		select {
		case status := <-w.exit:
			return status, nil
		default:
			return Failed, fmt.Errorf("%w: %w", ErrLost, c.err)
		}
	}
}

// giveUp tells the other end that nobody waits for a command, without waiting itself. A stream that never takes it ends
// with Close.
func (c *Client) giveUp(id uint32) {
	go func() { _ = c.out.send(frame{kindCancel, id, nil}) }()
}

// feed sends a command its input.
func (c *Client) feed(id uint32, stdin io.Reader) {
	if stdin != nil {
		if _, err := io.Copy(output{c.out, kindInput, id}, stdin); err != nil {
			_ = c.out.send(frame{kindCancel, id, nil}) // half an input is none
			return
		}
	}
	_ = c.out.send(frame{kindInputEnd, id, nil})
}

func (c *Client) read() {
	defer close(c.done)
	for {
		f, err := readFrame(c.stream)
		if err != nil {
			c.mu.Lock()
			c.err = err
			c.mu.Unlock()
			c.stream.Close()
			return
		}
		c.mu.Lock()
		w := c.calls[f.id]
		c.mu.Unlock()
		if w == nil {
			continue // given up
		}
		switch f.kind {
		case kindOutput:
			_, err = w.stdout.Write(f.payload)
		case kindErrors:
			_, err = w.stderr.Write(f.payload)
		case kindExit:
			status := Failed
			if len(f.payload) == 1 {
				status = int(f.payload[0])
			}
			c.mu.Lock()
			delete(c.calls, f.id)
			c.mu.Unlock()
			w.exit <- status
		}
		if err != nil && !w.failed {
			w.failed = true
			c.giveUp(f.id) // not here: who reads must read on, or both ends wait for each other
		}
	}
}
