// Package slaac is the host side of IPv6 router discovery and stateless address autoconfiguration (RFC 4861, RFC 4862,
// RFC 4191, RFC 7559, RFC 8106) for one link of a firewall. What the routers say is for the caller to apply.
//
// The kernel has such a client, and it stays off (accept_ra=0) on every link, for four reasons. It believes what any
// neighbour says: a prefix of the guest's inside network, advertised outside, would draw the inside's traffic out, and
// a hop limit of 1 would cut the guest off. It knows nothing of name servers. It makes addresses and routes by itself,
// which then cannot be told from somebody else's. And on a router it needs accept_ra=2, one more way in which a switch
// can be set wrong. Here every advertisement is read beside the packet filter, which keeps dropping them, and becomes
// part of what is wanted of the link, as a DHCP lease does.
//
// Addresses are the modified EUI-64 of the NIC's, not the stable opaque ones of RFC 7217: a firewall's outer address is
// meant to be known before it starts, in the zone files and rules of others, and to survive a reprovisioned state disk,
// on which the secret of opaque ones would be. The reasons against EUI-64 do not count here: the guest does not roam,
// and its MAC names no vendor but that it is virtual.
//
// What it deliberately does not do: hop limits, reachable times and retransmission timers (the kernel's are right),
// routes other than the default (RFC 4191 type C), temporary addresses (RFC 8981), DHCPv6, and secured discovery.
package slaac

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"rempart/firstboot/boottime"
	"rempart/firstboot/link/packet"
	"rempart/firstboot/link/turns"
)

// Config describes the link and who wants to know.
type Config struct {
	Index int              // ifindex
	Name  string           // of the link
	MAC   net.HardwareAddr // Ethernet
	// Ready tells the link-local address packets can be sent from; the zero address while there is none. The first
	// address starts the client. Closing it is not allowed.
	Ready    <-chan netip.Addr
	Restored *State                // what an earlier run heard; nil: nothing
	Inside   func() []netip.Prefix // subnets no prefix may touch, asked at every advertisement; nil: none
	Routers  []netip.Addr          // the only ones to be believed; empty: all
	Prefixes []netip.Prefix        // what prefixes must be in; empty: anything
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
	// believed is how many advertisements are read at once, and then one a second: routers send one in three seconds
	// at most (RFC 4861, section 10: MIN_DELAY_BETWEEN_RAS).
	believed = 16
)

// advertsOnly lets ICMPv6 of that type through, when no extension header stands before it: RFC 6980 forbids the one
// that an attacker would hide behind, and no router sends the others.
var advertsOnly = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 6, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protocolICMP6, SkipTrue: 5},
	bpf.LoadAbsolute{Off: 7, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: hopLimit, SkipTrue: 3},
	bpf.LoadAbsolute{Off: ipHeader, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: typeAdvert, SkipTrue: 1},
	bpf.RetConstant{Val: maxPacket},
	bpf.RetConstant{Val: 0},
}

// Run listens until ctx is done, and then returns nil. It returns an error when the link cannot be used at all; calling
// it again may help.
func Run(ctx context.Context, cfg Config) error {
	if len(cfg.MAC) != macLen {
		return fmt.Errorf("autoconfiguration on %s: hardware address %q: want 6 bytes", cfg.Name, cfg.MAC)
	}
	sock, err := packet.Open(cfg.Index, unix.ETH_P_IPV6, advertsOnly)
	if err != nil {
		return fmt.Errorf("autoconfiguration on %s: %w", cfg.Name, err)
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
	}
	return turns.Client[netip.Addr]{
		Name:    "autoconfiguration on " + cfg.Name,
		Receive: sock.Receive,
		Hear:    c.hear,
		Told:    cfg.Ready,
		Tell:    c.tell,
		Next:    func() time.Duration { return c.machine.next(boottime.Now()) },
		Timer:   func() { c.machine.timer(boottime.Now()) },
		Perform: c.perform,
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
	c.from = from
	if from.IsValid() {
		c.machine.up(boottime.Now())
	} else {
		c.machine.down()
	}
}

// hear reads an advertisement, and leaves the rest of a flood: a router repeats what it said.
func (c *client) hear(b []byte, summed bool) func() {
	if !c.believe.Allow() {
		return nil
	}
	a, err := parse(b, summed)
	if err != nil {
		c.cfg.Log.Debug("ignored a packet", "link", c.cfg.Name, "error", err)
		return nil
	}
	return func() { c.machine.advert(boottime.Now(), a) }
}

// perform does what the machine wants done.
func (c *client) perform() {
	for _, a := range c.machine.take() {
		switch {
		case a.solicit:
			if err := c.sock.Send(solicit(c.from, c.cfg.MAC), allRoutersMAC); err != nil {
				// It will be sent again; a link that is just going down is the usual reason.
				c.cfg.Log.Debug("could not send", "link", c.cfg.Name, "error", err)
			}
		case a.state != nil:
			c.cfg.Changed(*a.state)
		case a.log != "":
			c.limit.Do(func() { c.cfg.Log.Warn("autoconfiguration: "+a.log, "link", c.cfg.Name) })
		}
	}
}
