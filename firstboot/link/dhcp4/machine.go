package dhcp4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// state is a state of the client in RFC 2131 section 4.4, figure 5. INIT and INIT-REBOOT are left at once, so they
// are no states here.
type state int

const (
	stopped    state = iota // no carrier and no lease
	waiting                 // before the next discovery, after a NAK or a conflict
	selecting               // discover sent
	requesting              // an offer taken, request sent
	probing                 // acknowledged; asking by ARP whether somebody has the address
	bound
	renewing
	rebinding
	rebooting // a lease from before is being confirmed
)

func (s state) String() string {
	return [...]string{"stopped", "waiting", "selecting", "requesting", "probing", "bound", "renewing", "rebinding",
		"rebooting"}[s]
}

// Times of the exchange.
const (
	// firstInterval is a quarter of what RFC 2131 section 4.1 suggests: at boot the first packet is often lost while a
	// bridge learns, and the guest waits for it.
	firstInterval = 1 * time.Second
	maxInterval   = 64 * time.Second // RFC 2131 section 4.1
	requestTries  = 4
	rebootTries   = 3
	// declinePause is the wait after a conflict (RFC 2131 section 3.1, step 5).
	declinePause = 10 * time.Second
	// retryShare and maxRetry space the requests of renewing and rebinding: half the time left (RFC 2131 section
	// 4.4.5), but neither more often than a minute, nor, for leases too short for that, a sixteenth of the lease.
	retryShare = 16
	maxRetry   = time.Minute
)

// action is what the machine wants done. Exactly one of its fields is set.
type action struct {
	send     []byte     // DHCP message
	to       netip.Addr // with send: unicast to this server; zero: broadcast
	probe    netip.Addr // ask by ARP whether somebody has it, then call probed
	announce netip.Addr // tell the neighbours by ARP
	lease    *Lease     // this holds now
	lost     string     // the lease is gone, and why
	log      string     // something an operator may want to know
}

// machine is the client without sockets and clock: events in, actions out. Its methods are the events.
type machine struct {
	cfg      *Config
	random   *rand.Rand
	state    state
	carrier  bool
	xid      dhcpv4.TransactionID
	began    time.Duration // of this exchange, or of the last request of it where the answer sets the lease's start
	interval time.Duration // until the next retransmission, before jitter
	tries    int
	next     time.Duration // when timer shall be called; 0: never
	offer    Lease         // requesting, probing
	lease    *Lease
	last     netip.Addr // the last address held, to be asked for again
	naks     int        // in a row
	out      []action
}

func (m *machine) do(a action) { m.out = append(m.out, a) }

func (m *machine) take() []action {
	out := m.out
	m.out = nil
	return out
}

// restore starts with a lease from an earlier run of this program. One of another NIC counts nothing.
func (m *machine) restore(now time.Duration, l Lease) {
	if l.MAC != m.cfg.MAC.String() {
		return
	}
	if l.Expires <= now {
		m.last = l.Address.Addr()
		return
	}
	m.lease = &l
	m.next = l.Expires
	m.do(action{lease: &l})
}

// carrierUp and carrierDown are told when the cable, or what stands for it, comes and goes. A lease is kept without
// carrier and confirmed when it is back: it may be another network.
func (m *machine) carrierUp(now time.Duration) {
	if m.carrier {
		return
	}
	m.carrier = true
	if m.lease != nil && m.lease.Expires > now {
		m.begin(now, rebooting)
		return
	}
	m.begin(now, selecting)
}

func (m *machine) carrierDown() {
	if !m.carrier {
		return
	}
	m.carrier = false
	m.state, m.next = stopped, 0
	if m.lease != nil {
		m.state, m.next = bound, m.lease.Expires
	}
}

// begin enters a state that sends.
func (m *machine) begin(now time.Duration, s state) {
	m.state, m.tries, m.interval = s, 0, firstInterval
	if s != requesting { // a request goes on with the xid of the offer
		m.newXID()
	}
	m.began = now
	m.send(now)
}

