package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rempart/builder/kernel"
	"rempart/firstboot/child"
	"rempart/firstboot/filter/filtertest"
	"rempart/firstboot/link"
	"rempart/firstboot/module"
	"rempart/profiles"
)

// prepare loads the modules of the kinds of links.
func prepare(modules string) error {
	none := func(string) string { return "" }
	boot, err := module.Open(modules, none)
	if err != nil {
		return err
	}
	if err := boot.Coldplug("/sys", map[string]bool{}); err != nil {
		return err
	}
	if err := boot.Load("erofs"); err != nil {
		return err
	}
	const root, disk = "/newroot", "/dev/vda3" // the third partition of the first disk, as every master has it
	if !within(time.Minute, func() bool { return unix.Mount(disk, root, "erofs", unix.MS_RDONLY, "") == nil }) {
		return fmt.Errorf("%s cannot be mounted", disk)
	}
	rest, err := module.Open(filepath.Join(root, modules), none)
	if err != nil {
		return err
	}
	names := append([]string{"veth", "bridge", "8021q", "bonding", "wireguard", "nf_conntrack"},
		kernel.Preload(filtertest.Fast())...)
	for _, name := range names {
		if err := rest.Load(name); err != nil {
			return err
		}
	}
	return nil
}

// within polls for something nobody announces.
func within(patience time.Duration, done func() bool) bool {
	for end := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// running is the link child.
type running struct {
	cancel context.CancelFunc
	done   chan error
	ready  chan struct{}
	mu     sync.Mutex
	log    bytes.Buffer
}

func (r *running) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(b)
}

func (r *running) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

// start runs the link child and waits until it says that its job holds.
func start(t *testing.T, p *profiles.Profile) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, done: make(chan error, 1), ready: make(chan struct{}, 1)}
	env := &child.Env{Profile: p, Log: slog.New(slog.NewTextHandler(r, nil)), Root: "/", Tell: func(string, any) {},
		Ready: func() {
			select {
			case r.ready <- struct{}{}:
			default:
			}
		}}
	go func() { r.done <- link.Run(ctx, env) }()
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Logf("the link child said:\n%s", r.said())
		}
	})
	select {
	case <-r.ready:
	case err := <-r.done:
		t.Fatalf("the link child ended: %v\n%s", err, r.said())
	case <-time.After(time.Minute):
		t.Fatalf("the link child is not ready:\n%s", r.said())
	}
	return r
}

// stop ends it and waits.
func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.done; err != nil {
		t.Errorf("the link child ended with %v", err)
	}
}

// wire makes a NIC, one end of a cable whose other end is up too.
func wire(t *testing.T, name, mac string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth" + name
	var err error
	if attrs.HardwareAddr, err = parseMAC(mac); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far" + name}); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(named(t, "far"+name)); err != nil {
		t.Fatal(err)
	}
}

func named(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatalf("link %s: %v", name, err)
	}
	return l
}

// nudge makes the child look: what is not announced it finds at the next change of anything.
func nudge(t *testing.T) {
	t.Helper()
	lo := named(t, "lo")
	a, err := netlink.ParseAddr("192.0.2.1/32")
	if err == nil {
		err = errors.Join(netlink.AddrAdd(lo, a), netlink.AddrDel(lo, a))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// changed tells which words about changes a child has said.
func changed(said string) []string {
	var out []string
	for line := range strings.Lines(said) {
		for _, word := range []string{": make", ": remove", ": member", ": VLANs", ": peer", ": private", "before the others",
			": down", ": up", ": stp", ": address", ": route", ": mtu"} {
			if strings.Contains(line, "level=INFO") && strings.Contains(line, word) {
				out = append(out, strings.TrimSpace(line))
				break
			}
		}
	}
	return out
}
