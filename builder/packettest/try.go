package packettest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"rempart/builder/virtualnet"
	"rempart/firstboot/filter"
	"rempart/profiles"
)

// resend is how often a datagram or echo request is sent again while there is no answer. TCP does so by itself.
const resend = 400 * time.Millisecond

// arrival is how long a flow that must not pass may take to be delivered to the guest at all, that is, until the
// guest has answered for its hardware address.
const arrival = 20 * time.Second

// try tries one probe once.
func (b *Bench) try(ctx context.Context, p filter.Probe) *attempt {
	a := b.watch.begin(p)
	limit := b.patience
	if !p.Pass {
		limit = arrival
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if p.Pass {
		a.mu.Lock()
		a.heard = cancel
		a.mu.Unlock()
	} else {
		go b.hush(ctx, a, cancel)
	}
	start := time.Now()
	err := b.send(ctx, p, a.token)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.whole, a.took = true, time.Since(start)
	} else {
		a.failure = err.Error()
	}
	return a
}

// hush ends an attempt that must not pass once it has met enough silence since it was delivered.
func (b *Bench) hush(ctx context.Context, a *attempt, cancel context.CancelFunc) {
	const look = 20 * time.Millisecond
	for {
		if sent, _, _ := a.snapshot(); sent > 0 {
			break
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return
		}
	}
	select {
	case <-time.After(silence):
		cancel()
	case <-ctx.Done():
	}
}

// send is the sender's part: it returns nil when its token came back.
func (b *Bench) send(ctx context.Context, p filter.Probe, token string) error {
	h, err := b.host(p.Link, p.Src)
	if err != nil {
		return err
	}
	to := netip.AddrPortFrom(p.Dst, p.Port)
	switch p.Protocol {
	case profiles.TCP:
		if p.To == profiles.Self {
			return connectTCP(ctx, h, p.Src, to)
		}
		return exchangeTCP(ctx, h, p.Src, to, token)
	case profiles.UDP:
		return h.ExchangeUDP(ctx, p.Src, to, question(p, token), resend)
	case profiles.Ping:
		return h.Ping(ctx, p.Src, p.Dst, []byte(token), resend)
	}
	return fmt.Errorf("a probe of protocol %q: want tcp, udp or ping", p.Protocol)
}

// connectTCP connects to one of the guest's own services: that it does is all there is to know. What they say is not
// what was sent, and some wait long for more.
func connectTCP(ctx context.Context, h *virtualnet.Host, from netip.Addr, to netip.AddrPort) error {
	conn, err := h.DialTCP(ctx, from, to)
	if err != nil {
		return err
	}
	return conn.Close()
}

func exchangeTCP(ctx context.Context, h *virtualnet.Host, from netip.Addr, to netip.AddrPort, token string) error {
	conn, err := h.DialTCP(ctx, from, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(conn, token); err != nil {
		return err
	}
	back := make([]byte, len(token))
	if _, err := io.ReadFull(conn, back); err != nil {
		return err
	}
	if string(back) != token {
		return errors.New("something else came back")
	}
	return nil
}
