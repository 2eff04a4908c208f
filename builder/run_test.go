package main

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"rempart/builder/hypervisor"
	"rempart/profiles"
)

func TestPlug(t *testing.T) {
	p, err := profiles.Load("home-firewall")
	if err != nil {
		t.Fatal(err)
	}
	got, err := plug(p, []string{"dmz0=tap:tap3"})
	if err != nil {
		t.Fatal(err)
	}
	wan := hypervisor.Backend{Kind: hypervisor.User, Subnet: netip.MustParsePrefix("192.168.0.0/24"),
		Gateway: netip.MustParseAddr("192.168.0.1")}
	if got["lan0"] != wan || got["dmz0"].Tap != "tap3" {
		t.Errorf("plug = %+v; want lan0 on a closed user network of its own subnet, dmz0 on tap3", got)
	}
	for _, bad := range []string{"dmz0", "dmz=user", "dmz0=usr"} {
		if _, err := plug(p, []string{bad}); err == nil || !strings.Contains(err.Error(), "--net") {
			t.Errorf("plug(%q) = %v; want a usage error", bad, err)
		}
	}
}

func TestForward(t *testing.T) {
	c := &console{in: strings.NewReader("ls\x1d-l\x1d\n")}
	tty, err := openTerminal(c)
	if err != nil {
		t.Fatal(err)
	}
	var guest bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	done := make(chan struct{})
	escapes := tty.forward(ctx, writerFunc(func(b []byte) (int, error) {
		n, err := guest.Write(b)
		if bytes.HasSuffix(guest.Bytes(), []byte("\n")) {
			close(done)
		}
		return n, err
	}))
	for range 2 {
		select {
		case <-escapes:
		case <-ctx.Done():
			t.Fatal("an escape did not come")
		}
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
	if got := guest.String(); got != "ls-l\n" {
		t.Errorf("the guest got %q; want ls-l without the escapes", got)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
