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
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
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

// Now is the clock of leases: CLOCK_BOOTTIME, the same for every process until the next boot.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // cannot fail on Linux since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// maxSleep bounds how long a timer of the Go runtime is trusted: it stands still while the guest sleeps, and
// CLOCK_BOOTTIME does not.
const maxSleep = 30 * time.Second

// complaints bounds how often a server can make the guest write to its log.
const complaints = 10 * time.Second

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

	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never fails (crypto/rand)
	c := client{
		cfg:     cfg,
		sock:    sock,
		machine: machine{cfg: &cfg, random: rand.New(rand.NewChaCha8(seed))},
		probed:  make(chan bool, 1),
		limit:   rate.Sometimes{First: 3, Interval: complaints},
	}
	return c.run(ctx)
}

type client struct {
	cfg     Config
	sock    *socket
	machine machine
	probed  chan bool
	limit   rate.Sometimes
}

func (c *client) run(ctx context.Context) error {
	answers := make(chan *dhcpv4.DHCPv4, 8)
	broken := make(chan error, 1)
	go func() { broken <- c.listen(ctx, answers) }()

	if c.cfg.Restored != nil {
		c.machine.restore(Now(), *c.cfg.Restored)
		c.perform(ctx)
	}
	timer := time.NewTimer(maxSleep)
	defer timer.Stop()
	for {
		wait := maxSleep
		if next := c.machine.next; next != 0 {
			wait = min(max(next-Now(), 0), maxSleep)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return fmt.Errorf("dhcp on %s: receiving: %w", c.cfg.Name, err)
		case up := <-c.cfg.Carrier:
			if up {
				c.machine.carrierUp(Now())
			} else {
				c.machine.carrierDown()
			}
		case msg := <-answers:
			c.machine.answer(Now(), msg)
		case conflict := <-c.probed:
			c.machine.probed(Now(), conflict)
		case <-timer.C:
			c.machine.timer(Now())
		}
		c.perform(ctx)
	}
}

// listen hands on every well-formed DHCP message until the socket is closed.
func (c *client) listen(ctx context.Context, answers chan<- *dhcpv4.DHCPv4) error {
	buf := make([]byte, maxPacket)
	for {
		packet, summed, err := c.sock.receive(buf)
		if errors.Is(err, os.ErrClosed) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		msg, err := message(packet, summed)
		if err != nil {
			c.cfg.Log.Debug("ignored a packet", "link", c.cfg.Name, "error", err)
			continue
		}
		select {
		case answers <- msg:
		case <-ctx.Done():
			return nil
		}
	}
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
				case c.probed <- conflict:
				case <-ctx.Done():
				}
			}()
		case a.announce.IsValid():
			if err := announce(c.cfg.Index, c.cfg.MAC, a.announce); err != nil {
				c.cfg.Log.Debug("could not announce", "link", c.cfg.Name, "address", a.announce, "error", err)
			}
		case a.lease != nil:
			c.cfg.Log.Debug("lease", "link", c.cfg.Name, "address", a.lease.Address, "server", a.lease.Server,
				"for", (a.lease.Expires - Now()).Round(time.Second))
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
