package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// joined is a client whose stream is served by handle.
func joined(t *testing.T, handle func(context.Context, Request) int) *Client {
	t.Helper()
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() {
		err := Serve(context.Background(), far, NewBudget(MaxInput), handle)
		far.Close()
		served <- err
	}()
	c := NewClient(near)
	t.Cleanup(func() {
		c.Close()
		// A client that goes while it still sends input breaks off in the middle of a frame.
		if err := <-served; err != nil && !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Serve = %v", err)
		}
	})
	return c
}

// echo answers with its input, turns its words into errors, and ends with their number.
func echo(_ context.Context, r Request) int {
	_, _ = io.Copy(r.Stdout, r.Stdin)
	fmt.Fprint(r.Stderr, strings.Join(r.Args, "|"))
	return len(r.Args)
}

func TestRun(t *testing.T) {
	c := joined(t, echo)
	large := strings.Repeat("0123456789abcdef", MaxPayload/8)
	for _, tt := range []struct {
		args  []string
		stdin io.Reader
		out   string
	}{
		{[]string{"a"}, nil, ""},
		{[]string{"a", "b c", ""}, strings.NewReader("input"), "input"},
		{[]string{"large"}, strings.NewReader(large), large},
	} {
		var out, errs bytes.Buffer
		status, err := c.Run(context.Background(), Call{Args: tt.args}, tt.stdin, &out, &errs)
		if err != nil || status != len(tt.args) || out.String() != tt.out || errs.String() != strings.Join(tt.args, "|") {
			t.Errorf("Run(%q) = %d, %v, %d bytes, %q; want %d, nil, %d bytes, the words", tt.args, status, err, out.Len(),
				errs.String(), len(tt.args), len(tt.out))
		}
	}
	for _, args := range [][]string{nil, {""}, make([]string, maxArgs+1), {"x", strings.Repeat("y", maxArg+1)}} {
		if status, err := c.Run(context.Background(), Call{Args: args}, nil, io.Discard, io.Discard); err == nil {
			t.Errorf("Run(%.40q) = %d; want an error", args, status)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	c := joined(t, echo)
	var wait sync.WaitGroup
	for i := range MaxCalls {
		wait.Go(func() {
			want := strings.Repeat(fmt.Sprint(i, " "), 20_000)
			var out bytes.Buffer
			status, err := c.Run(context.Background(), Call{Args: []string{"x"}}, strings.NewReader(want), &out, io.Discard)
			if status != 1 || err != nil || out.String() != want {
				t.Errorf("command %d: %d, %v, %d bytes; want 1, nil, %d bytes of its own", i, status, err, out.Len(), len(want))
			}
		})
	}
	wait.Wait()
}

// TestGivenUp: a command ends when nobody waits for it, and others go on.
func TestGivenUp(t *testing.T) {
	ended := make(chan error, 1)
	c := joined(t, func(ctx context.Context, r Request) int {
		if r.Args[0] != "wait" {
			return echo(ctx, r)
		}
		fmt.Fprint(r.Stdout, "begun")
		_, err := io.ReadAll(r.Stdin)
		ended <- err
		return Done
	})
	ctx, cancel := context.WithCancel(context.Background())
	begun := writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil })
	never, _ := io.Pipe()
	if _, err := c.Run(ctx, Call{Args: []string{"wait"}}, never, begun, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("Run that is given up = %v; want %v", err, context.Canceled)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("input of a command given up ends with %v; want %v: half an input must not pass for a whole", err,
			context.Canceled)
	}
	if status, err := c.Run(context.Background(), Call{Args: []string{"x"}}, nil, io.Discard, io.Discard); status != 1 ||
		err != nil {
		t.Errorf("the next command = %d, %v; want 1, nil", status, err)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestTooManyAtOnce(t *testing.T) {
	release := make(chan struct{})
	var begun sync.WaitGroup
	begun.Add(MaxCalls)
	c := joined(t, func(context.Context, Request) int { begun.Done(); <-release; return Done })
	var wait sync.WaitGroup
	for range MaxCalls {
		wait.Go(func() { _, _ = c.Run(context.Background(), Call{Args: []string{"x"}}, nil, io.Discard, io.Discard) })
	}
	begun.Wait()
	var errs bytes.Buffer
	status, err := c.Run(context.Background(), Call{Args: []string{"x"}}, nil, io.Discard, &errs)
	if status != Usage || err != nil || !strings.Contains(errs.String(), "at once") {
		t.Errorf("one command more = %d, %v, %q; want it refused", status, err, errs.String())
	}
	close(release)
	wait.Wait()
}

// TestTooMuchInput: what a command does not read is bounded.
func TestTooMuchInput(t *testing.T) {
	c := joined(t, func(ctx context.Context, _ Request) int { <-ctx.Done(); return Failed })
	endless := io.LimitReader(zeros{}, 2*MaxInput)
	status, err := c.Run(context.Background(), Call{Args: []string{"x"}}, endless, io.Discard, io.Discard)
	if status != Failed || err != nil {
		t.Errorf("Run = %d, %v; want %d, nil", status, err, Failed)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestLost(t *testing.T) {
	near, far := net.Pipe()
	c := NewClient(near)
	go func() {
		_, _ = readFrame(far)
		far.Close()
	}()
	_, err := c.Run(context.Background(), Call{Args: []string{"x"}}, nil, io.Discard, io.Discard)
	if !errors.Is(err, ErrLost) {
		t.Errorf("Run over a stream that breaks = %v; want %v", err, ErrLost)
	}
}

func TestNoFrame(t *testing.T) {
	for _, b := range []string{"GET / HTTP/1.0\r\n\r\n", "RMc\x01\x00\x00\x00\x00\x00\x01",
		"RM?\x00\x00\x00\x00\x00\x00\x01",
		"RMc\x00\xff\xff\x00\x00\x00\x01"} {
		err := Serve(context.Background(), &script{Reader: strings.NewReader(b)}, NewBudget(MaxInput), echo)
		if !errors.Is(err, ErrFrame) {
			t.Errorf("Serve(%q) = %v; want %v", b, err, ErrFrame)
		}
	}
	if err := Serve(context.Background(), &script{Reader: strings.NewReader("RMc")}, NewBudget(1), echo); !errors.Is(err,
		io.ErrUnexpectedEOF) {
		t.Errorf("Serve of half a header = %v; want %v", err, io.ErrUnexpectedEOF)
	}
}

// script is a stream whose other end has said everything beforehand.
type script struct {
	io.Reader
	mu  sync.Mutex
	out bytes.Buffer
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

// FuzzServe: whatever comes, Serve ends when the stream does, and what it says is whole frames.
func FuzzServe(f *testing.F) {
	call := frame{kindCall, 1, []byte(`{"args":["x"]}`)}.append(nil)
	f.Add(call)
	f.Add(frame{kindInputEnd, 1, nil}.append(frame{kindInput, 1, []byte("abc")}.append(call)))
	f.Add(frame{kindCancel, 1, nil}.append(append(call, call...)))
	f.Add([]byte("RMc\x00\x00\x02\x00\x00\x00\x01{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &script{Reader: bytes.NewReader(b)}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = Serve(ctx, s, NewBudget(MaxInput), echo)
		if ctx.Err() != nil {
			t.Fatal("Serve did not end with its stream")
		}
		for {
			_, err := readFrame(&s.out)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatalf("Serve said %v", err)
			}
		}
	})
}
