package virtualnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxDatagram is the largest payload UDP can carry over IPv4, in bytes.
const maxDatagram = 65507

// EchoTCP listens and sends back what each connection says, until stop.
func (h *Host) EchoTCP(at netip.AddrPort) (stop func(), err error) {
	l, err := h.ListenTCP(at)
	if err != nil {
		return nil, fmt.Errorf("host %s: listen at tcp %s: %w", h.Name, at, err)
	}
	var wait sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	stopped := false
	wait.Add(1)
	go func() {
		defer wait.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if stopped {
				mu.Unlock()
				c.Close()
				return
			}
			open[c] = true
			wait.Add(1)
			mu.Unlock()
			go func() {
				defer wait.Done()
				_, _ = io.Copy(c, c) // ends with the connection, however that ends
				c.Close()
			}()
		}
	}()
	return func() {
		mu.Lock()
		stopped = true
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		l.Close()
		wait.Wait()
	}, nil
}

// EchoUDP sends back every datagram, until stop.
func (h *Host) EchoUDP(at netip.AddrPort) (stop func(), err error) {
	c, err := h.UDP(at, netip.AddrPort{})
	if err != nil {
		return nil, fmt.Errorf("host %s: listen at udp %s: %w", h.Name, at, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if _, err := c.WriteTo(buf[:n], from); err != nil {
				return
			}
		}
	}()
	return func() { c.Close(); <-done }, nil
}

// ExchangeUDP sends payload, again each time after resend, until it comes back (nil) or ctx ends. A refusal by ICMP
// ends it too.
func (h *Host) ExchangeUDP(ctx context.Context, from netip.Addr, to netip.AddrPort, payload []byte,
	resend time.Duration) error {
	c, err := h.UDP(netip.AddrPortFrom(from, 0), to)
	if err != nil {
		return fmt.Errorf("udp %s: %w", to, err)
	}
	defer c.Close()
	buf := make([]byte, maxDatagram)
	for ctx.Err() == nil {
		if _, err := c.Write(payload); err != nil {
			return fmt.Errorf("udp %s: %w", to, err)
		}
		if err := c.SetReadDeadline(time.Now().Add(resend)); err != nil {
			return err
		}
		n, err := c.Read(buf)
		switch {
		case err == nil && bytes.Equal(buf[:n], payload):
			return nil
		case err == nil:
			return fmt.Errorf("udp %s: %d bytes came back that were not sent", to, n)
		case !isTimeout(err):
			return fmt.Errorf("udp %s: %w", to, err)
		}
	}
	return fmt.Errorf("udp %s: %w", to, ctx.Err())
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
