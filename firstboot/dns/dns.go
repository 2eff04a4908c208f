// Package dns is the child that serves names: to the hosts on the links that the profile names, and to the guest
// itself. It puts together what its rooms do: server takes queries, override and the sources of local names and zones
// know answers, forward and cache get and keep those of others, upstream asks them.
//
// What it deliberately does not do: resolve from the root of the tree by itself; it asks resolvers. It knows no views
// beyond whom each link's hosts have asked for them.
package dns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
	"rempart/firstboot/dns/server"
	"rempart/firstboot/door"
	"rempart/firstboot/names"
	"rempart/firstboot/onlink"
)

// Spec is the child, there when the profile serves names. CAP_NET_BIND_SERVICE is for port 53.
func Spec() child.Spec {
	return child.Spec{
		Name: "dns",
		Run:  Run,
		Needed: func(root string) bool {
			p, _, err := child.ReadProfile(root)
			return err == nil && p.DNS != nil
		},
		After:   []string{"policy"},
		Follows: true,
		UID:     contract.UIDDNS,
		Caps:    []uintptr{unix.CAP_NET_BIND_SERVICE},
		Own:     []string{contract.DNSDir},
		Read: []string{contract.BlockedPath, contract.LinkDir, contract.ListsDir, caPath,
			identity.ConsumerDir(identity.ConsumerDNS)},
		OOMScore: 300,
		Files:    maxFiles,
	}
}

// maxFiles has room for a socket of each question under way, for clients' connections, and for listening: six sockets
// on each of 64 links and on the loopback.
const (
	maxAskingSockets = 512
	maxFiles         = maxAskingSockets + server.MaxConnections + 6*65 + 64
)

// base is what the child's heap takes beside the cache, in bytes: the program, what is under way (forward.MaxFlights),
// connections. The cache counts twice, for what the collector has not given back yet.
const base = 20 << 20

// secureMemory is what connections by TLS take beside that, in bytes: 20 KiB each (TestCrowd), with as much again that
// the collector has not given back yet.
const secureMemory = 2 * 20 << 10 * server.MaxConnections

// Memory is what the child's heap is kept within for a cache of so many bytes.
func Memory(cache int64) int64 { return base + 2*cache }

// late is how long the links may take before the child says that it is ready without them.
const late = 5 * time.Second

// Run serves until ctx is done.
func Run(ctx context.Context, env *child.Env) error {
	if env.Profile.DNS == nil {
		env.Ready()
		<-ctx.Done()
		return nil
	}
	limit := Memory(env.Profile.DNS.Cache) + ownMemory(env.Profile) + listMemory(env.Profile)
	if env.Profile.DNS.ServesTLS() {
		limit += secureMemory
	}
	old := debug.SetMemoryLimit(limit)
	defer debug.SetMemoryLimit(old)
	h, err := newHouse(env)
	if err != nil {
		return err
	}
	defer h.close()
	if h.secure, err = secureConfig(env.Root, env.Profile.DNS); err != nil {
		env.Tell(child.KeyFailure, err.Error()) // and yet everybody else is served
	} else {
		env.Tell(child.KeyFailure, "")
	}
	ctx, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	for _, g := range h.groups {
		all.Go(func() { g.Probe(ctx) })
	}
	if h.leases != "" {
		all.Go(func() { names.Follow(ctx, h.leases, env.Log, h.local.Apply) })
	}
	if len(env.Profile.BlockLists()) > 0 {
		all.Go(func() { h.lists.follow(ctx) })
	}
	learnt := filepath.Join(env.Root, contract.LearntPath)
	h.lookUplink(learnt) // who asks first is not told that there is nobody to ask
	all.Go(func() { h.followUplink(ctx, learnt) })
	status, err := counter(env.Log).Listen(filepath.Join(env.Root, contract.DNSSocket))
	if err != nil {
		return err
	}
	all.Go(func() { h.serveStatus(ctx, status) })
	return h.serve(ctx, env, &all)
}

// serve serves the links, and the guest itself.
func (h *house) serve(ctx context.Context, env *child.Env, all *sync.WaitGroup) error {
	errs := make(chan error, 2)
	waiting := map[string]bool{}
	var names []string
	for name := range h.access {
		names = append(names, name)
		waiting[name] = true
	}
	slices.Sort(names)
	served := make(chan string)
	if env.Profile.DNS.Self {
		waiting[loopback] = true
		all.Go(func() {
			errs <- h.on(ctx, loopback, h.self, false, served)
		})
	}
	all.Go(func() {
		errs <- onlink.Serve(ctx, names, env.Log, func(ctx context.Context, l onlink.Link) error {
			return h.on(ctx, l.Name, h.access[l.Name], h.secure != nil && h.tls[l.Name], served)
		})
	})
	timer := time.NewTimer(late)
	defer timer.Stop()
	if len(waiting) == 0 {
		env.Ready()
	}
	for {
		select {
		case name := <-served:
			if delete(waiting, name); len(waiting) == 0 {
				env.Tell(child.KeyWarning, "")
				env.Ready()
			}
		case <-timer.C:
			for name := range waiting {
				env.Tell(child.KeyWarning, fmt.Sprintf("DNS is not served on link %s yet", name))
			}
			env.Ready()
		case err := <-errs:
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// loopback is the device of the guest's own queries.
const loopback = "lo"

// on serves one device while ctx lasts, and says so once it listens.
func (h *house) on(ctx context.Context, device string, access *server.Access, secure bool,
	served chan<- string) error {
	sockets, err := server.Listen(ctx, device, secure)
	if err != nil {
		return err
	}
	select {
	case served <- device:
	case <-ctx.Done():
		sockets.Close()
		return nil
	}
	return h.server.Serve(ctx, sockets, access, h.secure)
}

// subnets are those of a device now.
func subnets(device string) (all []netip.Prefix) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return nil
	}
	addresses, err := i.Addrs()
	if err != nil {
		return nil
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok {
			ip, ok := netip.AddrFromSlice(n.IP)
			if ones, _ := n.Mask.Size(); ok {
				all = append(all, netip.PrefixFrom(ip.Unmap(), ones).Masked())
			}
		}
	}
	return all
}

// Status is how the child does, as it says on its socket.
type Status struct {
	server.Totals
	Details
}

// maxAsking bounds who asks at a time how the child does.
const maxAsking = 8

// counter is the socket on which the child says how it does to whoever asks: there is no secret in it.
func counter(log *slog.Logger) door.Door {
	return door.Door{Name: "dns socket", Most: maxAsking, Log: log}
}

// statusWait is how long one who asked may take to read.
const statusWait = 2 * time.Second

// serveStatus answers who asks.
func (h *house) serveStatus(ctx context.Context, l door.Listener) {
	counter(h.log).Serve(ctx, l, func(_ context.Context, conn *net.UnixConn, _ uint32) {
		_ = conn.SetDeadline(time.Now().Add(statusWait))
		if err := json.NewEncoder(conn).Encode(h.status()); err != nil {
			h.log.Debug("counters were not taken", "error", err)
		}
	})
}

// maxStatus bounds what ReadStatus takes, in bytes.
const maxStatus = 256 << 10

// ReadStatus asks the child at a socket how it does.
func ReadStatus(ctx context.Context, socket string) (s Status, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return s, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(statusWait))
	d := json.NewDecoder(&boundedReader{conn, maxStatus})
	d.DisallowUnknownFields()
	return s, d.Decode(&s)
}

// boundedReader fails after so many bytes.
type boundedReader struct {
	r    net.Conn
	left int
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("more than a status has")
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
