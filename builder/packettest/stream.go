package packettest

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"time"

	"rempart/builder/virtualnet"
	"rempart/firstboot/filter"
	"rempart/profiles"
)

// Outage is what became of a stream of numbered packets through the guest.
type Outage struct {
	Flow   string // of which line of the profile
	Sent   int
	Passed int           // how many came out of the guest in time, each counted once
	Gap    time.Duration // the longest time without any, between the first that came out and the last
}

// Lost is how many did not come out.
func (o Outage) Lost() int { return o.Sent - o.Passed }

// Bounds of a stream: its numbers, and how long a packet may take. One that waited in a queue until another guest took
// it is lost to whoever sent it.
const (
	maxStream = 1 << 16
	straggle  = 2 * time.Second
)

// Stream sends a packet through the guest at every interval until ctx ends, or maxStream were sent, and watches which
// of them come out on the other side, also while the guest is replaced by another: what it costs to be away.
func (b *Bench) Stream(ctx context.Context, every time.Duration) (Outage, error) {
	p, ok := b.through()
	if !ok {
		return Outage{}, errors.New("no line of the policy lets datagrams or pings pass through the guest")
	}
	s := &stream{token: newToken(), seen: make([]bool, maxStream)}
	b.links[p.OutLink].Observe(s.observe)
	from := b.links[p.Link]
	d := virtualnet.Datagram{SrcMAC: from.hosts[p.Src].MAC, DstMAC: b.macs[p.Link],
		Src: netip.AddrPortFrom(p.Src, knockPort), Dst: netip.AddrPortFrom(p.Dst, p.Port)}
	tick := time.NewTicker(every)
	defer tick.Stop()
	out := Outage{Flow: p.Proves}
	for ctx.Err() == nil && out.Sent < maxStream {
		payload := binary.BigEndian.AppendUint32([]byte(s.token), uint32(out.Sent))
		frame := d.UDP(payload)
		if p.Protocol == profiles.Ping {
			frame = d.Echo(payload)
		}
		s.sends(time.Now())
		if err := from.injector.Send(frame); err != nil {
			return out, err
		}
		out.Sent++
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	<-time.After(straggle) // what is under way in the guest still counts
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Passed, out.Gap = s.passed, s.gap
	return out, nil
}

// through is a flow that passes through the guest and needs no answer to begin.
func (b *Bench) through() (filter.Probe, bool) {
	for _, p := range b.probes {
		if p.Pass && p.OutLink != "" && p.Bridge == "" && b.macs[p.Link] != nil &&
			(p.Protocol == profiles.UDP || p.Protocol == profiles.Ping) {
			return p, true
		}
	}
	return filter.Probe{}, false
}

// stream sees the packets of one come out.
type stream struct {
	token string

	mu     sync.Mutex
	sent   []time.Time // by number
	seen   []bool      // by number
	passed int
	last   time.Time
	gap    time.Duration
}

// sends notes when the next packet was sent.
func (s *stream) sends(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, at)
}

func (s *stream) observe(at time.Time, frame []byte, fromGuest bool) {
	if !fromGuest {
		return
	}
	d, err := virtualnet.Dissect(frame)
	if err != nil || len(d.Payload) < len(s.token)+4 || string(d.Payload[:len(s.token)]) != s.token {
		return
	}
	if d.Protocol != virtualnet.UDP && d.Protocol != virtualnet.EchoRequest {
		return
	}
	n := binary.BigEndian.Uint32(d.Payload[len(s.token):])
	s.mu.Lock()
	defer s.mu.Unlock()
	if int(n) >= len(s.sent) || s.seen[n] || at.Sub(s.sent[n]) > straggle {
		return
	}
	if s.passed > 0 {
		s.gap = max(s.gap, at.Sub(s.last))
	}
	s.seen[n], s.last = true, at
	s.passed++
}
