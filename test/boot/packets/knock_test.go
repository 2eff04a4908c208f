package packets

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"rempart/builder/virtualnet"
	"rempart/firstboot/contract"
)

// kind is what may become of a knock.
type kind int

const (
	forbidden kind = iota // nothing
	spoofed               // nothing, and no policy could allow it: its source belongs elsewhere
	allowed               // it passes, or is answered, once the policy is loaded
)

// knock is one packet that is sent over and over, put on the guest's tap by hand: without asking for hardware
// addresses, from power-on, as an attacker on the link would.
type knock struct {
	link     string
	src      string // address
	flow     string // "tcp", "udp" or "ping"
	to       string // address, with a port unless it is ping
	kind     kind
	injector *os.File
	frame    []byte
}

func (k *knock) String() string {
	return fmt.Sprintf("%s: %s from %s to %s", k.link, k.flow, k.src, k.to)
}

// Source ports and pace of knocks. A tap holds 1000 frames (the kernel's default tx queue of a tap) until the guest
// takes them: at this pace those of twenty seconds of boot fit, and the guest's first act on a link is to judge them.
const (
	knockPort  = 65001 // dynamic (RFC 6335), and not one the hosts' kernels choose
	knockEvery = 600 * time.Millisecond
)

// knockMAC is a locally administered address that nobody has.
var knockMAC = net.HardwareAddr{0x02, 0x52, 0x4d, 0x50, 0x00, 0x01}

// knocking sends knocks in rounds until it is stopped.
type knocking struct {
	*world
	knocks []*knock
	stop   context.CancelFunc
	ended  chan struct{}
	mu     sync.Mutex
	rounds int
	round  chan struct{} // closed and replaced after each round
}

// knock starts to knock. It ends with the test.
func (w *world) knock(t *testing.T, knocks []knock) *knocking {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	all := &knocking{world: w, stop: cancel, ended: make(chan struct{}), round: make(chan struct{})}
	injectors := map[string]*os.File{}
	for link, tap := range w.taps {
		injectors[link] = w.hyper.Sender(t, tap)
	}
	for i := range knocks {
		k := &knocks[i]
		k.injector = injectors[k.link]
		k.make(w.macs[k.link], i)
		d, err := virtualnet.Dissect(k.frame)
		if err != nil || fingerprint(d) == "" {
			t.Fatalf("%s: %v; want a frame with a fingerprint", k, err)
		}
		w.watch.mu.Lock()
		w.watch.add(k.link, d, k)
		w.watch.mu.Unlock()
		all.knocks = append(all.knocks, k)
	}
	go all.run(ctx)
	t.Cleanup(all.end)
	return all
}

func (k *knock) make(mac net.HardwareAddr, number int) {
	d := virtualnet.Datagram{SrcMAC: knockMAC, DstMAC: mac, Src: netip.AddrPortFrom(netip.MustParseAddr(k.src), knockPort)}
	payload := fmt.Appendf(nil, "rempart knock %04d", number)
	switch k.flow {
	case "ping":
		d.Dst = netip.AddrPortFrom(netip.MustParseAddr(k.to), 0)
		k.frame = d.Echo(payload)
	case "udp":
		d.Dst = netip.MustParseAddrPort(k.to)
		k.frame = d.UDP(payload)
	default:
		d.Dst = netip.MustParseAddrPort(k.to)
		k.frame = d.SYN(rand.Uint32())
	}
}

func (k *knocking) run(ctx context.Context) {
	defer close(k.ended)
	tick := time.NewTicker(knockEvery)
	defer tick.Stop()
	for {
		for _, one := range k.knocks {
			_, _ = one.injector.Write(one.frame) // fails before QEMU is at the tap; what was sent the watch counts
		}
		k.mu.Lock()
		k.rounds++
		close(k.round)
		k.round = make(chan struct{})
		k.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (k *knocking) end() {
	k.stop()
	<-k.ended
}

// more waits until every knock has been sent n more times.
func (k *knocking) more(n int) {
	k.mu.Lock()
	until := k.rounds + n + 1 // the round that runs may have begun before
	k.mu.Unlock()
	for {
		k.mu.Lock()
		rounds, round := k.rounds, k.round
		k.mu.Unlock()
		if rounds >= until {
			return
		}
		<-round
	}
}

// judge demands that every knock was sent to the guest's NIC, that nothing ever came of one that is not allowed, and of
// one that is, nothing before the guest had its policy: not before opened.
func (k *knocking) judge(t *testing.T, opened time.Time) {
	t.Helper()
	sent, leaked, early, passed := 0, 0, 0, 0
	for _, trace := range k.watch.of(func(x *trace) bool { return x.knock != nil }) {
		sent += trace.sent
		if trace.sent == 0 {
			t.Errorf("%s: it was never sent to the guest, so nothing is shown", trace.knock)
		}
		var bad []sighting
		for _, s := range trace.out {
			switch {
			case trace.knock.kind != allowed:
				leaked++
				bad = append(bad, s)
			case opened.IsZero() || s.at.Before(opened):
				early++
				bad = append(bad, s)
			default:
				passed++
			}
		}
		switch {
		case len(bad) > 0 && trace.knock.kind == allowed:
			t.Errorf("%s: the guest let out %d before it had its policy: %s", trace.knock, len(bad), bad[0])
		case len(bad) > 0:
			t.Errorf("%s: it LEAKED %d times: %s", trace.knock, len(bad), bad[0])
		case trace.knock.kind == allowed && !opened.IsZero() && len(trace.out) == 0:
			t.Errorf("%s: nothing came of it though it is allowed: the others' silence shows nothing", trace.knock)
		}
	}
	full := uint64(0)
	for _, tap := range k.taps {
		full += k.hyper.Device(t, tap.Attrs().Name).Attrs().Statistics.TxDropped
	}
	t.Logf("%d knocks of %d kinds went to the guest (%d frames found its queue full): %d leaked, %d passed before the "+
		"policy, %d passed after it", sent, len(k.knocks), full, leaked, early, passed)
}

// linkUp tells whether any link is up.
func linkUp(r contract.Report) bool {
	for _, l := range r.Links {
		if l.Up {
			return true
		}
	}
	return false
}
