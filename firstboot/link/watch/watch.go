// Package watch tells other children what the links are now: their addresses with the lifetimes these have left, and
// by which of them IPv6 leads out. It asks the kernel, which package link keeps as the profile and others want it, so
// nobody has to be told of a prefix that was delegated, or of one that goes.
//
// What it deliberately does not do: change anything, wait for addresses, or know the profile.
package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rempart/firstboot/announce"
)

// View is what the links are at a moment.
type View struct {
	Links map[string]Link // by name
	// Out are the names of the links with carrier by which an IPv6 default route of any table leads.
	Out map[string]bool
	// Delegated are the prefixes that links inside have their addresses of: see package link.
	Delegated []netip.Prefix
}

// Link is an interface.
type Link struct {
	Index     int
	MAC       net.HardwareAddr // 6 bytes; nil: it is no Ethernet
	MTU       int              // bytes
	Running   bool             // it is up and has carrier
	LinkLocal netip.Addr       // that it can send from; zero: none yet
	Addresses []Address        // IPv6, beyond link-local ones, in the order of the kernel, usable or deprecated
}

// Address is an address of the guest with its subnet.
type Address struct {
	Prefix    netip.Prefix
	Valid     time.Duration // from the moment of the view; Forever: without end
	Preferred time.Duration // at most Valid; 0: it is deprecated
}

// Forever is a lifetime without end.
const Forever = time.Duration(math.MaxInt64)

// Times of watching.
const (
	debounce = 50 * time.Millisecond // gathers the events of one change
	recheck  = time.Minute           // looks without an event: lifetimes run out silently
)

// Run calls changed with what the links are, at once and whenever that changes, until ctx is done. A lifetime that only
// runs on is no change. It needs no capability.
func Run(ctx context.Context, log *slog.Logger, changed func(View)) error {
	events, err := announce.Subscribe(unix.RTMGRP_LINK | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_ROUTE)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, events.Close)()
	defer events.Close()
	dirty, broken := make(chan struct{}, 1), make(chan error, 1)
	go func() { broken <- events.Watch(dirty) }()
	var told View
	toldAt := time.Time{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	soon := true // the timer is set because of an event: a stream of events must not put it off
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case <-dirty:
			if !soon {
				timer.Reset(debounce)
				soon = true
			}
			continue
		case <-timer.C:
		}
		soon = false
		view, err := Look()
		if err != nil {
			log.Warn("what the links are is not known now; looking again", "error", err)
			timer.Reset(recheck)
			continue
		}
		if now := time.Now(); toldAt.IsZero() || !same(told, view, now.Sub(toldAt)) {
			told, toldAt = view, now
			changed(view)
		}
		timer.Reset(recheck)
	}
}

// slack is how far a lifetime may be from what was told and is still the same: the kernel counts whole seconds.
const slack = 3 * time.Second

// same tells whether a view is the one told some time before, with that time gone by.
func same(told, now View, passed time.Duration) bool {
	if len(told.Links) != len(now.Links) || !reflect.DeepEqual(told.Out, now.Out) ||
		!slices.Equal(told.Delegated, now.Delegated) {
		return false
	}
	for name, a := range told.Links {
		b, ok := now.Links[name]
		if !ok || !a.Same(b, passed) {
			return false
		}
	}
	return true
}

// Same tells whether b is what is left of a when so much time has passed, and nothing else happened.
func (a Link) Same(b Link, passed time.Duration) bool {
	if a.Index != b.Index || a.MAC.String() != b.MAC.String() || a.MTU != b.MTU || a.Running != b.Running ||
		a.LinkLocal != b.LinkLocal || len(a.Addresses) != len(b.Addresses) {
		return false
	}
	for i, x := range a.Addresses {
		y := b.Addresses[i]
		if x.Prefix != y.Prefix || !sameTime(x.Valid, y.Valid, passed) || !sameTime(x.Preferred, y.Preferred, passed) {
			return false
		}
	}
	return true
}

