package server

import (
	"net"
	"net/netip"
	"testing"
)

// enters lets n connections of a client in, and returns them with their places.
func enters(t *testing.T, p *places, client string, n int) (conns []net.Conn, all []*place) {
	t.Helper()
	for range n {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		conns = append(conns, theirs)
		all = append(all, p.enter(ours, netip.MustParseAddr(client)))
	}
	return conns, all
}

// open is how many of a client's places are still its own.
func open(p *places, all []*place) (n int) {
	for _, place := range all {
		if p.all[place] {
			n++
		}
	}
	return n
}

// TestPlacesOfOneClient: one client has so many, and a new one takes the place of that which it has not used longest,
// not of one whose query is under way.
func TestPlacesOfOneClient(t *testing.T) {
	p := newPlaces()
	_, first := enters(t, p, "10.0.0.5", maxOfClient)
	p.use(first[0], 1) // under way
	p.use(first[1], 1) // and this one is answered: it was used last
	p.use(first[1], -1)
	_, more := enters(t, p, "10.0.0.5", 2)
	if p.all[first[2]] || p.all[first[3]] || open(p, first) != maxOfClient-2 || open(p, more) != 2 || p.made() != 2 {
		t.Errorf("of %d connections %d are left, %d were ended; want the third and the fourth ended", maxOfClient,
			open(p, first), p.made())
	}
	if _, err := first[2].conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection whose place was taken is open")
	}
}

// TestPlacesAreShared: when all are taken, who has the most gives one up, and who comes from as many addresses as there
// are places loses those it does not use to others that come.
func TestPlacesAreShared(t *testing.T) {
	p := newPlaces()
	_, one := enters(t, p, "10.0.0.5", 1)
	var crowd []*place
	for i := range MaxConnections/maxOfClient + 1 {
		_, all := enters(t, p, netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}).String(), maxOfClient)
		crowd = append(crowd, all...)
	}
	if len(p.all) != MaxConnections || open(p, one) != 1 {
		t.Errorf("%d places are taken, %d by the first; want %d, and 1: he has least", len(p.all), open(p, one),
			MaxConnections)
	}
	for _, place := range crowd {
		p.leave(place)
	}
	p.leave(one[0])
	if len(p.all) != 0 || len(p.of) != 0 {
		t.Fatalf("%d places and %d clients are left; want none", len(p.all), len(p.of))
	}
	var many []*place
	for i := range MaxConnections {
		_, all := enters(t, p, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String(), 1)
		many = append(many, all...)
	}
	_, one = enters(t, p, "10.0.0.5", 1)
	p.use(one[0], 1)
	p.use(one[0], -1)
	for i := range MaxConnections / 2 {
		enters(t, p, netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}).String(), 1)
	}
	if open(p, one) != 1 || len(p.all) != MaxConnections || open(p, many) != MaxConnections/2-1 {
		t.Errorf("after half as many again: %d places, who asks has %d, who was idle %d; want %d, 1, %d", len(p.all),
			open(p, one), open(p, many), MaxConnections, MaxConnections/2-1)
	}
}
