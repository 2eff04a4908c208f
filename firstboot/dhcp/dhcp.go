// Package dhcp is the child that gives out addresses on the inside links the profile names. Packages v4 and v6 decide
// what clients are answered, package lease remembers it; here they get their links, their disk and their clock.
//
// Leases are on the state disk. A guest without one serves all the same and says that its leases die with it; a
// restarted child finds them in any case, for /var outlives it.
//
// What it deliberately does not do: be a DHCP client (packages link/dhcp4 and link/dhcp6), or give names (who follows
// the leases does).
package dhcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/dhcp/downstream"
	"rempart/firstboot/dhcp/lease"
	v4 "rempart/firstboot/dhcp/v4"
	v6 "rempart/firstboot/dhcp/v6"
	"rempart/firstboot/names"
	"rempart/firstboot/onlink"
	"rempart/profiles"
)

// Files of leases, in contract.DHCPDir.
const (
	leases4 = "leases4"
	leases6 = "leases6"
)

// Spec is the child, there when the profile gives out addresses. CAP_NET_RAW is for answers to clients that have no
// address yet and for asking whether an address is in use, CAP_NET_BIND_SERVICE for the server's port.
//
// Memory: some 640 bytes for each lease with its name, of which lease.DefaultMost are kept at most.
func Spec() child.Spec {
	return child.Spec{
		Name: "dhcp",
		Run:  run,
		Needed: func(root string) bool {
			p, _, err := child.ReadProfile(root)
			return err == nil && len(p.DHCP)+len(p.DHCP6) > 0
		},
		After:       []string{"policy", "state"},
		Follows:     true,
		UID:         contract.UIDDHCP,
		Caps:        []uintptr{unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE},
		Own:         []string{contract.DHCPRunDir, contract.DownstreamDir},
		Write:       []string{contract.DHCPDir},
		OOMScore:    200,
		MemoryLimit: memoryLimit,
	}
}

// memoryLimit bounds the child, in bytes: the 40 MiB that 65,536 leases and their names take (TestMemory), a quarter of
// that for profiles.MaxLeases6 more, and garbage. A guest with a few hundred leases needs a tenth.
const memoryLimit = 72 << 20

// sweepEvery is how often what has ended is taken back.
const sweepEvery = time.Second

func run(ctx context.Context, env *child.Env) error {
	store, problem, err := openStore(env, leases4, lease.DefaultMost)
	if err != nil {
		return err
	}
	store6, problem6, err := openStore(env, leases6, profiles.MaxLeases6)
	if err != nil {
		return errors.Join(err, store.Close())
	}
	env.Tell(child.KeyFailure, cmp.Or(problem, problem6))
	probes := v4.NewProbes()
	feed := feed{names.NewFeed(), names.DHCP4, env.Log}
	feed6 := feed
	feed6.origin = names.DHCP6
	config6 := v6.Config{DHCP6: env.Profile.DHCP6, Links: env.Profile.Links, Store: store6, Names: feed6, Log: env.Log}
	if slices.ContainsFunc(config6.DHCP6, func(d profiles.DHCP6) bool { return d.Delegate != nil }) {
		config6.Lead = func(ways []downstream.Way) error { return downstream.Write(env.Root, ways) }
	}
	server6 := v6.New(config6)
	server := v4.New(v4.Config{DHCP: env.Profile.DHCP, Store: store, Names: feed, Prober: probes, Log: env.Log})
	followers, err := names.Listen(filepath.Join(env.Root, contract.NamesSocket))
	if err != nil {
		return errors.Join(err, store.Close(), store6.Close())
	}
	var links []string
	for _, d := range env.Profile.DHCP {
		links = append(links, d.Link)
	}
	ctx, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	failed := make(chan error, 5)
	all.Go(func() {
		if len(env.Profile.DHCP6) > 0 { // who follows had all names of a process before this one, and is not told of fewer
			select {
			case <-server6.Looked():
			case <-ctx.Done():
			}
		}
		feed.Serve(ctx, followers, env.Log)
		failed <- nil
	})
	all.Go(func() {
		failed <- onlink.Serve(ctx, links, env.Log, func(ctx context.Context, l onlink.Link) error {
			return probes.Run(ctx, l, env.Log)
		})
	})
	all.Go(func() {
		failed <- onlink.Serve(ctx, links, env.Log, func(ctx context.Context, l onlink.Link) error {
			return server.Serve(ctx, l, env.Log)
		})
	})
	if len(env.Profile.DHCP6) > 0 {
		all.Go(func() { failed <- server6.Run(ctx) })
	}
	desk := &desk{store: store, server: server, server6: server6, log: env.Log}
	all.Go(func() { failed <- desk.serve(ctx, filepath.Join(env.Root, contract.DHCPSocket)) })
	env.Ready()
	err = loop(ctx, env, server, failed)
	stop()
	all.Wait()
	return errors.Join(err, store.Close(), store6.Close())
}

// loop takes back what has ended, and says which pools are full, until ctx is done or a part fails.
func loop(ctx context.Context, env *child.Env, server *v4.Server, failed <-chan error) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	told := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if err != nil || ctx.Err() != nil {
				return err
			}
			return errors.New("a part of the DHCP server ended") // all of them run until ctx is done
		case <-tick.C:
			server.Sweep()
			warning := ""
			if full := server.Full(); len(full) > 0 {
				warning = fmt.Sprintf("no address is left for new clients of %v: make the pool larger or leases shorter", full)
			}
			if warning != told {
				told = warning
				env.Tell(child.KeyWarning, warning)
			}
		}
	}
}

// openStore opens the leases on the state disk. When that cannot be, addresses are given out all the same, and the
// guest says that it will have forgotten them, and why: a network without addresses would be the worse of the two.
func openStore(env *child.Env, file string, most int) (store *lease.Store, problem string, err error) {
	o := lease.Options{Path: filepath.Join(env.Root, contract.DHCPDir, file), Most: most, Clock: lease.SystemClock(),
		Log: env.Log}
	if env.Profile.State.Size == 0 && file == leases4 {
		env.Log.Info("there is no state disk: leases die with the guest")
	}
	if err := os.MkdirAll(filepath.Dir(o.Path), 0o750); err != nil {
		env.Log.Debug("the directory of the leases", "error", err)
	}
	if store, err = lease.Open(o); err == nil {
		return store, "", nil
	}
	problem = fmt.Sprintf("leases are not kept over a restart: %v", err)
	o.Path = ""
	store, err = lease.Open(o)
	return store, problem, err
}
