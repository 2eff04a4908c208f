// Package onlink tests that servers follow the links they serve.
package onlink

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"rempart/firstboot/onlink"
	"rempart/test/netns"
)

func TestMain(m *testing.M) {
	if !netns.Inside() {
		os.Exit(netns.Isolate())
	}
	netns.CheckPowers()
	os.Exit(m.Run())
}

// event is what a server of the test saw.
type event struct {
	link  string
	index int
	ended bool
}

func TestServe(t *testing.T) {
	add := func(name string, index int) {
		t.Helper()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Index = name, index
		d := &netlink.Veth{LinkAttrs: attrs, PeerName: name + "-peer"}
		if err := netlink.LinkAdd(d); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = netlink.LinkDel(d) })
		if err := netlink.LinkSetUp(d); err != nil {
			t.Fatal(err)
		}
	}
	link := func(name string) netlink.Link {
		t.Helper()
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen, ended := make(chan event, 10), make(chan error)
	failOnce := make(chan error, 1)
	add("lan0", 100)
	go func() {
		log := slog.New(slog.DiscardHandler)
		ended <- onlink.Serve(ctx, []string{"lan0", "late"}, log, func(ctx context.Context, l onlink.Link) error {
			seen <- event{l.Name, l.Index, false}
			select {
			case err := <-failOnce:
				return err
			case <-ctx.Done():
			}
			seen <- event{l.Name, l.Index, true}
			return nil
		})
	}()
	want := func(what string, e event) {
		t.Helper()
		select {
		case got := <-seen:
			if got != e {
				t.Fatalf("%s: Serve does %+v; want %+v", what, got, e)
			}
		case err := <-ended:
			t.Fatalf("%s: Serve = %v", what, err)
		}
	}
	want("there from the start", event{"lan0", 100, false})
	add("stranger", 0)
	add("late", 1000)
	want("a late link", event{"late", 1000, false})
	failOnce <- errors.New("for a test")
	e := <-seen // whichever took it
	if e.ended {
		t.Fatalf("after a failure: %+v; want it to be started again", e)
	}
	if err := netlink.LinkSetMTU(link("lan0"), 1400); err != nil {
		t.Fatal(err)
	}
	want("another MTU", event{"lan0", 100, true})
	want("another MTU", event{"lan0", 100, false})
	if err := netlink.LinkDel(link("lan0")); err != nil {
		t.Fatal(err)
	}
	want("a link that vanished", event{"lan0", 100, true})
	add("lan0", 2000)
	want("a link that came back", event{"lan0", 2000, false})
	if err := netlink.LinkSetDown(link("late")); err != nil {
		t.Fatal(err)
	}
	want("a link that went down", event{"late", 1000, true})
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Serve = %v", err)
	}
	if got, last := <-seen, (event{"lan0", 2000, true}); got != last {
		t.Errorf("at the end Serve does %+v; want %+v", got, last)
	}
}
