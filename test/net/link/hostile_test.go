package link_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"rempart/firstboot/contract"
)

// evil is a DHCP server in the namespace isp that answers each request with what the test wants.
type evil struct {
	conn   net.PacketConn
	served chan dhcpv4.MessageType
}

// evil starts a server; reply makes the packets to be sent back for a request, whole UDP payloads.
func (l *lab) evil(reply func(*dhcpv4.DHCPv4) [][]byte) *evil {
	l.t.Helper()
	conn, err := l.listenUDP("isp", "p0", 67)
	if err != nil {
		l.t.Fatal(err)
	}
	e := &evil{conn: conn, served: make(chan dhcpv4.MessageType, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			m, err := dhcpv4.FromBytes(buf[:n])
			if err != nil {
				continue
			}
			for _, p := range reply(m) {
				_, _ = conn.WriteTo(p, &net.UDPAddr{IP: net.IPv4bcast, Port: 68})
			}
			select {
			case e.served <- m.MessageType():
			default:
			}
		}
	}()
	l.t.Cleanup(func() { _ = conn.Close(); <-done })
	return e
}

// listenUDP opens a socket inside a namespace. The thread that entered it is thrown away.
func (l *lab) listenUDP(space, dev string, port int) (net.PacketConn, error) {
	type result struct {
		conn net.PacketConn
		err  error
	}
	out := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		conn, err := func() (net.PacketConn, error) {
			ns, err := os.Open("/run/netns/" + l.space(space))
			if err != nil {
				return nil, err
			}
			defer func() { _ = ns.Close() }()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return nil, fmt.Errorf("entering %s: %w", space, err)
			}
			lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
				var err error
				cerr := c.Control(func(fd uintptr) {
					err = errors.Join(unix.BindToDevice(int(fd), dev),
						unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
				})
				return errors.Join(cerr, err)
			}}
			return lc.ListenPacket(context.Background(), "udp4", fmt.Sprintf("0.0.0.0:%d", port))
		}()
		out <- result{conn, err}
	}()
	r := <-out
	return r.conn, r.err
}

// proper is the answer of a decent server: an offer or an acknowledgement of 198.51.100.50 for an hour.
func proper(q *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	kind := dhcpv4.MessageTypeAck
	if q.MessageType() == dhcpv4.MessageTypeDiscover {
		kind = dhcpv4.MessageTypeOffer
	}
	return &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootReply, HWType: q.HWType, TransactionID: q.TransactionID,
		ClientHWAddr: q.ClientHWAddr, YourIPAddr: net.IPv4(198, 51, 100, 50).To4(), Options: dhcpv4.Options{
			dhcpv4.OptionDHCPMessageType.Code():    {byte(kind)},
			dhcpv4.OptionServerIdentifier.Code():   {198, 51, 100, 1},
			dhcpv4.OptionSubnetMask.Code():         {255, 255, 255, 0},
			dhcpv4.OptionRouter.Code():             {198, 51, 100, 1},
			dhcpv4.OptionIPAddressLeaseTime.Code(): binary.BigEndian.AppendUint32(nil, 3600),
		}}
}

// evilRounds is how many requests get hostile answers before a decent one.
const evilRounds = 1

func TestHostileServer(t *testing.T) {
	set := func(code dhcpv4.OptionCode, value ...byte) func(*dhcpv4.DHCPv4) {
		return func(m *dhcpv4.DHCPv4) { m.Options[code.Code()] = value }
	}
	give := func(a string) func(*dhcpv4.DHCPv4) {
		return func(m *dhcpv4.DHCPv4) { m.YourIPAddr = netip.MustParseAddr(a).AsSlice() }
	}
	for name, spoil := range map[string]func(*dhcpv4.DHCPv4){
		"zero":               give("0.0.0.0"),
		"broadcast":          give("255.255.255.255"),
		"multicast":          give("224.0.0.5"),
		"loopback":           give("127.0.0.1"),
		"the inside address": give("10.10.10.1"),
		"an inside host":     give("10.10.10.77"),
		"inside by its mask": func(m *dhcpv4.DHCPv4) {
			give("10.200.0.1")(m)
			set(dhcpv4.OptionSubnetMask, 255, 0, 0, 0)(m)
		},
		"the whole world":     set(dhcpv4.OptionSubnetMask, 0, 0, 0, 0),
		"no lease time":       set(dhcpv4.OptionIPAddressLeaseTime),
		"lengths":             set(dhcpv4.OptionSubnetMask, make([]byte, 200)...),
		"another's MAC":       func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = net.HardwareAddr{2, 2, 2, 2, 2, 2} },
		"another exchange":    func(m *dhcpv4.DHCPv4) { m.TransactionID[3]++ },
		"a request":           func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootRequest },
		"a hardware of 0":     func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = nil },
		"from a multicast":    set(dhcpv4.OptionServerIdentifier, 224, 0, 0, 1),
		"a NAK to a discover": set(dhcpv4.OptionDHCPMessageType, byte(dhcpv4.MessageTypeNak)),
	} {
		t.Run(name, func(t *testing.T) {
			l := uplinkLab(t)
			var rounds atomic.Int64
			l.evil(func(q *dhcpv4.DHCPv4) [][]byte {
				m := proper(q)
				if rounds.Add(1) <= evilRounds {
					spoil(m)
				}
				return [][]byte{m.ToBytes()}
			})
			g := l.start(uplink())
			l.eventually("a lease or two rounds", patience, func() bool { return l.same("wan", "198.51.100.50/24") })
			g.waitReady()
			if got := rounds.Load(); got <= evilRounds {
				t.Errorf("the lease came after %d requests; want the first %d refused", got, evilRounds)
			}
			if strings.Contains(g.log.String(), "panic") {
				t.Error("panic")
			}
		})
	}
}

