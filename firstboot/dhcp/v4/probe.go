package v4

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"rempart/firstboot/link/packet"
	"rempart/firstboot/onlink"
)

// How the network is asked: RFC 2131 section 3.1 step 2 wants an echo request; by ARP hosts answer that drop those. A
// client waits a second at least for an offer (RFC 2131 section 4.1 has four).
const (
	probeTimes = 2
	probeWait  = 200 * time.Millisecond
	// maxProbes bounds the addresses that are asked for at once on a link; more are offered without asking.
	maxProbes = 256
)

// Probes asks the network of the links that run it. Its zero value is not ready: see NewProbes.
type Probes struct {
	mu    sync.Mutex
	links map[string]*asker
}

// asker is the sockets of one link and what is asked there.
type asker struct {
	link    onlink.Link
	own     netip.Addr
	arp     *packet.Socket
	echo    net.PacketConn // nil: there is none
	waiting map[netip.Addr]func(by string)
}

// NewProbes returns a Prober for the links that Run is called for.
func NewProbes() *Probes { return &Probes{links: map[string]*asker{}} }

// Run lends a link to the probes until ctx is done. It needs CAP_NET_RAW.
func (p *Probes) Run(ctx context.Context, l onlink.Link, log *slog.Logger) error {
	if len(l.MAC) != etherLen {
		<-ctx.Done() // nobody can be asked here
		return nil
	}
	arp, err := packet.Open(l.Index, unix.ETH_P_ARP, []bpf.Instruction{bpf.RetConstant{Val: arpLen}})
	if err != nil {
		return err
	}
	defer arp.Close()
	a := &asker{link: l, own: source(l.Name), arp: arp, waiting: map[netip.Addr]func(string){}}
	if a.echo, err = listenEcho(ctx, l.Name); err != nil {
		log.Warn("addresses behind relay agents are offered without asking whether they are in use", "link", l.Name,
			"error", err)
	} else {
		defer a.echo.Close()
		go p.hearEchoes(a)
	}
	p.mu.Lock()
	p.links[l.Name] = a
	p.mu.Unlock()
	stop := context.AfterFunc(ctx, arp.Close)
	defer stop()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.links[l.Name] == a {
			delete(p.links, l.Name)
		}
	}()
	buf := make([]byte, arpLen)
	for {
		b, _, err := arp.Receive(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receiving ARP on %s: %w", l.Name, err)
		}
		if sender, ok := arpSender(b, l.MAC); ok {
			p.heard(a, sender, arpHardware(b))
		}
	}
}

func listenEcho(ctx context.Context, link string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), link) }); cerr != nil {
			return cerr
		}
		return os.NewSyscallError("binding to the link", err)
	}}
	return lc.ListenPacket(ctx, "ip4:icmp", "0.0.0.0")
}

// hearEchoes takes the answers to echo requests; the socket's end ends it.
func (p *Probes) hearEchoes(a *asker) {
	buf := make([]byte, maxMessage)
	for {
		n, from, err := a.echo.ReadFrom(buf)
		if err != nil {
			return
		}
		ip, ok := from.(*net.IPAddr)
		m, err := icmp.ParseMessage(int(protocolICMP), buf[:n])
		if !ok || err != nil || m.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		if sender := addr4(ip.IP); sender.IsValid() {
			p.heard(a, sender, byEcho)
		}
	}
}

// byEcho is who answered an echo request: of its hardware nothing is known.
const byEcho = "an echo reply"

const protocolICMP = 1

// heard tells who waits for an address that it is in use.
func (p *Probes) heard(a *asker, sender netip.Addr, by string) {
	p.mu.Lock()
	found := a.waiting[sender]
	p.mu.Unlock()
	if found != nil {
		found(by)
	}
}

// Probe asks whether somebody on a link has an address. Where nobody can be asked it is not in use.
func (p *Probes) Probe(link string, addr netip.Addr, local bool, done func(by string)) {
	answered := make(chan string, 1) // the first who does counts
	p.mu.Lock()
	a := p.links[link]
	if a == nil || len(a.waiting) >= maxProbes || a.waiting[addr] != nil || !local && a.echo == nil {
		p.mu.Unlock()
		go done("")
		return
	}
	a.waiting[addr] = func(by string) {
		select {
		case answered <- by:
		default:
		}
	}
	p.mu.Unlock()
	go func() {
		by := ""
		for range probeTimes {
			a.ask(addr, local)
			select {
			case by = <-answered:
			case <-time.After(probeWait):
			}
			if by != "" {
				break
			}
		}
		p.mu.Lock()
		delete(a.waiting, addr)
		p.mu.Unlock()
		done(by)
	}()
}

// ask sends one question. One that cannot be sent is as one that nobody answers.
func (a *asker) ask(addr netip.Addr, local bool) {
	if local {
		_ = a.arp.Send(arpRequest(a.link.MAC, a.own, addr), packet.Broadcast())
		return
	}
	b, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: os.Getpid() & 0xffff}}).Marshal(nil)
	if err == nil {
		_, _ = a.echo.WriteTo(b, &net.IPAddr{IP: addr.AsSlice()})
	}
}

// ARP over Ethernet (RFC 826).
const (
	arpLen = 28
	opAsk  = 1
)

// arpRequest asks who has an address, in our name where we have one: some hosts do not answer a probe without.
func arpRequest(mac net.HardwareAddr, own, target netip.Addr) []byte {
	if !own.IsValid() {
		own = netip.IPv4Unspecified()
	}
	b := make([]byte, 0, arpLen)
	b = binary.BigEndian.AppendUint16(b, ethernet)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = append(b, etherLen, 4)
	b = binary.BigEndian.AppendUint16(b, opAsk)
	b = append(append(b, mac...), own.AsSlice()...)
	return append(append(b, make([]byte, etherLen)...), target.AsSlice()...)
}

// arpSender is who says in an ARP packet, a reply or an announcement, that it has an address.
func arpSender(b []byte, own net.HardwareAddr) (netip.Addr, bool) {
	if len(b) < arpLen || binary.BigEndian.Uint16(b) != ethernet || binary.BigEndian.Uint16(b[2:]) != unix.ETH_P_IP ||
		b[4] != etherLen || b[5] != 4 || string(b[8:14]) == string(own) {
		return netip.Addr{}, false
	}
	sender := addr4(b[14:18])
	return sender, sender.IsValid()
}

// arpHardware is the hardware address that the sender of an ARP packet says it has; arpSender has taken the packet.
func arpHardware(b []byte) string { return net.HardwareAddr(b[8:14]).String() }
