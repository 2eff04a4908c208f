// Package dhcp4 is a DHCPv4 client (RFC 2131) for one link of a firewall. It gets a lease and keeps it; what the
// lease means for the link is for the caller to apply.
//
// It trusts no server: every length is checked, an answer is only taken when it answers what was asked, and what it
// says is bounded (see parseLease): no address or route may touch the guest's other links.
//
// What it deliberately does not do: configure anything, release a lease at the end (a guest that restarts wants its
// address back), INFORM, authentication (RFC 3118), rapid commit, and defending an address after it was taken.
package dhcp4

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"rempart/firstboot/boottime"
	"rempart/firstboot/link/turns"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/time/rate"
)

// Config describes the link and who wants to know.
type Config struct {
	Index    int              // ifindex
	Name     string           // of the link, as the kernel knows it now
	MAC      net.HardwareAddr // Ethernet
	HostName string           // told to servers (option 12); empty: none
	ClientID string           // what servers know the client by (option 61); empty: its hardware address
	Servers  []netip.Addr     // the only ones whose answers are taken; empty: all
	// Carrier tells when the link can carry packets; the first value starts the client. Closing it is not allowed.
	Carrier <-chan bool
	// Restored is a lease of an earlier run. One that has ended only serves as a wish; nil: none.
	Restored *Lease
	// Inside lists the subnets no answer may touch; it is asked at every answer. nil: none.
	Inside func() []netip.Prefix
	// Changed is called in the client's goroutine with every new state of the lease; nil: there is none (any more).
	Changed func(*Lease)
	// MinLease is the shortest time a lease is held; 0: DefaultMinLease.
	MinLease time.Duration
	Log      *slog.Logger
}

func (c *Config) inside() []netip.Prefix {
	if c.Inside == nil {
		return nil
	}
	return c.Inside()
}

func (c *Config) minLease() time.Duration {
	if c.MinLease > 0 {
		return c.MinLease
	}
	return DefaultMinLease
}

// Run keeps a lease until ctx is done, and then returns nil without giving the lease up. It returns an error when the
// link cannot be used at all; calling it again may help.
func Run(ctx context.Context, cfg Config) error {
	if len(cfg.MAC) != macLen {
		return fmt.Errorf("dhcp on %s: hardware address %q: want 6 bytes", cfg.Name, cfg.MAC)
	}
	sock, err := openSocket(cfg.Index, cfg.Name)
	if err != nil {
		return fmt.Errorf("dhcp on %s: %w", cfg.Name, err)
	}
	defer sock.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := client{
		cfg:     cfg,
		sock:    sock,
		machine: machine{cfg: &cfg, random: turns.Random()},
		done:    make(chan func(), 1),
		limit:   turns.Complaints(),
	}
	if cfg.Restored != nil {
		c.machine.restore(boottime.Now(), *cfg.Restored)
	}
	return turns.Client[bool]{
		Name:    "dhcp on " + cfg.Name,
		Receive: sock.receive,
		Hear:    c.hear,
		Told:    cfg.Carrier,
		Tell:    c.tell,
		Done:    c.done,
		Next:    func() time.Duration { return c.machine.next },
		Timer:   func() { c.machine.timer(boottime.Now()) },
		Perform: func() { c.perform(ctx) },
	}.Run(ctx)
}

type client struct {
	cfg     Config
	sock    *socket
	machine machine
	done    chan func() // what ended beside the client
	limit   rate.Sometimes
}

func (c *client) tell(carrier bool) {
	if carrier {
		c.machine.carrierUp(boottime.Now())
	} else {
		c.machine.carrierDown()
	}
}

// hear hands on every well-formed DHCP message.
func (c *client) hear(packet []byte, summed bool) func() {
	msg, err := message(packet, summed)
	if err != nil {
		c.cfg.Log.Debug("ignored a packet", "link", c.cfg.Name, "error", err)
		return nil
	}
	return func() { c.machine.answer(boottime.Now(), msg) }
}

// message is all that is done with outside bytes before the machine sees them.
func message(packet []byte, summed bool) (*dhcpv4.DHCPv4, error) {
	payload, _, err := decode(packet, summed)
	if err != nil {
		return nil, err
	}
	msg, err := dhcpv4.FromBytes(payload)
	if err != nil {
		return nil, fmt.Errorf("DHCP message: %w", err)
	}
	return msg, nil
}

// perform does what the machine wants done.
func (c *client) perform(ctx context.Context) {
	for _, a := range c.machine.take() {
		switch {
		case a.send != nil:
			if err := c.transmit(a); err != nil {
				// It will be sent again; a link that is just going down is the usual reason.
				c.cfg.Log.Debug("could not send", "link", c.cfg.Name, "error", err)
			}
		case a.probe.IsValid():
			go func() {
				conflict, err := probe(ctx, c.cfg.Index, c.cfg.MAC, a.probe)
				if err != nil {
					c.cfg.Log.Debug("could not probe", "link", c.cfg.Name, "address", a.probe, "error", err)
				}
				select {
				case c.done <- func() { c.machine.probed(boottime.Now(), conflict) }:
				case <-ctx.Done():
				}
			}()
		case a.announce.IsValid():
			if err := announce(c.cfg.Index, c.cfg.MAC, a.announce); err != nil {
				c.cfg.Log.Debug("could not announce", "link", c.cfg.Name, "address", a.announce, "error", err)
			}
		case a.lease != nil:
			c.cfg.Log.Debug("lease", "link", c.cfg.Name, "address", a.lease.Address, "server", a.lease.Server,
				"for", (a.lease.Expires - boottime.Now()).Round(time.Second))
			c.cfg.Changed(a.lease)
		case a.lost != "":
			c.cfg.Log.Warn("lost the lease", "link", c.cfg.Name, "because", a.lost)
			c.cfg.Changed(nil)
		case a.log != "":
			c.limit.Do(func() { c.cfg.Log.Warn("dhcp: "+a.log, "link", c.cfg.Name) })
		}
	}
}

func (c *client) transmit(a action) error {
	if !a.to.IsValid() {
		return c.sock.broadcast(encode(a.send, netip.IPv4Unspecified(), broadcastAddr))
	}
	return unicastSend(c.cfg.Name, encode(a.send, c.machine.lease.Address.Addr(), a.to), a.to)
}

var broadcastAddr = netip.AddrFrom4([4]byte{255, 255, 255, 255})