// TestHostileRoutes gives a lease of a second with everything in it that would take the inside away.
func TestHostileRoutes(t *testing.T) {
	l := uplinkLab(t)
	e := l.evil(func(q *dhcpv4.DHCPv4) [][]byte {
		m := proper(q)
		m.Options[dhcpv4.OptionIPAddressLeaseTime.Code()] = []byte{0, 0, 0, 1}
		m.Options[dhcpv4.OptionRenewTimeValue.Code()] = []byte{0, 0, 0, 0}
		m.Options[dhcpv4.OptionRebindingTimeValue.Code()] = []byte{0, 0, 0, 0}
		m.Options[dhcpv4.OptionInterfaceMTU.Code()] = []byte{0, 68}
		m.Options[dhcpv4.OptionDomainName.Code()] = []byte("x\nnameserver 6.6.6.6")
		m.Options[dhcpv4.OptionDomainNameServer.Code()] = []byte{127, 0, 0, 1, 0, 0, 0, 0, 255, 255, 255, 255, 9, 9, 9, 9}
		var routes []byte
		for _, r := range [][]byte{{32, 10, 10, 10, 2}, {25, 10, 10, 10, 0}, {24, 10, 10, 10}, {8, 10}, {4, 224}, {8, 127},
			{0}} {
			routes = append(append(routes, r...), 198, 51, 100, 1)
		}
		for i := range 20 { // and as many decent ones as fit
			routes = append(routes, 24, 100, 64, byte(i), 198, 51, 100, 1)
		}
		m.Options[dhcpv4.OptionClasslessStaticRoute.Code()] = routes
		return [][]byte{m.ToBytes()}
	})
	g := l.start(uplink())
	g.waitReady()
	first := len(e.served)
	for _, r := range l.routes("-4") {
		if strings.HasPrefix(r, "10.") || strings.HasPrefix(r, "127.") || strings.HasPrefix(r, "224.") {
			t.Errorf("took the route %s", r)
		}
	}
	if got := len(l.routes("-4")); got != 21 {
		t.Errorf("%d routes; want the default and 20 decent ones", got)
	}
	if got := l.in("fw", "ip", "-o", "link", "show", "wan"); !strings.Contains(got, "mtu 1500") {
		t.Errorf("wan = %s; want its MTU untouched", got)
	}
	b, err := os.ReadFile(l.root + contract.ResolvPath)
	if err != nil || strings.Contains(string(b), "6.6.6.6") || strings.Count(string(b), "nameserver") != 1 {
		t.Errorf("resolv.conf = %q, %v; want just 9.9.9.9", b, err)
	}
	l.in("lan", "ping", "-c1", "-W20", "10.10.10.1")
	loss := l.background("lan", "ping", "-qi0.02", "-c250", "-W1", "8.8.8.8")
	time.Sleep(5 * time.Second)
	if got := len(e.served) - first; got > 2 {
		t.Errorf("%d requests in five seconds for a lease of one second; want it held for its least time", got)
	}
	_ = loss.cmd.Wait()
	if !strings.Contains(loss.out.String(), " 0% packet loss") {
		t.Errorf("with leases of a second: %s", loss.out.String())
	}
}

