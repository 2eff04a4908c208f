package xenstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// device is as Linux' is: it takes a request at once and sends it later, from the place it was written to. A second one
// that is written before the first was answered has overwritten the first.
type device struct {
	t        *testing.T
	busy     atomic.Bool
	requests chan []byte
	answers  *io.PipeReader
}

// newDevice returns one whose store answers a request for a node with the node's path, when it may.
func newDevice(t *testing.T, may func(path string)) *device {
	answers, w := io.Pipe()
	d := &device{t: t, requests: make(chan []byte, 100), answers: answers}
	go func() {
		for b := range d.requests {
			path, _, _ := bytes.Cut(b[headerSize:], []byte{0})
			may(string(path))
			answer := slices.Concat(b[:headerSize-4], binary.LittleEndian.AppendUint32(nil, uint32(len(path))), path)
			d.busy.Store(false)
			if _, err := w.Write(answer); err != nil {
				return
			}
		}
	}()
	return d
}

func (d *device) Write(p []byte) (int, error) {
	if d.busy.Swap(true) {
		d.t.Error("a request was written before the one before it was answered, which is sent with its words")
	}
	d.requests <- slices.Clone(p)
	return len(p), nil
}

func (d *device) Read(p []byte) (int, error) { return d.answers.Read(p) }

func (d *device) Close() error { return d.answers.Close() }

// TestOneRequestAtATime: however many ask at once.
func TestOneRequestAtATime(t *testing.T) {
	c := New(newDevice(t, func(string) {}))
	defer c.Close()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 100 {
				path := fmt.Sprintf("data/%d/%d", i, j)
				if got, err := c.Now().Read(t.Context(), path); err != nil || string(got) != path {
					t.Errorf("Read(%s) = %q, %v", path, got, err)
				}
			}
		})
	}
	all.Wait()
}

// TestGivingUpKeepsTheTurn: nothing is written over a request that nobody waits for any more, and its late answer is
// nobody else's.
func TestGivingUpKeepsTheTurn(t *testing.T) {
	asked, may := make(chan string), make(chan struct{})
	c := New(newDevice(t, func(path string) {
		asked <- path
		<-may
	}))
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := c.Now().Read(ctx, "data/first")
		first <- err
	}()
	<-asked
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("Read that was given up = %v; want %v", err, context.Canceled)
	}
	if _, err := c.Now().Read(ctx, "data/never"); !errors.Is(err, context.Canceled) {
		t.Errorf("Read that waits for its turn and is given up = %v; want %v", err, context.Canceled)
	}
	second := make(chan error)
	go func() {
		got, err := c.Now().Read(t.Context(), "data/second")
		if err == nil && string(got) != "data/second" {
			err = fmt.Errorf("the answer to another request: %q", got)
		}
		second <- err
	}()
	may <- struct{}{}
	if path := <-asked; path != "data/second" {
		t.Errorf("the second request is for %s; want data/second", path)
	}
	may <- struct{}{}
	if err := <-second; err != nil {
		t.Error(err)
	}
}
