package dhcp6

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// Transmission parameters, RFC 8415 section 7.6.
const (
	solicitFirst  = time.Second
	solicitMost   = time.Hour
	requestFirst  = time.Second
	requestMost   = 30 * time.Second
	requestTries  = 10
	renewFirst    = 10 * time.Second
	renewMost     = 10 * time.Minute
	confirmFirst  = time.Second
	confirmMost   = 4 * time.Second
	confirmTime   = 10 * time.Second
	bestOfAll     = 255              // preference of an offer that no other is waited for
	unhappyRepeat = 30 * time.Second // between requests a server does not grant
)

// phase is what the client is doing.
type phase int

const (
	idle       phase = iota
	soliciting       // looking for servers
	requesting       // of one, what it offered
	bound            // it is ours, for now
	renewing         // asking who gave it
	rebinding        // asking everybody
	confirming       // asking whether this is still the network it is for
)

// machine is the client without sockets and clock: events in, actions out. Its methods are the events.
type machine struct {
	cfg    *Config
	random *rand.Rand
	clock  time.Duration // of the event at hand
	state  State
	told   State
	ready  bool
	phase  phase

	transaction dhcpv6.TransactionID
	kind        dhcpv6.MessageType // of the exchange under way
	began       time.Duration
	interval    time.Duration // the last between two messages; 0: the first is still to go out
	most        time.Duration
	tries       int
	send        time.Duration // when the next message goes out; 0: none
	best        *offer        // the best so far while soliciting, and what is requested
	server      []byte        // who is asked, when one is
	solicitMax  time.Duration
	out         []action
}

// action is what the machine wants done. Exactly one of its fields is set.
type action struct {
	send  []byte
	state *State
	log   string
}

func (m *machine) do(a action) { m.out = append(m.out, a) }

func (m *machine) take() []action {
	out := m.out
	m.out = nil
	return out
}

func (m *machine) note(text string) { m.do(action{log: text}) }

// restore starts with what an earlier run of this program was given. What another NIC was given counts nothing.
func (m *machine) restore(now time.Duration, s State) {
	m.clock = now
	if s.MAC == m.cfg.MAC.String() {
		m.state = s
		m.tell(now)
	}
}

// up is told when packets can be sent: now, and again after a flap. What was given is kept, and it is asked whether it
// still holds, because it may be another network (RFC 8415, section 18.2.12).
func (m *machine) up(now time.Duration) {
	m.clock = now
	if m.ready {
		return
	}
	m.ready = true
	m.state = m.state.Current(now)
	if !m.state.holds(now) {
		m.begin(now, soliciting)
		return
	}
	m.begin(now, confirming)
}

func (m *machine) down() { m.ready, m.phase, m.send = false, idle, 0 }

// begin starts an exchange, or waits for the next.
func (m *machine) begin(now time.Duration, p phase) {
	m.phase, m.began, m.interval, m.tries, m.send = p, now, 0, 0, now
	if p != requesting {
		m.best = nil
	}
	m.newTransaction()
	switch p {
	case soliciting:
		m.kind, m.most = dhcpv6.MessageTypeSolicit, max(m.solicitMax, time.Duration(0))
		if m.most == 0 {
			m.most = solicitMost
		}
	case requesting:
		m.kind, m.most = dhcpv6.MessageTypeRequest, requestMost
	case renewing:
		m.kind, m.most, m.server = dhcpv6.MessageTypeRenew, renewMost, m.state.Server
	case rebinding:
		m.kind, m.most = dhcpv6.MessageTypeRebind, renewMost
	case confirming:
		m.kind, m.most = dhcpv6.MessageTypeConfirm, confirmMost
		if m.cfg.Prefix { // of a prefix nobody can tell but who delegates it
			m.kind = dhcpv6.MessageTypeRebind
		}
	default:
		m.send = 0
	}
}

// first is the first interval of an exchange.
func (m *machine) first() time.Duration {
	switch m.phase {
	case renewing, rebinding:
		return renewFirst
	case requesting:
		return requestFirst
	case confirming:
		return confirmFirst
	default:
		return solicitFirst
	}
}

// transmit sends the message of the exchange and says when again: RFC 8415, section 15.
func (m *machine) transmit(now time.Duration) {
	m.do(action{send: m.compose(m.kind, now-m.began)})
	m.tries++
	jitter := func(d time.Duration) time.Duration { // a tenth either way
		return d - d/10 + time.Duration(m.random.Int64N(int64(d/5)+1))
	}
	switch {
	case m.interval == 0 && m.phase == soliciting: // longer than the first interval, so that all can answer
		m.interval = solicitFirst + time.Duration(m.random.Int64N(int64(solicitFirst/10)))
	case m.interval == 0:
		m.interval = jitter(m.first())
	default:
		m.interval += jitter(m.interval)
	}
	if m.interval > m.most {
		m.interval = jitter(m.most)
	}
	m.send = now + m.interval
}

