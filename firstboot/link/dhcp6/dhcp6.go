// Package dhcp6 is a DHCPv6 client (RFC 8415) for one link of a firewall: it gets a prefix for the links inside, an
// address for the link itself, or both, and keeps them. What they mean for links is for the caller to apply.
//
// It trusts no server: every length is checked, an answer is only taken when it answers what was asked, and what it
// says is bounded (see judge): no prefix or address may touch the guest's other links, and none is taken for so short
// that the guest would ask without end. Its packets pass beside the filter, which needs no opening for them, and come
// from neighbours only.
//
// The link is known to servers by its hardware address, so nothing has to be kept for them to know it again; see duid.
//
// What it deliberately does not do: configure anything, give back at the end (a guest that restarts wants its prefix
// again), rapid commit (of two servers that answer both would have committed), Reconfigure and authentication (RFC
// 8415, section 20), temporary addresses, unicast to servers, and asking for configuration alone (routers say it too).
package dhcp6

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"rempart/firstboot/boottime"
	"rempart/firstboot/link/packet"
	"rempart/firstboot/link/turns"
)

// Config describes the link and who wants to know.
type Config struct {
	Index   int              // ifindex
	Name    string           // of the link
	MAC     net.HardwareAddr // Ethernet
	Prefix  bool             // a prefix is wanted
	Length  int              // of the prefix, in bits; 0: any
	Address bool             // an address is wanted
	// Ready tells the link-local address packets can be sent from; the zero address while there is none. The first
	// address starts the client. Closing it is not allowed.
	Ready    <-chan netip.Addr
	Restored *State                // what an earlier run was given; nil: nothing
	Inside   func() []netip.Prefix // subnets no answer may touch, asked at every answer; nil: none
	Changed  func(State)           // called in the client's goroutine with every new state
	Log      *slog.Logger
}

func (c *Config) inside() []netip.Prefix {
	if c.Inside == nil {
		return nil
	}
	return c.Inside()
}

const (
	macLen = 6 // bytes of an Ethernet address
	// believed is how many answers are read at once, and then one a second: a few servers answer one message.
	believed = 16
)

// Run keeps what is given until ctx is done, and then returns nil. It returns an error when the link cannot be used at
// all; calling it again may help.
func Run(ctx context.Context, cfg Config) error {
	if len(cfg.MAC) != macLen {
		return fmt.Errorf("DHCPv6 on %s: hardware address %q: want 6 bytes", cfg.Name, cfg.MAC)
	}
	sock, err := packet.Open(cfg.Index, unix.ETH_P_IPV6, answersOnly)
	if err != nil {
		return fmt.Errorf("DHCPv6 on %s: %w", cfg.Name, err)
	}
	defer sock.Close()
	c := client{
		cfg:     cfg,
		sock:    sock,
		machine: machine{cfg: &cfg, random: turns.Random()},
		limit:   turns.Complaints(),
		believe: rate.NewLimiter(rate.Every(time.Second), believed),
	}
	if cfg.Restored != nil {
		c.machine.restore(boottime.Now(), *cfg.Restored)
		c.perform()
	}
	return turns.Client[netip.Addr]{
		Name:    "DHCPv6 on " + cfg.Name,
		Receive: sock.Receive,
		Hear: func(b []byte, summed bool) func() {
			whole := slices.Clone(b)
			return func() { c.hear(whole, summed) }
		},
		Told:  cfg.Ready,
		Tell:  c.tell,
		Next:  func() time.Duration { return c.machine.next(boottime.Now()) },
		Timer: func() {}, // the machine looks at its times at every turn
		Perform: func() {
			c.machine.timer(boottime.Now())
			c.perform()
		},
	}.Run(ctx)
}

type client struct {
	cfg     Config
	sock    *packet.Socket
	machine machine
	from    netip.Addr
	limit   rate.Sometimes
	believe *rate.Limiter
}

func (c *client) tell(from netip.Addr) {
	if from != c.from {
		c.machine.down()
	}
	if c.from = from; from.IsValid() {
		c.machine.up(boottime.Now())
	}
}

// hear reads a packet for the machine. Only what answers the question under way counts against how much is believed: a
// flood of anything else must not drown the answers.
func (c *client) hear(b []byte, summed bool) {
	if payload, err := decode(b, c.from, summed); err != nil || !c.machine.awaits(payload) || !c.believe.Allow() {
		return
	}
	msg, err := parse(b, c.from, summed)
	if err != nil {
		c.cfg.Log.Debug("ignored a packet", "link", c.cfg.Name, "error", err)
		return
	}
	c.machine.answer(boottime.Now(), msg)
}

// parse reads a message of a server out of a packet.
func parse(b []byte, self netip.Addr, summed bool) (*dhcpv6.Message, error) {
	payload, err := decode(b, self, summed)
	if err != nil {
		return nil, err
	}
	if len(payload) == 0 || payload[0] != byte(dhcpv6.MessageTypeAdvertise) &&
		payload[0] != byte(dhcpv6.MessageTypeReply) {
		return nil, errNotForUs
	}
	return dhcpv6.MessageFromBytes(payload)
}

// perform does what the machine wants done.
func (c *client) perform() {
	for _, a := range c.machine.take() {
		switch {
		case a.send != nil:
			if err := c.sock.Send(encode(a.send, c.from), serversMAC); err != nil {
				// It will be sent again; a link that is just going down is the usual reason.
				c.cfg.Log.Debug("could not send", "link", c.cfg.Name, "error", err)
			}
		case a.state != nil:
			c.cfg.Changed(*a.state)
		case a.log != "":
			c.limit.Do(func() { c.cfg.Log.Warn("DHCPv6: "+a.log, "link", c.cfg.Name) })
		}
	}
}
