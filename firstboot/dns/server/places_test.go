package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
	"rempart/firstboot/dns/cache"
	"rempart/firstboot/dns/forward"
)

// enters lets n connections of a client in, and returns them with their places.
func enters(t *testing.T, p *places, client string, n int) (conns []net.Conn, all []*place) {
	t.Helper()
	return entersBy(t, p, nil, client, n)
}

// entersBy is enters by a link.
func entersBy(t *testing.T, p *places, link *Access, client string, n int) (conns []net.Conn, all []*place) {
	t.Helper()
	for range n {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		conns = append(conns, theirs)
		all = append(all, p.enter(ours, owner{link, netip.MustParseAddr(client)}, func() {}))
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

// TestPlacesOfLinks: a crowd on one link takes its places from itself, whatever the hosts on another have.
func TestPlacesOfLinks(t *testing.T) {
	p := newPlaces()
	outside, home := &Access{Link: "wan"}, &Access{Link: "lan"}
	crowd := func(from, n int) {
		for i := from; i < from+n; i++ {
			entersBy(t, p, outside, netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}).String(), 1)
		}
	}
	_, mine := entersBy(t, p, home, "10.0.0.5", maxOfClient)
	crowd(0, 2*MaxConnections)
	if open(p, mine) != maxOfClient || len(p.all) != MaxConnections {
		t.Errorf("%d of %d places are left to a host inside; want all", open(p, mine), maxOfClient)
	}
	_, more := entersBy(t, p, home, "10.0.0.6", maxOfClient)
	crowd(2*MaxConnections, MaxConnections)
	if open(p, mine) != maxOfClient || open(p, more) != maxOfClient {
		t.Errorf("%d and %d places are left to two hosts inside; want %d each", open(p, mine), open(p, more), maxOfClient)
	}
	var all []*place
	for i := range MaxConnections / maxOfClient {
		_, some := entersBy(t, p, home, netip.AddrFrom4([4]byte{10, 0, 2, byte(i)}).String(), maxOfClient)
		all = append(all, some...)
	}
	crowd(0, 1)
	outsiders := 0
	for n := range p.all {
		if n.link == outside {
			outsiders++
		}
	}
	if outsiders < MaxConnections/2-1 || open(p, all) == 0 || len(p.all) != MaxConnections {
		t.Errorf("%d of %d places are left outside; want about half", outsiders, len(p.all))
	}
}

// silent is a server that does not answer until it is closed.
type silent chan struct{}

func (s silent) Exchange(context.Context, *dns.Msg) (*dns.Msg, error) {
	<-s
	return nil, errors.New("nobody answers")
}

// TestEndedQueries: when the place of a connection is taken, so are its queries that wait for others.
func TestEndedQueries(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	nobody := make(silent)
	defer close(nobody)
	s := New(nil, forward.New(cache.New(1<<20), []answer.Exchanger{nobody}, nil, nil, log), false, log)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- s.ServeTCP(ctx, l, &Access{From: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, nil)
	}()
	come := func(i int) {
		conn, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		in := ask(t, fmt.Sprintf("n%d.example.", i), nil)
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(in))), in...)); err != nil {
			t.Fatal(err)
		}
	}
	// look waits until so many places are busy, and returns them.
	look := func(wait time.Duration, busy func(all []*place) bool) []*place {
		t.Helper()
		for end := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
			s.places.mu.Lock()
			all := slices.Collect(maps.Keys(s.places.all))
			good := busy(all)
			s.places.mu.Unlock()
			if good {
				return all
			}
			if time.Now().After(end) {
				t.Fatalf("%d places; want other ones, or busy ones", len(all))
			}
		}
	}
	asking := func(p *place) bool { return p.busy > 0 }
	for i := range maxOfClient {
		come(i)
	}
	before := look(patience, func(all []*place) bool {
		return len(all) == maxOfClient && !slices.ContainsFunc(all, func(p *place) bool { return !asking(p) })
	})
	come(maxOfClient)
	look(patience/2, func(all []*place) bool { // else it is the query's own patience that is at its end
		i := slices.IndexFunc(before, func(p *place) bool { return !slices.Contains(all, p) })
		return i >= 0 && !asking(before[i])
	})
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