// After is what is left of a link's lifetimes after some time; addresses whose time is over are not in it.
func (a Link) After(passed time.Duration) Link {
	left := func(d time.Duration) time.Duration {
		if d == Forever {
			return d
		}
		return max(d-passed, 0)
	}
	var list []Address
	for _, x := range a.Addresses {
		if x = (Address{x.Prefix, left(x.Valid), left(x.Preferred)}); x.Valid > 0 {
			list = append(list, x)
		}
	}
	a.Addresses = list
	return a
}

func sameTime(told, now, passed time.Duration) bool {
	if told == Forever || now == Forever {
		return told == now
	}
	return (max(told-passed, 0) - now).Abs() <= slack
}

// tries is how often a dump that changes under the reader's eyes is read again before the last answer is taken.
const tries = 5

func dump[T any](read func() ([]T, error)) (list []T, err error) {
	for range tries {
		if list, err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
	return list, nil
}

// Look asks the kernel once.
func Look() (View, error) {
	view := View{Links: map[string]Link{}, Out: map[string]bool{}}
	links, err := dump(netlink.LinkList)
	if err != nil {
		return view, fmt.Errorf("listing interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		if a.RawFlags&unix.IFF_LOOPBACK != 0 {
			continue
		}
		names[a.Index] = a.Name
		link := Link{Index: a.Index, MTU: a.MTU,
			Running: a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_LOWER_UP != 0}
		if len(a.HardwareAddr) == 6 {
			link.MAC = a.HardwareAddr
		}
		view.Links[a.Name] = link
	}
	addresses, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V6) })
	if err != nil {
		return view, fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range addresses {
		l, known := view.Links[names[a.LinkIndex]]
		ip, ok := netip.AddrFromSlice(a.IP)
		if !known || !ok || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue
		}
		ones, _ := a.Mask.Size()
		if ip.IsLinkLocalUnicast() {
			if !l.LinkLocal.IsValid() {
				l.LinkLocal = ip
			}
		} else {
			valid := lifetime(a.ValidLft)
			l.Addresses = append(l.Addresses, Address{Prefix: netip.PrefixFrom(ip, ones), Valid: valid,
				Preferred: min(lifetime(a.PreferedLft), valid)})
		}
		view.Links[names[a.LinkIndex]] = l
	}
	routes, err := routes6(&netlink.Route{Type: unix.RTN_UNICAST, Table: unix.RT_TABLE_UNSPEC})
	if err != nil {
		return view, err
	}
	for _, r := range routes {
		if ones := 0; r.Dst != nil {
			if ones, _ = r.Dst.Mask.Size(); ones > 0 {
				continue
			}
		}
		for _, hop := range append(r.MultiPath, &netlink.NexthopInfo{LinkIndex: r.LinkIndex}) {
			// The kernel keeps the route of a link that lost its carrier.
			if name := names[hop.LinkIndex]; view.Links[name].Running {
				view.Out[name] = true
			}
		}
	}
	view.Delegated, err = delegated()
	return view, err
}

func routes6(like *netlink.Route) ([]netlink.Route, error) {
	list, err := dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V6, like, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	})
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	return list, nil
}

// delegated are the prefixes that package link has a route to nowhere for because they were delegated.
func delegated() (out []netip.Prefix, err error) {
	list, err := routes6(&netlink.Route{Type: unix.RTN_UNREACHABLE, Table: unix.RT_TABLE_MAIN})
	for _, r := range list {
		if r.Protocol != unix.RTPROT_DHCP || r.Dst == nil {
			continue
		}
		a, ok := netip.AddrFromSlice(r.Dst.IP)
		if ones, _ := r.Dst.Mask.Size(); ok && ones > 0 {
			out = append(out, netip.PrefixFrom(a, ones))
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out, err
}

// lifetime reads seconds as the kernel tells them, of which the greatest number is for ever (INFINITY_LIFE_TIME).
func lifetime(seconds int) time.Duration {
	if uint32(seconds) == math.MaxUint32 {
		return Forever
	}
	return time.Duration(uint32(seconds)) * time.Second
}