func (m *machine) newXID() {
	x := m.random.Uint32()
	m.xid = dhcpv4.TransactionID{byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x)}
}

// send sends what the state sends and sets the timer for sending it again.
func (m *machine) send(now time.Duration) {
	r := request{xid: m.xid, secs: now - m.began, kind: dhcpv4.MessageTypeRequest}
	var to netip.Addr
	switch m.state {
	case selecting:
		r.kind = dhcpv4.MessageTypeDiscover
		r.requested = m.last
	case requesting:
		r.requested, r.server = m.offer.Address.Addr(), m.offer.Server
	case rebooting:
		r.requested = m.lease.Address.Addr()
	case renewing:
		r.client, to = m.lease.Address.Addr(), m.lease.Server
	case rebinding:
		r.client = m.lease.Address.Addr()
	}
	m.do(action{send: m.cfg.build(r), to: to})
	m.tries++
	switch m.state {
	case renewing:
		m.next = min(now+m.retry(m.lease.Rebind-now), m.lease.Rebind)
	case rebinding:
		m.next = now + m.retry(m.lease.Expires-now)
	default:
		// RFC 2131 section 4.1 adds up to a second either way to four; a quarter is the same share.
		m.next = now + m.interval*3/4 + time.Duration(m.random.Int64N(int64(m.interval/2)))
		m.interval = min(2*m.interval, maxInterval)
	}
	if m.lease != nil {
		m.next = min(m.next, m.lease.Expires)
	}
}

func (m *machine) retry(left time.Duration) time.Duration {
	least := min((m.lease.Expires-m.lease.Obtained)/retryShare, maxRetry)
	return max(left/2, least, time.Second)
}

// timer is told when next has come.
func (m *machine) timer(now time.Duration) {
	if m.next == 0 || now < m.next {
		return
	}
	m.next = 0
	if m.lease != nil && now >= m.lease.Expires {
		m.drop("it ended and no server renewed it")
		m.state = stopped
		if m.carrier {
			m.begin(now, selecting)
		}
		return
	}
	switch m.state {
	case waiting:
		m.begin(now, selecting)
	case selecting:
		m.send(now)
	case requesting:
		if m.tries >= requestTries {
			m.begin(now, selecting)
			return
		}
		m.send(now)
	case rebooting:
		if m.tries >= rebootTries {
			// Nobody answers: RFC 2131 section 3.2 allows to go on with a lease that has not ended.
			m.hold()
			return
		}
		m.resend(now)
	case bound:
		if !m.carrier {
			m.next = m.lease.Expires
			return
		}
		m.begin(now, renewing)
	case renewing:
		if now >= m.lease.Rebind {
			m.begin(now, rebinding)
			return
		}
		m.resend(now)
	case rebinding:
		m.resend(now)
	}
}

// resend asks again in an exchange of its own, so that the answer tells which request it answers, and with that when
// the lease began.
func (m *machine) resend(now time.Duration) {
	m.newXID()
	m.began = now
	m.send(now)
}

// hold rests until T1.
func (m *machine) hold() { m.state, m.next = bound, m.lease.Renew }

func (m *machine) drop(why string) {
	m.last = m.lease.Address.Addr()
	m.lease = nil
	m.do(action{lost: why})
}

// pause waits before the next discovery.
func (m *machine) pause(now, length time.Duration) {
	m.state, m.next = waiting, now+length
}

// answer is told every DHCP message that reached the client's port. It ignores what is not an answer to what it
// asked.
func (m *machine) answer(now time.Duration, msg *dhcpv4.DHCPv4) {
	if msg.OpCode != dhcpv4.OpcodeBootReply || msg.TransactionID != m.xid ||
		!bytes.Equal(msg.ClientHWAddr, m.cfg.MAC) {
		return
	}
	kind := msg.Options.Get(dhcpv4.OptionDHCPMessageType)
	if len(kind) != 1 {
		return
	}
	switch dhcpv4.MessageType(kind[0]) {
	case dhcpv4.MessageTypeOffer:
		m.offered(now, msg)
	case dhcpv4.MessageTypeAck:
		m.acknowledged(now, msg)
	case dhcpv4.MessageTypeNak:
		m.refused(now, msg)
	}
}

