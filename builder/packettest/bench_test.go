package packettest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/builder/hypervisor"
	"rempart/builder/virtualnet"
	"rempart/firstboot/filter"
	"rempart/profiles"
)

// kernelGuest is a network namespace of this machine in the place of a guest: a tap for each link, the profile's
// addresses on it, and a ruleset.
type kernelGuest struct {
	run chan func()
}

// newKernelGuest makes the namespace; it dies with the test.
func newKernelGuest(t *testing.T, p *profiles.Profile, macs []net.HardwareAddr, b *Bench) *kernelGuest {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: a network namespace in the place of a guest needs root; run the tests as root")
	}
	for tool, pkg := range map[string]string{"ip": "iproute2", "nft": "nftables", "sysctl": "procps"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing; install it with `apt install %s`", tool, pkg)
		}
	}
	g := &kernelGuest{run: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, and with it the namespace, ends with this goroutine
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range g.run {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(g.run) })
	for i, l := range p.Links {
		wire := g.tap(t, l.Name)
		b.Plug(i, wire)
		g.sh(t, "ip", "link", "set", l.Name, "address", macs[i].String())
		g.sh(t, "sysctl", "-qw", "net.ipv6.conf."+l.Name+".accept_dad=0", "net.ipv6.conf."+l.Name+".accept_ra=0")
		for _, a := range l.Addresses {
			g.sh(t, "ip", "address", "add", a.String(), "dev", l.Name)
		}
	}
	g.sh(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	return g
}

// start brings the links up.
func (g *kernelGuest) start(t *testing.T, p *profiles.Profile) {
	t.Helper()
	for _, l := range p.Links {
		g.sh(t, "ip", "link", "set", l.Name, "up")
		for _, gw := range l.Gateways {
			g.sh(t, "ip", "route", "add", "default", "via", gw.Addr.String(), "dev", l.Name)
		}
	}
}

// sh runs a program inside the namespace.
func (g *kernelGuest) sh(t *testing.T, name string, args ...string) {
	t.Helper()
	g.pipe(t, "", name, args...)
}

