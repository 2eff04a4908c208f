// Package onlink runs what serves a link for as long as the link is there: links come late, vanish and come back with
// another index, and a socket bound to one that vanished hears nothing ever again and does not say so.
//
// What it deliberately does not do: configure links, or know what is served on them.
package onlink

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/announce"
)

// Link is an interface that is there.
type Link struct {
	Name  string
	Index int              // of the kernel, 1 and more
	MAC   net.HardwareAddr // empty for links without, such as WireGuard's
	MTU   int              // bytes
}

// Waits before a server that ended is started again; they double.
const (
	firstWait = 250 * time.Millisecond
	longWait  = 30 * time.Second
	// longRun is how long a server must have run for its end to count as the first one.
	longRun = time.Minute
)

// debounce gathers the announcements of one change.
const debounce = 20 * time.Millisecond

// Serve runs serve once for each of the named links that is there and up, with a context that ends when the link does:
// when it vanishes, goes down or comes back as another one, when its hardware address or MTU changes, or when ctx ends.
// A serve that returns before that is started again, after a wait when it returned an error, which is logged. Serve
// returns when ctx is done and every serve has returned, or when the kernel's announcements cannot be had.
func Serve(ctx context.Context, links []string, log *slog.Logger, serve func(context.Context, Link) error) error {
	events, err := announce.Subscribe(unix.RTMGRP_LINK)
	if err != nil {
		return err
	}
	dirty, broken := make(chan struct{}, 1), make(chan error, 1)
	go func() { broken <- events.Watch(dirty) }()
	var all sync.WaitGroup
	running := map[string]running{}
	defer all.Wait()
	defer func() {
		for _, r := range running {
			r.stop()
		}
		events.Close()
	}()
	for {
		for _, name := range links {
			now, there := look(name)
			r, runs := running[name]
			if runs && (!there || !now.same(r.link)) {
				r.stop()
				<-r.done // the next one binds what this one has bound
				delete(running, name)
				runs = false
			}
			if there && !runs {
				turn, stop := context.WithCancel(ctx)
				r := start(turn, now, log, serve, &all)
				r.stop = stop
				running[name] = r
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case <-dirty:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(debounce):
		}
	}
}

// running is a link that is served.
type running struct {
	link Link
	stop context.CancelFunc
	done chan struct{}
}

func start(ctx context.Context, l Link, log *slog.Logger, serve func(context.Context, Link) error,
	all *sync.WaitGroup) running {
	r := running{link: l, done: make(chan struct{})}
	all.Go(func() {
		defer close(r.done)
		wait := firstWait
		for ctx.Err() == nil {
			began := time.Now()
			err := serve(ctx, l)
			if err == nil || ctx.Err() != nil {
				continue
			}
			if time.Since(began) > longRun {
				wait = firstWait
			}
			log.Warn("link "+l.Name+" is not served", "error", err, "again in", wait)
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			wait = min(2*wait, longWait)
		}
	})
	return r
}

// look finds a link that is there and up.
func look(name string) (Link, bool) {
	i, err := net.InterfaceByName(name)
	if err != nil || i.Flags&net.FlagUp == 0 {
		return Link{}, false
	}
	return Link{Name: i.Name, Index: i.Index, MAC: i.HardwareAddr, MTU: i.MTU}, true
}

func (l Link) same(other Link) bool {
	return l.Index == other.Index && l.MTU == other.MTU && l.MAC.String() == other.MAC.String()
}