// next is when timer shall be called; 0: never.
func (m *machine) next(now time.Duration) (at time.Duration) {
	look := func(t time.Duration) {
		if t > 0 && (at == 0 || t < at) {
			at = t
		}
	}
	look(m.state.next(now))
	look(m.send)
	switch m.phase {
	case bound:
		look(m.state.Renew)
	case renewing:
		look(m.state.Rebind)
	case confirming:
		look(m.began + confirmTime)
	}
	return at
}

// timer is told when next has come.
func (m *machine) timer(now time.Duration) {
	m.clock = now
	m.tell(now)
	if !m.ready {
		return
	}
	switch m.phase {
	case bound:
		if now >= m.state.Renew {
			m.begin(now, renewing)
		}
	case renewing:
		if now >= m.state.Rebind {
			m.begin(now, rebinding)
		}
	case confirming:
		if now >= m.began+confirmTime { // nobody says otherwise: it is used as long as it lasts (18.2.3)
			m.begin(now, bound)
		}
	case requesting:
		if m.tries >= requestTries && now >= m.send {
			m.begin(now, soliciting)
		}
	case soliciting:
		if m.best != nil && now >= m.send {
			m.server = m.best.server
			m.begin(now, requesting)
		}
	}
	if (m.phase == bound || m.phase == renewing || m.phase == rebinding) && !m.state.holds(now) {
		m.note("what was delegated or given has ended without being extended")
		m.begin(now, soliciting)
	}
	if m.send != 0 && now >= m.send {
		m.transmit(now)
	}
}

// tell says what holds, when that is news.
func (m *machine) tell(now time.Duration) {
	m.state = m.state.Current(now)
	m.state.MAC = m.cfg.MAC.String()
	if !reflect.DeepEqual(m.state, m.told) {
		s := m.state.Current(now) // a copy
		m.told = s
		m.do(action{state: &s})
	}
}

// awaits tells whether a message is of the exchange under way, by its transaction alone (RFC 8415, section 8).
func (m *machine) awaits(message []byte) bool {
	return m.ready && m.send != 0 && len(message) >= 4 && bytes.Equal(message[1:4], m.transaction[:])
}

// answer is told every message of a server. What does not belong to the exchange under way is ignored.
func (m *machine) answer(now time.Duration, msg *dhcpv6.Message) {
	m.clock = now
	id := msg.Options.ClientID()
	if !m.ready || msg.TransactionID != m.transaction || id == nil || m.send == 0 ||
		!bytes.Equal(id.ToBytes(), duid(m.cfg.MAC).ToBytes()) {
		return
	}
	o := judge(msg, m.cfg.inside())
	if len(o.server) == 0 || len(o.server) > maxDUID {
		return
	}
	for _, c := range o.complaints {
		m.note(c)
	}
	if o.maxInterval != 0 {
		m.solicitMax = o.maxInterval
	}
	switch {
	case m.phase == soliciting && msg.MessageType == dhcpv6.MessageTypeAdvertise:
		m.offered(now, o)
	case m.phase != soliciting && msg.MessageType == dhcpv6.MessageTypeReply:
		m.replied(now, o)
	}
}

// offered keeps the best offer until the first interval is over, RFC 8415 section 18.2.9.
func (m *machine) offered(now time.Duration, o *offer) {
	if !o.useful(m.cfg) {
		return
	}
	if m.best == nil || o.preference > m.best.preference {
		m.best = o
	}
	if m.tries > 1 || o.preference == bestOfAll {
		m.send = now
		m.timer(now)
	}
}

// replied takes what was granted, RFC 8415 section 18.2.10.
func (m *machine) replied(now time.Duration, o *offer) {
	asked := m.phase == renewing || m.phase == requesting
	switch {
	case asked && !bytes.Equal(o.server, m.server):
		return
	case o.failed != "":
		m.note(o.failed)
		return // asked again later
	case m.phase == confirming && m.kind == dhcpv6.MessageTypeConfirm && !o.notOnLink:
		m.begin(now, bound)
		return
	case o.notOnLink:
		m.note("this is another network than what was given is for")
		for i := range m.state.Prefixes { // hosts inside leave it
			m.state.Prefixes[i].Preferred = min(m.state.Prefixes[i].Preferred, now)
		}
		m.state.Addresses = nil
		m.tell(now)
		m.begin(now, soliciting)
		return
	case o.noBinding && m.phase != requesting && !o.useful(m.cfg):
		m.server = o.server // which may still give it to us (section 18.2.10.1)
		m.begin(now, requesting)
		m.best = nil
		m.timer(now)
		return
	}
	if m.phase == requesting && !o.useful(m.cfg) {
		m.best, m.send = nil, max(m.send, now+unhappyRepeat)
		m.phase, m.kind, m.interval = soliciting, dhcpv6.MessageTypeSolicit, unhappyRepeat
		m.newTransaction()
		return
	}
	lost := slices.ContainsFunc(o.prefixes, func(l lifetimes) bool { return l.valid == 0 }) && !o.useful(m.cfg)
	if len(o.prefixes)+len(o.addresses) == 0 {
		return // it says nothing of what we hold: asked again later
	}
	m.state = m.state.merge(now, o)
	m.tell(now)
	if lost && !m.state.holds(now) {
		m.begin(now, soliciting)
		m.send = now + unhappyRepeat
		return
	}
	m.begin(now, bound)
}