// TestGarbage floods the client's port with random bytes and spoilt messages. A decent answer still gets through.
func TestGarbage(t *testing.T) {
	l := uplinkLab(t)
	random := rand.New(rand.NewPCG(1, 2))
	noise := func(b []byte) []byte {
		for range 1 + random.IntN(8) {
			b[random.IntN(len(b))] = byte(random.Uint32())
		}
		return b[:random.IntN(len(b)+1)]
	}
	l.evil(func(q *dhcpv4.DHCPv4) [][]byte {
		var out [][]byte
		for range 200 {
			b := make([]byte, 1+random.IntN(1400))
			for i := range b {
				b[i] = byte(random.Uint32())
			}
			out = append(out, b, noise(proper(q).ToBytes()))
		}
		return append(out, proper(q).ToBytes())
	})
	g := l.start(uplink())
	// Spoilt bytes may make another address that is as good; what matters is that there is one and nothing died.
	g.waitLink("wan", "a lease", func(r contract.LinkReport) bool { return r.Error == "" && len(r.Addresses) == 1 })
	if strings.Contains(g.log.String(), "panic") || g.exited {
		t.Errorf("the child died:\n%s", g.log.String())
	}
	l.in("lan", "ping", "-c1", "-W20", "10.10.10.1")
}

// TestConflictIsDeclined: the server insists on an address that another host has.
func TestConflictIsDeclined(t *testing.T) {
	l := uplinkLab(t)
	l.in("isp", "ip", "address", "add", "198.51.100.50/32", "dev", "p0")
	e := l.evil(func(q *dhcpv4.DHCPv4) [][]byte {
		if q.MessageType() == dhcpv4.MessageTypeDecline {
			return nil
		}
		return [][]byte{proper(q).ToBytes()}
	})
	g := l.start(uplink())
	declined := false
	l.eventually("declined", patience, func() bool {
		select {
		case kind := <-e.served:
			declined = declined || kind == dhcpv4.MessageTypeDecline
		default:
		}
		return declined
	})
	time.Sleep(time.Second)
	if !l.same("wan") {
		t.Error("took an address another host has")
	}
	g.waitLink("wan", "says that there is no lease", func(r contract.LinkReport) bool {
		return strings.Contains(r.Error,
			"no DHCP lease")
	})
}

// TestFloods: a server refuses each request a hundred times over, and when it gives in, with more routes than anybody
// takes. The client asks ever more slowly, the inside notices nothing, and of the routes some are taken.
func TestFloods(t *testing.T) {
	l := uplinkLab(t)
	const storms, refusals, routes = 2, 100, 100 // as many routes as fit into a frame
	var requests, discovers atomic.Int64
	e := l.evil(func(q *dhcpv4.DHCPv4) [][]byte {
		m := proper(q)
		if q.MessageType() != dhcpv4.MessageTypeRequest {
			discovers.Add(1)
			return [][]byte{m.ToBytes()}
		}
		if requests.Add(1) <= storms {
			m.Options[dhcpv4.OptionDHCPMessageType.Code()] = []byte{byte(dhcpv4.MessageTypeNak)}
			return slices.Repeat([][]byte{m.ToBytes()}, refusals)
		}
		list := []byte{0, 198, 51, 100, 1}
		for i := range routes {
			list = append(list, 24, 100, 64, byte(i), 198, 51, 100, 1)
		}
		m.Options[dhcpv4.OptionClasslessStaticRoute.Code()] = list
		return [][]byte{m.ToBytes()}
	})
	g := l.start(uplink())
	l.eventually("the first storm", patience, func() bool { return requests.Load() > 0 })
	l.in("lan", "ping", "-c1", "-W20", "10.10.10.1")
	l.eventually("a lease after the storms", patience, func() bool { return l.same("wan", "198.51.100.50/24") })
	// One of each for a storm and for the lease; what was lost on a busy machine is sent once more.
	if r, d := requests.Load(), discovers.Load(); r > 2*(storms+1) || d > 2*(storms+1) {
		t.Errorf("%d requests and %d discovers in %d storms; want the client to slow down", r, d, storms)
	}
	l.eventually("the routes that are taken", patience, func() bool { return len(l.routes("-4")) > 1 })
	if n := len(l.routes("-4")); n >= routes {
		t.Errorf("%d routes; want fewer than the %d that were sent", n, routes)
	}
	l.in("lan", "ping", "-c1", "-W20", "8.8.8.8")
	if strings.Contains(g.log.String(), "panic") || len(e.served) == 0 {
		t.Errorf("the child said:\n%s", g.log.String())
	}
}
