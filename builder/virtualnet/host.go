package virtualnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// nic is the one interface every host has.
const nic tcpip.NICID = 1

const (
	etherMTU  = 1500     // bytes of payload
	hostQueue = 512      // frames a host may have waiting to leave
	etherHead = minFrame // bytes the Ethernet header adds
	linkMTU   = etherMTU + etherHead
)

// Host is a computer on a segment.
type Host struct {
	Name  string
	MAC   net.HardwareAddr
	stack *stack.Stack
	link  *channel.Endpoint
	stop  context.CancelFunc
}

// Route is where a host sends what is for Prefix: to Via, or to the link itself where Via is the zero Addr.
type Route struct {
	Prefix netip.Prefix
	Via    netip.Addr
}

// neighbourProbes is how often a host asks for a neighbour's hardware address, once a second (RFC 4861 10, which asks
// three times), before it tells who sends that there is no such host: a guest on a busy machine may take its time.
const neighbourProbes = 60

// NewHost puts a host on the segment. Each address comes with the prefix that is on the link; use a full-length
// prefix for an address that only this host knows of.
func (s *Segment) NewHost(name string, mac net.HardwareAddr, addresses []netip.Prefix) (*Host, error) {
	neighbours := stack.DefaultNUDConfigurations()
	neighbours.MaxMulticastProbes = neighbourProbes
	st := stack.New(stack.Options{
		NUDConfigs: neighbours,
		NetworkProtocols: []stack.NetworkProtocolFactory{arp.NewProtocol, ipv4.NewProtocol,
			ipv6.NewProtocolWithOptions(ipv6.Options{
				// Neighbour discovery of some systems insists on a link-local address; without duplicate
				// address detection all addresses work at once.
				AutoGenLinkLocal: true,
				DADConfigs:       stack.DADConfigurations{DupAddrDetectTransmits: 0},
			})},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol,
			icmp.NewProtocol4, icmp.NewProtocol6},
	})
	ctx, cancel := context.WithCancel(context.Background())
	h := &Host{Name: name, MAC: mac, stack: st, stop: cancel,
		link: channel.New(hostQueue, linkMTU, tcpip.LinkAddress(mac))}
	fail := func(what string, err tcpip.Error) (*Host, error) {
		cancel()
		return nil, fmt.Errorf("host %s on %s: %s: %s", name, s.Name, what, err)
	}
	if err := st.CreateNIC(nic, ethernet.New(h.link)); err != nil {
		return fail("interface", err)
	}
	for _, a := range addresses {
		if err := h.AddAddress(a); err != nil {
			cancel()
			return nil, fmt.Errorf("host %s on %s: %w", name, s.Name, err)
		}
	}
	p := &port{deliver: h.receive}
	s.attach(p)
	s.wait.Add(1)
	go func() {
		defer s.wait.Done()
		for {
			pkt := h.link.ReadContext(ctx)
			if pkt == nil {
				return
			}
			frame := pkt.ToBuffer()
			pkt.DecRef()
			s.send(p, frame.Flatten())
			frame.Release()
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onClose(func() { cancel(); st.Close() })
	return h, nil
}

// receive takes a frame off the segment. The interface filters by address, as hardware does: ethernet.Endpoint leaves
// that to us.
func (h *Host) receive(frame []byte) {
	if frame[0]&1 == 0 && string(frame[:6]) != string(h.MAC) {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer pkt.DecRef()
	h.link.InjectInbound(0, pkt) // the protocol is in the frame
}

// AddAddress gives the host one more address, as in NewHost.
func (h *Host) AddAddress(a netip.Prefix) error {
	proto, addr := network(a.Addr())
	err := h.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: proto,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: addr, PrefixLen: a.Bits()}}, stack.AddressProperties{})
	if err != nil {
		return fmt.Errorf("address %s: %s", a, err)
	}
	if !a.IsSingleIP() {
		return h.AddRoute(Route{Prefix: a.Masked()})
	}
	return nil
}

// AddRoute adds a route. The longest prefix wins, whatever the order.
func (h *Host) AddRoute(r Route) error {
	_, dst := network(r.Prefix.Addr())
	route := tcpip.Route{NIC: nic,
		Destination: tcpip.AddressWithPrefix{Address: dst, PrefixLen: r.Prefix.Bits()}.Subnet()}
	if r.Via.IsValid() {
		_, route.Gateway = network(r.Via)
	}
	h.stack.AddRoute(route)
	return nil
}

// AddNeighbour tells the host the hardware address of another, which it then does not ask for.
func (h *Host) AddNeighbour(a netip.Addr, mac net.HardwareAddr) error {
	proto, addr := network(a)
	if err := h.stack.AddStaticNeighbor(nic, proto, addr, tcpip.LinkAddress(mac)); err != nil {
		return fmt.Errorf("host %s: neighbour %s: %s", h.Name, a, err)
	}
	return nil
}

// DialTCP connects from one of the host's own addresses.
func (h *Host) DialTCP(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	proto, _ := network(to.Addr())
	return gonet.DialTCPWithBind(ctx, h.stack, full(netip.AddrPortFrom(from, 0)), full(to), proto)
}

// ListenTCP listens on one of the host's own addresses.
func (h *Host) ListenTCP(at netip.AddrPort) (net.Listener, error) {
	proto, _ := network(at.Addr())
	return gonet.ListenTCP(h.stack, full(at), proto)
}

// UDP opens a UDP socket at one of the host's own addresses, connected to peer unless that is the zero value.
func (h *Host) UDP(at, peer netip.AddrPort) (*gonet.UDPConn, error) {
	proto, _ := network(at.Addr())
	local := full(at)
	if !peer.IsValid() {
		return gonet.DialUDP(h.stack, &local, nil, proto)
	}
	remote := full(peer)
	return gonet.DialUDP(h.stack, &local, &remote, proto)
}

// network is an address as the stack wants it.
func network(a netip.Addr) (tcpip.NetworkProtocolNumber, tcpip.Address) {
	if a.Is4() {
		return header.IPv4ProtocolNumber, tcpip.AddrFrom4(a.As4())
	}
	return header.IPv6ProtocolNumber, tcpip.AddrFrom16(a.As16())
}

func full(a netip.AddrPort) tcpip.FullAddress {
	_, addr := network(a.Addr())
	return tcpip.FullAddress{NIC: nic, Addr: addr, Port: a.Port()}
}
