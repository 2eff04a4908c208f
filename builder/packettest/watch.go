package packettest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"rempart/builder/virtualnet"
	"rempart/firstboot/filter"
	"rempart/profiles"
)

// A flow is recognised on the far side of the guest, whatever was translated on the way, by a token no translation
// touches: the initial sequence number of a TCP connection, the payload of a datagram or an echo request.
const tokenSize = 24

// tokenPrefix makes a token readable in a capture; a random name follows, in hex.
const tokenPrefix = "rempart:"

func newToken() string {
	var name [(tokenSize - len(tokenPrefix)) / 2]byte
	rand.Read(name[:]) // never fails: crypto/rand
	return tokenPrefix + hex.EncodeToString(name[:])
}

// Sighting is a packet of a flow as it left the guest.
type Sighting struct {
	Link     string         `json:"link"`
	Src      netip.Addr     `json:"src"`
	Dst      netip.AddrPort `json:"dst"`
	SourceAt time.Time      `json:"-"`
}

// answer is what a guest or receiver said to the sender.
type answer int

const (
	silent      answer = iota
	replied            // a reply of the flow's own protocol: SYN and ACK, datagram, echo reply
	reset              // TCP reset
	portClosed         // ICMP port unreachable
	prohibited         // ICMP administratively prohibited
	unreachable        // any other ICMP unreachable
)

func (a answer) String() string {
	return [...]string{"no answer", "answered", "refused by reset", "refused: port unreachable",
		"refused: prohibited", "refused: unreachable"}[a]
}

// attempt is one try of one probe.
type attempt struct {
	probe filter.Probe
	token string

	mu       sync.Mutex
	sent     int        // packets of the flow delivered to the guest
	left     []Sighting // packets of the flow that came out of it
	answered answer
	whole    bool          // the receiver's answer came back to the sender whole
	took     time.Duration // until then
	failure  string        // why not, in the sender's words
	heard    func()        // ends the attempt when a service has answered, which need not be to the port that asked
}

func (a *attempt) snapshot() (sent int, left []Sighting, answered answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sent, append([]Sighting(nil), a.left...), a.answered
}

// flowKey is a flow as its sender writes it.
type flowKey struct {
	link     string
	src, dst netip.Addr
	protocol profiles.Protocol
	port     uint16
}

func keyOf(p filter.Probe) flowKey { return flowKey{p.Link, p.Src, p.Dst, p.Protocol, p.Port} }

// watch sees every frame of every segment.
type watch struct {
	mu       sync.Mutex
	running  map[flowKey]*attempt
	tokens   map[string]*attempt
	sequence map[uint32]*attempt
}

func newWatch() *watch {
	return &watch{running: map[flowKey]*attempt{}, tokens: map[string]*attempt{}, sequence: map[uint32]*attempt{}}
}

// begin makes frames of the probe count for a new attempt.
func (w *watch) begin(p filter.Probe) *attempt {
	a := &attempt{probe: p, token: newToken()}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running[keyOf(p)] = a
	w.tokens[a.token] = a
	return a
}

// expect makes a connection attempt with a sequence number made by hand count for an attempt.
func (w *watch) expect(sequence uint32, a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sequence[sequence] = a
}

// observe is the observer of one link. bridge is the bridge it is a member of, or empty.
func (w *watch) observe(link, bridge string, o owner) virtualnet.Observer {
	at := place{link, bridge}
	return func(when time.Time, frame []byte, fromGuest bool) {
		d, err := virtualnet.Dissect(frame)
		if err != nil {
			return
		}
		const group = 1 // the first bit on the wire: multicast and broadcast
		switch {
		case fromGuest && (bridge != "" || o.sent(d.SrcMAC)):
			w.fromGuest(at, when, d)
		case !fromGuest && d.DstMAC[0]&group == 0:
			w.toGuest(at, d, o.gets(d.DstMAC))
		}
	}
}

// place is where a frame is seen: by a link, which may be a member of a bridge. What is routed goes by the bridge.
type place struct{ link, bridge string }

// names are what the place may be called by a probe.
func (p place) names() []string {
	if p.bridge == "" {
		return []string{p.link}
	}
	return []string{p.bridge, p.link}
}

// of is what the place is called by a probe.
func (p place) of(probe filter.Probe) string {
	if p.bridge != "" && probe.Bridge == "" {
		return p.bridge
	}
	return p.link
}

// flow is the running attempt with a key, but for its link, that is at the place; the lock is held.
func (w *watch) flow(at place, key flowKey) *attempt {
	for _, key.link = range at.names() {
		if a := w.running[key]; a != nil && at.of(a.probe) == key.link {
			return a
		}
	}
	return nil
}

