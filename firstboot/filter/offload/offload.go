// Package offload keeps the flow table of the policy bound to the links that are there, and ends the short ways of
// flows when somebody is banned. See package filter for what a flow table is about.
//
// What it deliberately does not do: decide which flows take the short way, or whether the kernel has one.
package offload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/kernel"
	"rempart/firstboot/onlink"
	"rempart/profiles"
)

// banned is how often it is asked whether a rate has banned somebody, which the kernel does not announce: so long may
// flows of the banned that skip the rules go on. Bans by hand do not wait for it, unless links are bound just then.
const banned = time.Second

// again is how long after a failure the links are bound once more.
const again = time.Second

// keeper is what is known of the links.
type keeper struct {
	mu    sync.Mutex
	there map[string]bool
	dirty chan struct{}
}

// Keep binds the flow table to the links of the profile as they come and go, until ctx ends. A profile without a flow
// table needs nothing, and Keep returns when ctx ends.
func Keep(ctx context.Context, p *profiles.Profile, log *slog.Logger, opts kernel.Options) error {
	links := filter.OffloadLinks(p)
	if len(links) == 0 {
		<-ctx.Done()
		return nil
	}
	ctx, stop := context.WithCancel(ctx)
	k := &keeper{there: map[string]bool{}, dirty: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.bind(ctx, len(p.Bans) > 0, log, opts)
	}()
	err := onlink.Serve(ctx, links, log, func(ctx context.Context, l onlink.Link) error {
		k.set(l.Name, true)
		<-ctx.Done()
		k.set(l.Name, false)
		return nil
	})
	stop()
	<-done
	if err != nil {
		return fmt.Errorf("links for the flow table: %w", err)
	}
	return nil
}

// set notes that a link is there, or no longer.
func (k *keeper) set(name string, there bool) {
	k.mu.Lock()
	k.there[name] = there
	k.mu.Unlock()
	select {
	case k.dirty <- struct{}{}:
	default: // somebody will look anyhow
	}
}

// now are the links that are there.
func (k *keeper) now() (all []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, there := range k.there {
		if there {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// bind follows what set notes, and the bans.
func (k *keeper) bind(ctx context.Context, bans bool, log *slog.Logger, opts kernel.Options) {
	var retry, look <-chan time.Time
	if bans {
		ticker := time.NewTicker(banned)
		defer ticker.Stop()
		look = ticker.C
	}
	brought, said := uint64(0), ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-look:
			n, err := bansByRate(opts)
			if err != nil || n == brought {
				continue // without the table of bans nobody is banned
			}
			brought = n
		case <-retry:
		case <-k.dirty:
		}
		retry = nil
		links := k.now()
		err := kernel.Offload(ctx, links, opts)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			said = ""
			log.Info("known flows take the short way", "links", links)
		default:
			// A link may have gone in between; what is bound no longer is slower and as right.
			if err.Error() != said {
				log.Warn("known flows do not take the short way", "error", err, "again in", again)
			}
			said, retry = err.Error(), time.After(again)
		}
	}
}

// bansByRate is how many connections brought a ban so far.
func bansByRate(opts kernel.Options) (uint64, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(opts.NetNS))
	if err != nil {
		return 0, fmt.Errorf("open netlink to nf_tables: %w", err)
	}
	obj, err := conn.GetObject(&nftables.NamedObj{Name: filter.CounterBanning, Type: nftables.ObjTypeCounter,
		Table: &nftables.Table{Name: filter.BanTable, Family: nftables.TableFamilyINet}})
	if err != nil {
		return 0, err
	}
	switch obj := obj.(type) {
	case *nftables.NamedObj:
		if c, ok := obj.Obj.(*expr.Counter); ok {
			return c.Packets, nil
		}
	case *nftables.CounterObj:
		return obj.Packets, nil
	}
	return 0, errors.New("the counter of bans is none")
}
