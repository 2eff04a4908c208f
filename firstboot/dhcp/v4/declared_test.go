package v4

import (
	"maps"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"rempart/firstboot/dhcp/lease"
	"rempart/profiles"
)

// changed goes on by another profile, as a server that is started anew with its leases.
func (b *bench) changed(hosts ...profiles.DHCPHost) {
	d := home()
	d.Hosts = hosts
	b.Config.DHCP = []profiles.DHCP{d}
	b.names = map[netip.Addr]string{}
	b.Server = New(b.Config)
}

// named is a host of the profile with the hardware address of the first client; no address: one of the pool.
func named(name, address string) profiles.DHCPHost {
	h := profiles.DHCPHost{Name: name, MACs: []string{"52:54:00:00:00:01"}}
	if address != "" {
		h.Address = netip.MustParseAddr(address)
	}
	return h
}

// free tells whether nobody has an address.
func (b *bench) free(address string) {
	b.t.Helper()
	l, known := b.Store.Get(netip.MustParseAddr(address))
	if known && l.Active(b.now.Unix()) {
		b.t.Errorf("%s is still leased to %q; want nobody", address, l.Client)
	}
	if name, told := b.names[netip.MustParseAddr(address)]; told {
		b.t.Errorf("%s still goes by the name %q", address, name)
	}
}

// TestDeclaredLater: a client that has a lease and that a changed profile names has the address it names at its next
// renewal, by whatever it is known, and its former one is free.
func TestDeclaredLater(t *testing.T) {
	for _, id := range []string{"", "id ab"} {
		b := newBench(t, home())
		b.lease(1, "10.0.0.100", "name laptop", id0(id))
		b.changed(named("laptop", "10.0.0.9"))
		b.want("renewing", message(dhcpv4.MessageTypeRequest, 1, "has 10.0.0.100", id0(id)), "nak")
		b.lease(1, "10.0.0.9", id0(id))
		b.free("10.0.0.100")
		b.want("renewing", message(dhcpv4.MessageTypeRequest, 1, "has 10.0.0.9", id0(id)), "ack 10.0.0.9")
	}
}

// id0 is an option of message that says nothing where there is none.
func id0(id string) string {
	if id == "" {
		return "broadcast "
	}
	return id
}

// TestDeclaredWithoutAddress: a client that is named only, for options or a name, keeps what it has, and so does one
// that is named no more.
func TestDeclaredWithoutAddress(t *testing.T) {
	b := newBench(t, home())
	b.lease(1, "10.0.0.100")
	b.lease(2, "10.0.0.101")
	b.changed(named("laptop", ""))
	b.want("renewing", message(dhcpv4.MessageTypeRequest, 1, "has 10.0.0.100"), "ack 10.0.0.100")
	b.changed()
	b.want("named no more", message(dhcpv4.MessageTypeRequest, 1, "has 10.0.0.100"), "ack 10.0.0.100")
	b.changed(named("laptop", "10.0.0.9"))
	b.lease(1, "10.0.0.9")
	b.changed()
	b.want("its own no more", message(dhcpv4.MessageTypeRequest, 1, "has 10.0.0.9"), "nak")
	b.lease(1, "10.0.0.102")
	b.free("10.0.0.9")
}

// TestRenamed: a host that the profile calls otherwise keeps its address.
func TestRenamed(t *testing.T) {
	b := newBench(t, home())
	b.changed(named("printer", "10.0.0.9"))
	b.lease(1, "10.0.0.9")
	b.changed(named("drucker", "10.0.0.9"))
	b.want("renewing", message(dhcpv4.MessageTypeRequest, 1, "has 10.0.0.9"), "ack 10.0.0.9")
	b.changed(named("plotter", "10.0.0.9"))
	b.lease(1, "10.0.0.9") // started anew
	b.changed(named("plotter", "10.0.0.8"))
	b.want("renewing what is another's", message(dhcpv4.MessageTypeRequest, 1, "has 10.0.0.9"), "nak")
	b.lease(1, "10.0.0.8")
	b.free("10.0.0.9")
}

