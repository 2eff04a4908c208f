package ctl

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
)

// A port of a hypervisor is one stream for ever: it knows no connections, and what one client left unread meets the
// next. So a client begins with a greeting, eight fixed bytes and eight random ones, and says nothing more before they
// come back. Whoever serves the port drops what was before the greeting and begins anew; the client drops what comes
// before the echo.
const (
	greetingHead = "\x00RMPCTL\x01"
	// GreetingBytes is the length of a greeting.
	GreetingBytes = len(greetingHead) + 8
	// maxStale bounds what a client drops before the echo: what ports and sockets may hold, several times over.
	maxStale = 64 << 20
)

// Lost is what who serves a port sends when its commands have gone without an answer: no frame, and so the end of the
// client's stream.
var Lost = bytes.Repeat([]byte{0xff}, headerBytes)

// IsGreeting tells whether the last bytes that came are a greeting.
func IsGreeting(tail []byte) bool {
	return len(tail) == GreetingBytes && string(tail[:len(greetingHead)]) == greetingHead
}

// Greet begins a client's stream over a port, of which it reads byte by byte until the echo has come.
func Greet(stream io.ReadWriter) error {
	greeting := append([]byte(greetingHead), make([]byte, GreetingBytes-len(greetingHead))...)
	if _, err := rand.Read(greeting[len(greetingHead):]); err != nil {
		return err
	}
	if _, err := stream.Write(greeting); err != nil {
		return fmt.Errorf("greeting the guest: %w", err)
	}
	tail := make([]byte, GreetingBytes)
	for range maxStale {
		copy(tail, tail[1:])
		if _, err := io.ReadFull(stream, tail[GreetingBytes-1:]); err != nil {
			return fmt.Errorf("waiting for the guest to answer: %w", err)
		}
		if bytes.Equal(tail, greeting) {
			return nil
		}
	}
	return errors.New("the guest answers with something else than the control channel's greeting")
}
