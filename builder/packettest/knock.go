package packettest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"

	"rempart/builder/virtualnet"
	"rempart/firstboot/filter"
	"rempart/profiles"
)

// knockEvery is the time between two knocks while the guest boots: 200 packets a second, which a translated guest on a
// busy host still takes without booting visibly slower.
const knockEvery = 5 * time.Millisecond

// knockPort is the source port of knocks: one of the dynamic ones (RFC 6335) that the stacks do not use.
const knockPort = 65001

// Knocks is what came of the packets sent while the guest was booting.
type Knocks struct {
	Sent    int        `json:"sent"`    // packets delivered to the guest's NICs
	Through []Sighting `json:"through"` // those that came out again: each is a hole
	// Answered counts flows the guest itself answered although it must not.
	Answered int `json:"answered"`
}

// Knock sends, until ctx ends, every flow that must not pass to every NIC of the guest: from power-on, without asking
// for hardware addresses, as an attacker on the link would. It returns what it met.
func (b *Bench) Knock(ctx context.Context) Knocks {
	var wait sync.WaitGroup
	type knock struct {
		frame    []byte
		injector *virtualnet.Injector
	}
	var knocks []knock
	var attempts []*attempt
	for _, p := range b.probes {
		if p.Pass || !p.Dst.IsValid() || b.knockAt(p) == nil {
			continue
		}
		frame, a := b.knock(p)
		knocks = append(knocks, knock{frame, b.links[p.Link].injector})
		attempts = append(attempts, a)
	}
	wait.Add(1)
	go func() {
		defer wait.Done()
		tick := time.NewTicker(knockEvery)
		defer tick.Stop()
		for i := 0; len(knocks) > 0; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			k := knocks[i%len(knocks)]
			_ = k.injector.Send(k.frame) // a frame made here is neither too short nor too long
		}
	}()
	wait.Wait()
	var out Knocks
	for _, a := range attempts {
		sent, left, answered := a.snapshot()
		out.Sent += sent
		out.Through = append(out.Through, left...)
		if answered == replied || answered == reset && !b.rejects(a.probe) {
			out.Answered++
		}
	}
	return out
}

// knock is the frame that opens a probe's flow, made by hand.
func (b *Bench) knock(p filter.Probe) ([]byte, *attempt) {
	a := b.watch.begin(p)
	s := b.links[p.Link]
	d := virtualnet.Datagram{SrcMAC: s.hosts[p.Src].MAC, DstMAC: b.knockAt(p),
		Src: netip.AddrPortFrom(p.Src, knockPort), Dst: netip.AddrPortFrom(p.Dst, p.Port)}
	switch p.Protocol {
	case profiles.TCP:
		var random [4]byte
		rand.Read(random[:]) // never fails: crypto/rand
		sequence := binary.BigEndian.Uint32(random[:])
		b.watch.expect(sequence, a)
		return d.SYN(sequence), a
	case profiles.UDP:
		return d.UDP([]byte(a.token)), a
	}
	return d.Echo([]byte(a.token)), a
}

// knockAt is the hardware address a knock goes to: the guest's, or past it the receiver's; nil where it is not known.
func (b *Bench) knockAt(p filter.Probe) net.HardwareAddr {
	if p.Bridge == "" {
		return b.macs[p.Link]
	}
	return b.links[p.OutLink].hosts[p.Dst].MAC
}