// toGuest counts what is delivered to the guest: to itself or, of what is to be bridged, past it.
func (w *watch) toGuest(at place, d virtualnet.Dissection, itself bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.find(d)
	if a == nil && d.Protocol == virtualnet.TCP && d.SYN && !d.ACK {
		if a = w.flow(at, flowKey{src: d.Src, dst: d.Dst, protocol: profiles.TCP, port: d.DstPort}); a != nil {
			w.sequence[d.Sequence] = a
		}
	}
	if a != nil && a.probe.Link == at.of(a.probe) && a.probe.Src == d.Src && itself == (a.probe.Bridge == "") {
		a.mu.Lock()
		a.sent++
		a.mu.Unlock()
	}
}

// find tells whose packet this is; the lock is held. Answers carry the token too and are nobody's.
func (w *watch) find(d virtualnet.Dissection) *attempt {
	switch {
	case d.Protocol == virtualnet.TCP && d.SYN && !d.ACK:
		return w.sequence[d.Sequence]
	case d.Protocol == virtualnet.UDP || d.Protocol == virtualnet.EchoRequest:
		return w.tokens[tokenOf(d)]
	}
	return nil
}

// fromGuest notes what comes out of the guest: packets of a flow, or answers to its sender.
func (w *watch) fromGuest(at place, when time.Time, d virtualnet.Dissection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a := w.find(d); a != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if d.Protocol == virtualnet.UDP && d.Dst == a.probe.Src && at.of(a.probe) == a.probe.Link {
			a.answered = replied // the receiver's echo, on its way back
			return
		}
		if a.probe.Bridge != "" && at.bridge == a.probe.Bridge && at.link != a.probe.OutLink {
			return // a bridge sends what is for nobody it knows to every member that may have it
		}
		a.left = append(a.left, Sighting{Link: at.of(a.probe), Src: d.Src, Dst: netip.AddrPortFrom(d.Dst, d.DstPort),
			SourceAt: when})
		return
	}
	a, said := w.answerTo(at, d)
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.answered == silent {
		a.answered = said
	}
	if said == replied && d.Protocol == virtualnet.UDP && a.heard != nil {
		a.heard()
	}
}

// answerTo tells whose sender a packet answers, and what it says.
func (w *watch) answerTo(at place, d virtualnet.Dissection) (*attempt, answer) {
	switch d.Protocol {
	case virtualnet.TCP:
		a := w.flow(at, flowKey{src: d.Dst, dst: d.Src, protocol: profiles.TCP, port: d.SrcPort})
		if d.RST {
			return a, reset
		}
		if d.SYN && d.ACK {
			return a, replied
		}
	case virtualnet.UDP:
		return w.flow(at, flowKey{src: d.Dst, dst: d.Src, protocol: profiles.UDP, port: d.SrcPort}), replied
	case virtualnet.EchoReply:
		if len(d.Payload) >= tokenSize {
			if a := w.tokens[string(d.Payload[:tokenSize])]; a != nil && a.probe.Link == at.of(a.probe) && a.probe.Src == d.Dst {
				return a, replied
			}
		}
	case virtualnet.Unreachable:
		quoted, err := virtualnet.DissectPacket(d.Payload)
		if err != nil || quoted.Src != d.Dst {
			return nil, silent
		}
		key := flowKey{src: quoted.Src, dst: quoted.Dst, port: quoted.DstPort}
		switch quoted.Protocol {
		case virtualnet.TCP:
			key.protocol = profiles.TCP
		case virtualnet.UDP:
			key.protocol = profiles.UDP
		case virtualnet.EchoRequest:
			key.protocol = profiles.Ping
		}
		return w.flow(at, key), unreachableKind(d)
	}
	return nil, silent
}

// unreachableKind reads the codes of RFC 792, RFC 1812 section 5.2.7.1 and RFC 4443 section 3.1.
func unreachableKind(d virtualnet.Dissection) answer {
	if d.Src.Is6() {
		switch d.Code {
		case 1:
			return prohibited
		case 4:
			return portClosed
		}
		return unreachable
	}
	switch d.Code {
	case 3:
		return portClosed
	case 9, 10, 13:
		return prohibited
	}
	return unreachable
}

// String is a sighting for people.
func (s Sighting) String() string {
	if s.Dst.Port() == 0 {
		return fmt.Sprintf("%s to %s by %s", s.Src, s.Dst.Addr(), s.Link)
	}
	return fmt.Sprintf("%s to %s by %s", s.Src, s.Dst, s.Link)
}