// read parses an answer and says why it is not taken.
func (m *machine) read(msg *dhcpv4.DHCPv4) (Lease, bool) {
	l, err := parseLease(msg, m.cfg.inside(), m.cfg.minLease(), m.began)
	l.MAC = m.cfg.MAC.String()
	if err == nil && len(m.cfg.Servers) > 0 && !slices.Contains(m.cfg.Servers, l.Server) {
		err = refuse("the profile names other servers")
	}
	if err != nil {
		m.do(action{log: fmt.Sprintf("answer from %s %v", server(msg), err)})
	}
	return l, err == nil
}

func server(msg *dhcpv4.DHCPv4) string {
	if a, err := serverID(msg); err == nil {
		return a.String()
	}
	return "an unnamed server"
}

func (m *machine) offered(now time.Duration, msg *dhcpv4.DHCPv4) {
	if m.state != selecting {
		return
	}
	// The first offer that can be taken is taken; what cannot be is as if it had not come.
	if l, ok := m.read(msg); ok {
		m.offer = l
		m.begin(now, requesting)
	}
}

func (m *machine) acknowledged(now time.Duration, msg *dhcpv4.DHCPv4) {
	var asked netip.Addr
	switch m.state {
	case requesting:
		asked = m.offer.Address.Addr()
	case renewing, rebinding, rebooting:
		asked = m.lease.Address.Addr()
	default:
		return
	}
	l, ok := m.read(msg)
	switch {
	case !ok:
		return
	case l.Address.Addr() != asked:
		m.do(action{log: fmt.Sprintf("server %s acknowledged %s, but %s was asked for", l.Server, l.Address.Addr(), asked)})
		return
	case m.state == requesting && l.Server != m.offer.Server, m.state == renewing && l.Server != m.lease.Server:
		return
	}
	if m.lease == nil {
		m.offer = l
		m.state, m.next = probing, 0
		m.do(action{probe: l.Address.Addr()})
		return
	}
	m.bind(l)
}

func (m *machine) bind(l Lease) {
	for _, n := range l.Notes {
		m.do(action{log: fmt.Sprintf("left out of the lease from %s: %s", l.Server, n)})
	}
	m.naks = 0
	m.lease = &l
	m.last = l.Address.Addr()
	m.do(action{lease: &l})
	m.hold()
}

// probed is told whether another host answered for the acknowledged address.
func (m *machine) probed(now time.Duration, conflict bool) {
	if m.state != probing {
		return
	}
	if conflict {
		m.do(action{log: fmt.Sprintf("another host already has %s, which server %s gave us; declined",
			m.offer.Address.Addr(), m.offer.Server)})
		m.newXID()
		m.do(action{send: m.cfg.build(request{
			kind: dhcpv4.MessageTypeDecline, xid: m.xid, requested: m.offer.Address.Addr(), server: m.offer.Server,
			message: "address in use",
		})})
		m.last = netip.Addr{}
		m.pause(now, declinePause)
		return
	}
	m.bind(m.offer)
	m.do(action{announce: m.offer.Address.Addr()})
}

func (m *machine) refused(now time.Duration, msg *dhcpv4.DHCPv4) {
	from, err := serverID(msg)
	if err != nil || len(m.cfg.Servers) > 0 && !slices.Contains(m.cfg.Servers, from) {
		return
	}
	switch m.state {
	case requesting:
		if from != m.offer.Server {
			return
		}
	case renewing:
		if from != m.lease.Server {
			return
		}
	case rebinding, rebooting:
	default:
		return
	}
	if m.lease != nil {
		m.drop(fmt.Sprintf("server %s refused it", from))
	}
	m.last = netip.Addr{}
	// A server that refuses everything is asked less and less often.
	length := min(firstInterval<<min(m.naks, 6), maxInterval)
	m.naks++
	m.pause(now, length)
}
