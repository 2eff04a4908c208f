package boot

import (
	"bytes"
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"rempart/builder/virtualnet"
)

// keyPair is a private key of WireGuard made of a word, and its public one.
type keyPair struct{ private, public [32]byte }

func keysOf(t *testing.T, word string) keyPair {
	t.Helper()
	k := keyPair{private: sha256.Sum256([]byte(word))}
	private, err := ecdh.X25519().NewPrivateKey(k.private[:])
	if err != nil {
		t.Fatal(err)
	}
	k.public = [32]byte(private.PublicKey().Bytes())
	return k
}

func base64Of(key [32]byte) string { return base64.StdEncoding.EncodeToString(key[:]) }
func hexOf(key [32]byte) string    { return hex.EncodeToString(key[:]) }

// foreign is a peer of a tunnel that is none of ours: wireguard-go, the WireGuard authors' own other implementation, on
// a host of a segment.
type foreign struct {
	device *device.Device
	tun    *pipe
}

// foreignPeer is what wireguard-go is told of us. The zero preshared key is none, the zero endpoint none known.
type foreignPeer struct {
	key, preshared [32]byte
	endpoint       netip.AddrPort
	allowed        []string
}

func newForeign(t *testing.T, h *virtualnet.Host, own []netip.Addr, port uint16, keys keyPair,
	peer foreignPeer) *foreign {
	t.Helper()
	f := &foreign{tun: newPipe()}
	silent := &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf}
	f.device = device.NewDevice(f.tun, &hostBind{host: h, own: own}, silent)
	var text bytes.Buffer // https://www.wireguard.com/xplatform/
	fmt.Fprintf(&text, "private_key=%s\nlisten_port=%d\npublic_key=%s\n", hexOf(keys.private), port, hexOf(peer.key))
	if peer.preshared != [32]byte{} {
		fmt.Fprintf(&text, "preshared_key=%s\n", hexOf(peer.preshared))
	}
	if peer.endpoint.IsValid() {
		fmt.Fprintf(&text, "endpoint=%s\n", peer.endpoint)
	}
	for _, a := range peer.allowed {
		fmt.Fprintf(&text, "allowed_ip=%s\n", a)
	}
	if err := f.device.IpcSet(text.String()); err != nil {
		t.Fatal(err)
	}
	if err := f.device.Up(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.device.Close)
	return f
}

// ping sends an echo request into the tunnel.
func (f *foreign) ping(from, to netip.Addr, payload []byte) {
	const ttl = 64
	src, dst := tcpip.AddrFromSlice(from.AsSlice()), tcpip.AddrFromSlice(to.AsSlice())
	if to.Is4() {
		b := make([]byte, header.IPv4MinimumSize+header.ICMPv4MinimumSize, 2000)
		b = append(b, payload...)
		ip := header.IPv4(b)
		ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: ttl, Protocol: uint8(header.ICMPv4ProtocolNumber),
			SrcAddr: src, DstAddr: dst})
		ip.SetChecksum(^ip.CalculateChecksum())
		icmp := header.ICMPv4(b[header.IPv4MinimumSize:])
		icmp.SetType(header.ICMPv4Echo)
		icmp.SetChecksum(^checksum.Checksum(icmp, 0))
		f.tun.in <- b
		return
	}
	b := make([]byte, header.IPv6MinimumSize+header.ICMPv6EchoMinimumSize, 2000)
	b = append(b, payload...)
	header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(len(b) - header.IPv6MinimumSize), HopLimit: ttl,
		TransportProtocol: header.ICMPv6ProtocolNumber, SrcAddr: src, DstAddr: dst})
	icmp := header.ICMPv6(b[header.IPv6MinimumSize:])
	icmp.SetType(header.ICMPv6EchoRequest)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: src, Dst: dst}))
	f.tun.in <- b
}

// came counts the packets out of the tunnel that have a payload and that source.
func (f *foreign) came(from netip.Addr, payload []byte) (n int) {
	f.tun.mu.Lock()
	defer f.tun.mu.Unlock()
	for _, p := range f.tun.out {
		src := p[12:16]
		if p[0]>>4 == header.IPv6Version {
			src = p[8:24]
		}
		if bytes.Equal(src, from.AsSlice()) && bytes.HasSuffix(p, payload) {
			n++
		}
	}
	return n
}

// pipe is a tunnel's inner end, a tun.Device whose packets come from and go to the test.
type pipe struct {
	in     chan []byte
	events chan tun.Event
	done   chan struct{}
	once   sync.Once
	mu     sync.Mutex
	out    [][]byte
}

func newPipe() *pipe {
	return &pipe{in: make(chan []byte, 64), events: make(chan tun.Event, 4), done: make(chan struct{})}
}

func (p *pipe) File() *os.File           { return nil }
func (p *pipe) MTU() (int, error)        { return 1420, nil }
func (p *pipe) Name() (string, error)    { return "test", nil }
func (p *pipe) Events() <-chan tun.Event { return p.events }
func (p *pipe) BatchSize() int           { return 1 }

func (p *pipe) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case b := <-p.in:
		sizes[0] = copy(bufs[0][offset:], b)
		return 1, nil
	case <-p.done:
		return 0, os.ErrClosed
	}
}

func (p *pipe) Write(bufs [][]byte, offset int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range bufs {
		p.out = append(p.out, bytes.Clone(b[offset:]))
	}
	return len(bufs), nil
}

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.done); close(p.events) })
	return nil
}

// hostBind is a tunnel's outer end: UDP sockets of a host on a segment, one for each of its addresses.
type hostBind struct {
	host *virtualnet.Host
	own  []netip.Addr
	mu   sync.Mutex
	open map[bool]net.PacketConn // by whether it is IPv4
}

func (b *hostBind) Open(port uint16) (fns []conn.ReceiveFunc, _ uint16, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = map[bool]net.PacketConn{}
	for _, a := range b.own {
		c, err := b.host.UDP(netip.AddrPortFrom(a, port), netip.AddrPort{})
		if err != nil {
			return nil, 0, err
		}
		b.open[a.Is4()] = c
		fns = append(fns, func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			n, from, err := c.ReadFrom(packets[0])
			if err != nil {
				return 0, net.ErrClosed
			}
			at := from.(*net.UDPAddr).AddrPort()
			sizes[0], eps[0] = n, &conn.StdNetEndpoint{AddrPort: netip.AddrPortFrom(at.Addr().Unmap(), at.Port())}
			return 1, nil
		})
	}
	return fns, port, nil
}

func (b *hostBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.open {
		c.Close()
	}
	return nil
}

func (b *hostBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	to := ep.(*conn.StdNetEndpoint).AddrPort
	b.mu.Lock()
	c := b.open[to.Addr().Is4()]
	b.mu.Unlock()
	if c == nil {
		return net.ErrClosed
	}
	for _, p := range bufs {
		if _, err := c.WriteTo(p, net.UDPAddrFromAddrPort(to)); err != nil {
			return err
		}
	}
	return nil
}

func (b *hostBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	return &conn.StdNetEndpoint{AddrPort: a}, err
}

func (b *hostBind) SetMark(uint32) error { return nil }
func (b *hostBind) BatchSize() int       { return 1 }
