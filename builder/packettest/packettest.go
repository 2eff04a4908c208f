// Package packettest proves a profile's policy with real packets. It puts a virtual internet around a guest, lets the
// hosts in it try every flow of filter.Probes, and judges each by what the frames on the guest's links say and not by
// what anybody claims:
//
//   - a flow that must pass has to come out of the guest translated as expected, and its answer has to get back;
//   - a flow that must not pass has to have been delivered to the guest's NIC, must not come out by any link under
//     any translation, and must not be answered. That this is not the silence of a dead network is shown by a
//     control: flows that must pass, over the same links, before and after.
//
// From power-on until the guest is ready it also knocks with every flow that must not pass: nothing may get through
// before the policy is there either.
//
// VLANs, bonds, bridges and macvlans of the guest are plugged into by what lies below them, but for bridges that sort
// frames by VLAN. Nobody is on a dummy.
//
// What it deliberately does not do: start the guest, compute the flows, or test throughput.
package packettest

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"rempart/builder/virtualnet"
	"rempart/firstboot/filter"
	"rempart/profiles"
)

// Bench is a virtual internet with room for one guest.
type Bench struct {
	profile *profiles.Profile // with delegated delegated
	// delegated is what the uplink is delegated; zero: nothing.
	delegated netip.Prefix
	probes    []filter.Probe
	born      map[string]net.HardwareAddr    // what the guest's NICs have, by link
	macs      map[string]net.HardwareAddr    // what the guest uses, by link; nil: its kernel's choice
	wires     map[string]*virtualnet.Segment // by link; some share one
	links     map[string]*segment
	watch     *watch
	// receivers are the open ends of flows, each by what stops it; only link, dst, protocol and port of the key are set.
	receivers map[flowKey]func()
	// routed are the receivers, each with the sources it answers by way of the guest.
	routed   map[[2]netip.Addr]bool
	patience time.Duration // how long a flow that must pass may take
	log      *slog.Logger
	files    []*os.File
	dumps    []*virtualnet.Capture
	pcaps    string
}

// segment is what one link of the guest is plugged into, and who is there.
type segment struct {
	*virtualnet.Segment
	link     profiles.Link
	index    int
	own      []netip.Prefix      // the guest's addresses; of a DHCP link the one it is going to be given
	gateways map[bool]netip.Addr // by "is IPv6": whom the far side of a default route is behind
	hosts    map[netip.Addr]*virtualnet.Host
	router   *virtualnet.Host // has the gateways' addresses and those of everything behind them
	injector *virtualnet.Injector
	macs     byte // how many hardware addresses are given out
}

// Options are what a bench may be told.
type Options struct {
	Log *slog.Logger
	// Patience is how long a flow that must pass may take; zero: 30 s.
	Patience time.Duration
	// Captures is a folder for one capture of each NIC, LINK.pcap; empty: none.
	Captures string
}

// New builds the internet around a guest with the given profile, whose NICs have the given hardware addresses, in the
// order of profiles.Profile.NICs. What links of the profile are delegated is profiles.Profile.SupposedPrefix.
func New(p *profiles.Profile, macs []net.HardwareAddr, o Options) (*Bench, error) {
	nics := p.NICs()
	if len(macs) != len(nics) {
		return nil, fmt.Errorf("packet test of %s: %d hardware addresses for %d NICs", p.Name, len(macs), len(nics))
	}
	delegated := p.SupposedPrefix()
	p = p.Supposed()
	b := &Bench{profile: p, delegated: delegated, probes: filter.Probes(p),
		born: map[string]net.HardwareAddr{}, log: o.Log,
		macs: map[string]net.HardwareAddr{}, wires: map[string]*virtualnet.Segment{}, links: map[string]*segment{},
		watch: newWatch(), receivers: map[flowKey]func(){}, routed: map[[2]netip.Addr]bool{},
		pcaps: o.Captures, patience: cmp.Or(o.Patience, passTime)}
	for i, l := range nics {
		b.born[l.Name] = macs[i]
	}
	if err := b.build(); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *Bench) build() error {
	if err := b.addWires(); err != nil {
		return err
	}
	for i, l := range b.profile.Links {
		s, err := b.addSegment(i, l)
		if err != nil {
			return err
		}
		b.links[l.Name] = s
	}
	for i := range b.probes {
		b.complete(&b.probes[i])
		if err := b.populate(b.probes[i]); err != nil {
			return err
		}
	}
	return nil
}

