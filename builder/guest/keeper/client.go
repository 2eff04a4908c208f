package keeper

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
)

// maxAnswer bounds an answer in bytes: a report, of whose bytes (package qemu takes 256 KiB) JSON may write each as
// six, and what stands round it.
const maxAnswer = 2 << 20

// Ask sends one request to the keeper at a socket and returns its answer. The end of ctx ends waiting, not what was
// asked for.
func Ask(ctx context.Context, socket string, r Request) (Answer, error) {
	conn, in, err := call(ctx, socket, r)
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	return readAnswer(ctx, in)
}

// Attach connects with the serial port of the guest. What the connection reads begins with the last that was said.
func Attach(ctx context.Context, socket string) (io.ReadWriteCloser, error) {
	conn, in, err := call(ctx, socket, Request{Do: DoConsole})
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	_, err = readAnswer(ctx, in)
	if stop(); err != nil {
		conn.Close()
		return nil, err
	}
	return &attached{conn, in}, nil
}

// attached reads what the answer's reader has taken already, first.
type attached struct {
	net.Conn
	in *bufio.Reader
}

func (a *attached) Read(b []byte) (int, error) { return a.in.Read(b) }

func call(ctx context.Context, socket string, r Request) (net.Conn, *bufio.Reader, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, nil, fmt.Errorf("the process that keeps the guest: %w", err)
	}
	b, err := json.Marshal(r)
	if err == nil {
		_, err = conn.Write(append(b, '\n'))
	}
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("the process that keeps the guest: %w", err)
	}
	return conn, bufio.NewReaderSize(conn, maxAnswer), nil
}

func readAnswer(ctx context.Context, in *bufio.Reader) (a Answer, err error) {
	line, err := in.ReadSlice('\n')
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	switch {
	case ctx.Err() != nil:
		return a, context.Cause(ctx)
	case errors.Is(err, io.EOF):
		return a, errors.New("the process that keeps the guest ended without an answer")
	case err != nil:
		return a, fmt.Errorf("the process that keeps the guest: %w", err)
	case a.Error != "":
		return a, errors.New(a.Error)
	}
	return a, nil
}
