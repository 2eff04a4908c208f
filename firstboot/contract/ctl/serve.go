package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Request is a command to carry out.
type Request struct {
	Call
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// MaxInput bounds what waits of one command's input, in bytes: a changed profile (contract.MaxLive) and what it is
// wrapped in.
const MaxInput = 9 << 20

// Budget bounds what waits of the input of all commands of a process together, whatever number of streams they come by.
// A command whose input goes beyond it is ended; the others go on.
type Budget struct {
	mu   sync.Mutex
	left int
}

// NewBudget returns one of so many bytes; less than MaxInput is of no use to the largest command.
func NewBudget(bytes int) *Budget { return &Budget{left: bytes} }

// take tells whether there are n bytes left, and takes them then.
func (b *Budget) take(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left {
		return false
	}
	b.left -= n
	return true
}

func (b *Budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
}

// Serve carries out the commands that come by a stream until it ends, ctx is done, or what comes is no frame. Each runs
// in a goroutine of its own with a context that ends with the stream, or with the client's interest. It returns nil
// when the stream ended between two frames, after the last command is over. Input that waits is taken from the budget.
func Serve(ctx context.Context, stream io.ReadWriter, budget *Budget, handle func(context.Context, Request) int) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &server{out: &writer{w: stream}, budget: budget, handle: handle,
		calls: map[uint32]*running{}}
	defer s.wait.Wait()
	defer cancel()
	for {
		f, err := readFrame(stream)
		if err == nil {
			err = s.take(ctx, f)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

type server struct {
	out    *writer
	budget *Budget
	handle func(context.Context, Request) int
	wait   sync.WaitGroup

	mu    sync.Mutex
	calls map[uint32]*running
}

// running is a command being carried out.
type running struct {
	cancel context.CancelFunc
	input  *pipe
}

func (s *server) take(ctx context.Context, f frame) error {
	s.mu.Lock()
	r := s.calls[f.id]
	count := len(s.calls)
	s.mu.Unlock()
	switch f.kind {
	case kindCall:
		var call Call
		d := json.NewDecoder(bytes.NewReader(f.payload))
		d.DisallowUnknownFields()
		err := d.Decode(&call)
		if err == nil {
			err = call.check()
		}
		if err == nil && count >= MaxCalls {
			err = fmt.Errorf("%d commands at once, no more are carried out", MaxCalls)
		}
		if r != nil {
			return fmt.Errorf("%w: command %d begins twice", ErrFrame, f.id)
		}
		if err != nil {
			return errors.Join(s.out.send(frame{kindErrors, f.id, []byte(err.Error() + "\n")}),
				s.out.send(frame{kindExit, f.id, []byte{Usage}}))
		}
		s.begin(ctx, f.id, call)
	case kindInput:
		if r != nil && !r.input.add(f.payload) {
			r.cancel()
		}
	case kindInputEnd:
		if r != nil {
			r.input.end(io.EOF)
		}
	case kindCancel:
		if r != nil {
			r.cancel()
		}
	default:
		return fmt.Errorf("%w: kind %q", ErrFrame, f.kind)
	}
	return nil
}

func (s *server) begin(ctx context.Context, id uint32, call Call) {
	ctx, cancel := context.WithCancel(ctx)
	r := &running{cancel: cancel, input: newPipe(s.budget)}
	context.AfterFunc(ctx, func() { r.input.end(context.Cause(ctx)) })
	s.mu.Lock()
	s.calls[id] = r
	s.mu.Unlock()
	s.wait.Go(func() {
		defer cancel()
		defer r.input.drop()
		status := s.handle(ctx, Request{Call: call, Stdin: r.input, Stdout: output{s.out, kindOutput, id},
			Stderr: output{s.out, kindErrors, id}})
		s.mu.Lock()
		delete(s.calls, id)
		s.mu.Unlock()
		_ = s.out.send(frame{kindExit, id, []byte{exitByte(status)}}) // when the stream is gone nobody waits
	})
}

// exitByte is a status as it travels. One that has no room in a byte must not become another, and least of all Done.
func exitByte(status int) byte {
	if status < 0 || status > 255 {
		return Failed
	}
	return byte(status)
}

// output is one of a command's outputs.
type output struct {
	out  *writer
	kind byte
	id   uint32
}

func (o output) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		piece := rest[:min(len(rest), MaxPayload)]
		if err := o.out.send(frame{o.kind, o.id, piece}); err != nil {
			return len(p) - len(rest), err
		}
		rest = rest[len(piece):]
	}
	return len(p), nil
}

// writer writes whole frames of many commands to one stream. After an error it writes nothing more: half a frame may
// have gone.
type writer struct {
	mu  sync.Mutex
	w   io.Writer
	err error
}

func (w *writer) send(f frame) error {
	b := f.append(make([]byte, 0, headerBytes+len(f.payload)))
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
	return w.err
}

// pipe holds a command's input until it is read, in the pieces it came in: nothing is copied, so what is counted is
// what it takes.
type pipe struct {
	budget *Budget
	mu     sync.Mutex
	more   *sync.Cond
	pieces [][]byte
	size   int   // of all pieces
	err    error // what Read returns once there are none; nil: more may come
	over   bool  // nobody reads any more
}

func newPipe(budget *Budget) *pipe {
	p := &pipe{budget: budget}
	p.more = sync.NewCond(&p.mu)
	return p
}

// add keeps bytes; false: too much waits already.
func (p *pipe) add(b []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil || p.over || len(b) == 0 {
		return true
	}
	if p.size+len(b) > MaxInput || !p.budget.take(len(b)) {
		return false
	}
	p.pieces = append(p.pieces, b)
	p.size += len(b)
	p.more.Broadcast()
	return true
}

// end says that no more comes: io.EOF, or why not.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	p.more.Broadcast()
}

// drop forgets what was not read: the command is over.
func (p *pipe) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.budget.give(p.size)
	p.pieces, p.size, p.over = nil, 0, true
	p.more.Broadcast()
}

func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.pieces) == 0 && p.err == nil && !p.over {
		p.more.Wait()
	}
	switch {
	case p.over:
		return 0, io.ErrClosedPipe
	case len(p.pieces) == 0:
		return 0, p.err
	}
	n := copy(b, p.pieces[0])
	if p.pieces[0] = p.pieces[0][n:]; len(p.pieces[0]) == 0 {
		p.pieces[0] = nil
		p.pieces = p.pieces[1:]
	}
	p.size -= n
	p.budget.give(n)
	return n, nil
}