// Close ends everything and writes the captures out.
func (b *Bench) Close() error {
	for _, stop := range b.receivers {
		if stop != nil {
			stop()
		}
	}
	for _, s := range b.wires {
		s.Close()
	}
	var failed error
	for i, c := range b.dumps {
		if err := c.Flush(); err != nil && failed == nil {
			failed = fmt.Errorf("capture %s: %w", b.files[i].Name(), err)
		}
		b.files[i].Close()
	}
	return failed
}

// Plug connects our end of the wire of a NIC, by its place among profiles.Profile.NICs.
func (b *Bench) Plug(nic int, wire net.Conn) {
	b.wires[b.profile.NICs()[nic].Name].PlugGuest(wire)
}

// Probes are the flows, with what only this bench knows filled in.
func (b *Bench) Probes() []filter.Probe { return b.probes }

func (b *Bench) capture(s *virtualnet.Segment, link string) error {
	if b.pcaps == "" {
		return nil
	}
	if err := os.MkdirAll(b.pcaps, 0o777); err != nil {
		return fmt.Errorf("captures: %w", err)
	}
	f, err := os.Create(filepath.Join(b.pcaps, link+".pcap"))
	if err != nil {
		return fmt.Errorf("captures: %w", err)
	}
	c := virtualnet.NewCapture(f)
	b.files, b.dumps = append(b.files, f), append(b.dumps, c)
	s.Observe(c.Observe)
	return nil
}

// How flows are tried.
const (
	// passTime is how long a flow that must pass may take by default. A translated guest on a busy host needs a
	// thirtieth.
	passTime = 30 * time.Second
	// silence is how long an answer to a flow that must not pass is waited for. The closing controls, which queue up
	// behind it in the guest, are what makes it long enough: what comes out later is still seen.
	silence = 1200 * time.Millisecond
	// settle is how long stragglers are watched for after the last control.
	settle = 200 * time.Millisecond
	// crowd is how many flows are tried at once: a fourth of what a NIC's queue holds, 256 packets.
	crowd = 64
)

// Run tries every flow and judges. The guest must be ready.
func (b *Bench) Run(ctx context.Context) (Report, error) {
	start := time.Now()
	var pass, block []int
	for i, p := range b.probes {
		if p.Pass {
			pass = append(pass, i)
		} else {
			block = append(block, i)
		}
	}
	n := len(b.probes)
	first, blocked, last := make([]*attempt, n), make([]*attempt, n), make([]*attempt, n)
	b.each(ctx, pass, first)
	b.each(ctx, block, blocked)
	var again []int // what did not pass at first is wrong whatever it does now
	for _, i := range pass {
		if last[i] = first[i]; b.judgePass(b.probes[i], first[i]).Right {
			again = append(again, i)
		}
	}
	b.each(ctx, again, last)
	select {
	case <-time.After(settle):
	case <-ctx.Done():
	}
	if err := ctx.Err(); err != nil {
		return Report{}, fmt.Errorf("packet test of %s: %w", b.profile.Name, err)
	}
	report := b.judge(first, blocked, last)
	report.Seconds = time.Since(start).Seconds()
	return report, nil
}

// each tries the named probes, many at a time.
func (b *Bench) each(ctx context.Context, which []int, out []*attempt) {
	var wait sync.WaitGroup
	slots := make(chan struct{}, crowd)
	for _, i := range which {
		slots <- struct{}{}
		wait.Add(1)
		go func() {
			defer wait.Done()
			defer func() { <-slots }()
			out[i] = b.try(ctx, b.probes[i])
		}()
	}
	wait.Wait()
}