// TestDeclaredForAnother: who has an address that a changed profile gives to another is told to leave it, and it is
// free as soon as it has left.
func TestDeclaredForAnother(t *testing.T) {
	b := newBench(t, home())
	b.lease(2, "10.0.0.100")
	b.changed(named("laptop", "10.0.0.100"))
	b.lease(1, "10.0.0.101")
	b.want("meanwhile", message(dhcpv4.MessageTypeRequest, 1, "has 10.0.0.101"), "ack 10.0.0.101")
	b.want("renewing", message(dhcpv4.MessageTypeRequest, 2, "has 10.0.0.100"), "nak")
	b.lease(2, "10.0.0.102")
	b.free("10.0.0.100")
	b.want("renewing once its own is free", message(dhcpv4.MessageTypeRequest, 1, "has 10.0.0.101"), "nak")
	b.lease(1, "10.0.0.100")
	b.free("10.0.0.101")
}

// TestDeclaredInUse: a client whose address by the profile somebody unknown was found to use keeps the one it has: it
// is not sent to look again and again. When it begins anew the network is asked once more.
func TestDeclaredInUse(t *testing.T) {
	b := newBench(t, home())
	b.lease(1, "10.0.0.100")
	b.changed(named("laptop", "10.0.0.9"))
	b.DHCP[0].NoProbe = false
	b.used[netip.MustParseAddr("10.0.0.9")] = true
	renewing := message(dhcpv4.MessageTypeRequest, 1, "has 10.0.0.100")
	b.want("renewing", renewing, "nak")
	b.lease(1, "10.0.0.100")
	b.pass((declineTime + 1) * time.Second)
	b.want("renewing after a while", renewing, "ack 10.0.0.100")
	b.used = nil
	b.lease(1, "10.0.0.9")
	b.free("10.0.0.100")
}

// TestNobodyTakesOver: a lease goes to another identity of the same machine only, and only where the profile has made
// it another.
func TestNobodyTakesOver(t *testing.T) {
	b := newBench(t, home())
	b.lease(1, "10.0.0.100", "id ab") // a machine with two systems
	b.want("the other", message(dhcpv4.MessageTypeRequest, 1, "has 10.0.0.100", "id cd"), "nak")
	b.changed(named("printer", "10.0.0.9"), profiles.DHCPHost{Name: "scanner", MACs: []string{"52:54:00:00:00:02"},
		Address: netip.MustParseAddr("10.0.0.8")})
	b.lease(1, "10.0.0.9")
	b.want("a stranger", message(dhcpv4.MessageTypeRequest, 3, "has 10.0.0.9"), "nak")
	b.want("another host", message(dhcpv4.MessageTypeRequest, 2, "has 10.0.0.9"), "nak")
	l, _ := b.Store.Get(netip.MustParseAddr("10.0.0.9"))
	if l.Client != "nprinter" || l.State != lease.Bound {
		t.Errorf("the printer's lease is %+v; want it the printer's", l)
	}
}

// slowly is names that are told by the store's goroutine.
type slowly struct {
	mu    sync.Mutex
	names map[netip.Addr]string
}

func (n *slowly) Bound(l lease.Lease, _ string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[l.Addr] = l.Name
}

func (n *slowly) Gone(a netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.names, a)
}

// TestDeclinedAtOnce: an address that is declined before its lease is on the disk goes by no name afterwards.
func TestDeclinedAtOnce(t *testing.T) {
	b := newBench(t, home())
	store, err := lease.Open(lease.Options{Path: filepath.Join(t.TempDir(), "leases"), Log: b.Log,
		Clock: lease.SystemClock()})
	if err != nil {
		t.Fatal(err)
	}
	told := &slowly{names: map[netip.Addr]string{}}
	b.Server = New(Config{DHCP: b.DHCP, Store: store, Names: told, Log: b.Log})
	for n, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDecline, dhcpv4.MessageTypeRelease, 0} {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + n)}).String()
		for _, m := range []*dhcpv4.DHCPv4{message(dhcpv4.MessageTypeRequest, n, "wish "+a, "name evil"),
			message(kind, n, "wish "+a, "has "+a)} {
			b.Handle(Packet{Link: "lan", From: netip.MustParseAddrPort("0.0.0.0:68"), Message: m}, func(Reply) {})
		}
	}
	if err := store.Close(); err != nil { // all has been told
		t.Fatal(err)
	}
	want := map[netip.Addr]string{netip.MustParseAddr("10.0.0.102"): "evil"} // neither declined nor released
	if !maps.Equal(told.names, want) {
		t.Errorf("names of a declined, a released and a kept address are %v; want %v", told.names, want)
	}
}