func (g *kernelGuest) pipe(t *testing.T, in, name string, args ...string) {
	t.Helper()
	done := make(chan error)
	g.run <- func() {
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(in)
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
		}
		done <- err
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// tap makes a tap in the namespace and returns a wire to it.
func (g *kernelGuest) tap(t *testing.T, name string) net.Conn {
	t.Helper()
	type result struct {
		f   *os.File
		err error
	}
	made := make(chan result)
	g.run <- func() {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			made <- result{nil, err}
			return
		}
		req, err := unix.NewIfreq(name)
		if err == nil {
			req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		made <- result{os.NewFile(uintptr(fd), "tap "+name), err}
	}
	r := <-made
	if r.err != nil {
		t.Fatalf("tap %s: %v", name, r.err)
	}
	ours, theirs := net.Pipe()
	t.Cleanup(func() { r.f.Close(); theirs.Close() })
	go func() { // namespace to wire
		buf := make([]byte, virtualnet.MaxFrame)
		for {
			n, err := r.f.Read(buf)
			if err != nil {
				return
			}
			if _, err := theirs.Write(virtualnet.AppendFrame(nil, buf[:n])); err != nil {
				return
			}
		}
	}()
	go func() { // wire to namespace
		buf := make([]byte, virtualnet.MaxFrame)
		for {
			frame, err := virtualnet.ReadFrame(theirs, buf)
			if err != nil {
				return
			}
			// A tap that is not up yet refuses frames, as a NIC nobody drives loses them.
			_, _ = r.f.Write(frame)
		}
	}()
	return ours
}

// rig is a bench with a namespace in it, for a profile.
func rig(t *testing.T, name string) (*Bench, *kernelGuest, *profiles.Profile) {
	t.Helper()
	t.Parallel() // each has a namespace of its own, and mostly waits
	p, err := profiles.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	var links []string
	for _, l := range p.NICs() {
		links = append(links, l.Name)
	}
	macs := hypervisor.MACs(p.Name, links)
	b, err := New(p, macs, Options{Log: slog.New(slog.DiscardHandler), Captures: filepath.Join(t.TempDir(), "pcap")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, newKernelGuest(t, p, macs, b), p
}

func run(t *testing.T, b *Bench) Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	r, err := b.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The kernel with the profile's own ruleset is judged right in every flow, also those before the policy is there.
func TestPolicyIsRight(t *testing.T) {
	b, g, p := rig(t, "home-firewall")
	rules, err := filter.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	knocking, ready := context.WithCancel(context.Background())
	knocks := make(chan Knocks)
	go func() { knocks <- b.Knock(knocking) }()
	g.pipe(t, rules.Text(), "nft", "-f", "-")
	g.start(t, p)
	time.Sleep(2 * knockEvery * time.Duration(len(b.Probes())))
	ready()
	k := <-knocks
	r := run(t, b)
	r.Knocks = &k
	if !r.OK() || r.Right != len(b.Probes()) || k.Sent < len(b.Probes()) {
		var out strings.Builder
		r.Table(&out, false)
		t.Errorf("report of a right policy is\n%s\nwant all right and knocks delivered", out.String())
	}
}

// A stream is lost as a whole while links are down, and passes once they are up.
func TestStream(t *testing.T) {
	b, g, p := rig(t, "home-firewall")
	rules, err := filter.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	stream := func() Outage {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		o, err := b.Stream(ctx, 10*time.Millisecond)
		if err != nil || o.Sent == 0 || o.Flow == "" {
			t.Fatalf("Stream = %+v, %v; want packets of a line of the policy", o, err)
		}
		return o
	}
	if o := stream(); o.Lost() != o.Sent || o.Gap != 0 {
		t.Errorf("Stream to links that are down = %+v; want all lost", o)
	}
	g.pipe(t, rules.Text(), "nft", "-f", "-")
	g.start(t, p)
	if r := run(t, b); !r.OK() {
		t.Errorf("report = %+v; want all right", r)
	}
	o := stream()
	for end := time.Now().Add(time.Minute); o.Passed < 2 && time.Now().Before(end); { // a busy machine may be late
		o = stream()
	}
	if o.Passed < 2 || o.Passed > o.Sent || o.Gap <= 0 {
		t.Errorf("Stream to links that are up = %+v; want packets that passed, each counted once", o)
	}
}

// tcpdump reads a capture as a foreign judge.
func tcpdump(t *testing.T, path string) {
	t.Helper()
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Fatal("tcpdump is missing; install it with `apt install tcpdump`")
	}
	out, err := exec.Command("tcpdump", "-nnr", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "IP") {
		t.Errorf("tcpdump -r %s = %v, %.300s; want IP packets", path, err, out)
	}
}

// A guest that is given its address by the bench's provider is judged by that address.
func TestUplinkByDHCP(t *testing.T) {
	b, g, p := rig(t, "dhcp-uplink")
	rules, err := filter.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	g.pipe(t, rules.Text(), "nft", "-f", "-")
	wan := b.links["wan"]
	g.sh(t, "ip", "address", "add", wan.own[0].String(), "dev", "wan") // what a client makes of the lease
	g.start(t, p)
	g.sh(t, "ip", "route", "add", "default", "via", wan.gateways[false].String(), "dev", "wan")
	for _, probe := range b.Probes() {
		if !probe.Dst.IsValid() || !probe.SeenSrc.IsValid() || !probe.SeenDst.IsValid() {
			t.Errorf("probe %+v; want every address filled in", probe)
		}
	}
	if r := run(t, b); !r.OK() {
		var out strings.Builder
		r.Table(&out, false)
		t.Errorf("report of a right policy is\n%s\nwant all right", out.String())
	}
}
