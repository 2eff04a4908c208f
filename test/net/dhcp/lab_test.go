// Package dhcp_test runs the DHCP server's child in network namespaces, with the user and the capabilities it has in a
// guest, against foreign clients: dhclient, udhcpc, dhcpcd and systemd-networkd get, renew and keep addresses; perfdhcp
// and dhcping count; and it kills the child and looks whether the leases that were acknowledged are on the disk.
package dhcp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/dhcp"
	"rempart/profiles"
	"rempart/test/netns"
)

// The test binary is three programs: the test as it was started, the test inside namespaces of its own, and the child.
const (
	childEnv   = "REMPART_TEST_CHILD" // profile as JSON
	rootEnv    = "REMPART_TEST_ROOT"
	childPath  = "/run/dhcp.test" // a copy that an unprivileged user may execute
	patience   = 60 * time.Second
	childGrant = "+net_raw,+net_bind_service"
)

func TestMain(m *testing.M) {
	if p := os.Getenv(childEnv); p != "" {
		os.Exit(runChild(p))
	}
	if os.Geteuid() != 0 {
		fmt.Println(netns.Skipped + "foreign DHCP clients work for root only: run this with sudo")
		os.Exit(0)
	}
	if !netns.Inside() {
		os.Exit(netns.Isolate())
	}
	netns.CheckPowers()
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	flag.Parse()
	os.Exit(m.Run())
}

// furnish gives the clients places of their own for what they keep, and the child a copy of this program.
func furnish() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	for _, dir := range []string{"/run", "/var/lib/dhcp", "/var/lib/dhcpcd"} {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", dir, err)
		}
	}
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	return os.WriteFile(childPath, b, 0o755)
}

// runChild is the child as PID 1 would run it; it says "ready" on standard output.
func runChild(profile string) int {
	var p profiles.Profile
	if err := json.Unmarshal([]byte(profile), &p); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	spec := dhcp.Spec()
	err := spec.Run(ctx, &child.Env{
		Profile: &p,
		Log:     slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Root:    os.Getenv(rootEnv),
		Ready:   func() { fmt.Println("ready") },
		Tell:    func(key string, value any) { fmt.Fprintln(os.Stderr, "tell", key, value) },
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// lab is a server on the link lan and clients on the same switch.
type lab struct {
	t    testing.TB
	root string
	fw   *netns.Node
	wire *netns.Node
	seen sniffer
}

const (
	gateway = "10.0.0.1"
	subnet  = "10.0.0.0/24"
)

// newLab makes the server's side: the link lan on a switch, and the link dmz on which nothing is served.
func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, root: t.TempDir(), fw: netns.NewNode(t, "fw"), wire: netns.NewNode(t, "wire")}
	l.wire.Bridge(t, "lan")
	l.wire.Bridge(t, "dmz")
	for dev, a := range map[string]string{"lan": gateway + "/24", "dmz": "10.9.0.1/24"} {
		nic := l.fw.Plug(t, dev, l.wire, dev)
		l.fw.Addr(t, nic, netip.MustParsePrefix(a))
		l.fw.Sniff(t, nic, unix.SOCK_DGRAM, func(b []byte, at *unix.SockaddrLinklayer) {
			l.seen.frame(dev, b, at.Pkttype == unix.PACKET_OUTGOING)
		})
	}
	l.home()
	return l
}

// home makes the child's directories below the root.
func (l *lab) home() {
	l.t.Helper()
	// Of a user who is nobody else. Those that are everybody's stay as they are.
	for dir := l.root; dir != "/" && dir != os.TempDir() && dir != "/run"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	for _, dir := range []string{contract.DHCPDir, contract.DHCPRunDir} {
		if err := os.MkdirAll(filepath.Join(l.root, dir), 0o755); err != nil {
			l.t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(l.root, dir), contract.UIDDHCP, contract.UIDDHCP); err != nil {
			l.t.Fatal(err)
		}
	}
}

// profile gives addresses out on lan.
func profile(lease uint32) *profiles.Profile {
	return &profiles.Profile{Name: "gw", State: profiles.State{Size: 1 << 28}, DHCP: []profiles.DHCP{{Link: "lan",
		NoProbe: true, Subnets: []profiles.DHCPSubnet{
			{Prefix: netip.MustParsePrefix(subnet), Server: netip.MustParseAddr(gateway), Lease: lease,
				Pools: ranges("10.0.0.100", "10.0.0.120"),
				DHCPSettings: profiles.DHCPSettings{Options: []profiles.DHCPOption{{Code: 3, Value: []byte{10, 0, 0, 1}},
					{Code: 15, Value: []byte("home.arpa")}, {Code: 19, Value: []byte{1}}}}},
			{Prefix: netip.MustParsePrefix("10.64.0.0/16"), Lease: 3600, Pools: ranges("10.64.1.0", "10.64.200.255"),
				Relays: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32"), netip.MustParsePrefix(relayed + "/32")}},
		}}}}
}

func ranges(first, last string) profiles.Ranges {
	return profiles.Ranges{{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}}
}

// server is the running child.
type server struct {
	lab *lab
	cmd *exec.Cmd
	log buffer
	end sync.Once
}

// start runs the child until it says that it is ready.
func (l *lab) start(p *profiles.Profile) *server {
	l.t.Helper()
	b, err := json.Marshal(p)
	if err != nil {
		l.t.Fatal(err)
	}
	uid := fmt.Sprint(contract.UIDDHCP)
	s := &server{lab: l}
	s.cmd = l.fw.Command(netns.Tool(l.t, "setpriv", "util-linux"), "--reuid="+uid, "--regid="+uid, "--clear-groups",
		"--no-new-privs", "--bounding-set=-all,"+childGrant, "--inh-caps=-all,"+childGrant,
		"--ambient-caps=-all,"+childGrant, childPath)
	s.cmd.Env = append(os.Environ(), childEnv+"="+string(b), rootEnv+"="+l.root,
		fmt.Sprint("GOMEMLIMIT=", dhcp.Spec().MemoryLimit))
	s.cmd.Stderr = &s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	l.fw.In(l.t, s.cmd.Start)
	l.t.Cleanup(func() {
		s.kill()
		if l.t.Failed() {
			l.t.Logf("the child said:\n%s", s.log.String())
		}
	})
	ready := make([]byte, len("ready\n"))
	if _, err := out.Read(ready); err != nil || string(ready) != "ready\n" {
		l.t.Fatalf("the child did not become ready: %q, %v\n%s", ready, err, s.log.String())
	}
	l.eventually("the server to listen", func() bool {
		b, err := l.fw.Command("ss", "-Hlun", "sport", "=", "67").Output()
		return err == nil && strings.Contains(string(b), ":67")
	})
	return s
}

// kill ends the child as a crash would.
func (s *server) kill() {
	s.end.Do(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	})
}

func (l *lab) eventually(what string, good func() bool) {
	l.t.Helper()
	for end := time.Now().Add(patience); !good(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

// client is a foreign client in a namespace of its own.
type client struct {
	*netns.Node
	lab *lab
	dev string
	mac string
	dir string // for its files
	log buffer
}

// client makes a host with a NIC on a switch.
func (l *lab) client(name, wire string) *client {
	l.t.Helper()
	c := &client{Node: netns.NewNode(l.t, name), lab: l, dev: "eth0", dir: l.t.TempDir()}
	nic := c.Plug(l.t, c.dev, l.wire, wire)
	c.mac = nic.Attrs().HardwareAddr.String()
	return c
}

// background runs the client's program until the test ends.
func (c *client) background(args ...string) {
	c.lab.t.Helper()
	cmd := c.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &c.log, &c.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.In(c.lab.t, cmd.Start)
	c.lab.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // and what it started
		_ = cmd.Wait()
		if c.lab.t.Failed() {
			c.lab.t.Logf("%s said:\n%s", args[0], c.log.String())
		}
	})
}

// address is what the client's NIC has by DHCP; empty: nothing yet.
func (c *client) address() string {
	out, err := c.Command("ip", "-4", "-o", "address", "show", "dev", c.dev).Output()
	if err != nil {
		return ""
	}
	for _, f := range strings.Fields(string(out)) {
		if strings.HasPrefix(f, "10.") {
			a, _, _ := strings.Cut(f, "/")
			return a
		}
	}
	return ""
}

// sniffer counts DHCP messages by link and kind.
type sniffer struct {
	mu   sync.Mutex
	acks map[string][]string // by hardware address: the addresses acknowledged, in order
	sent map[string]int      // by link: messages of the server
	told map[string]*dhcpv4.DHCPv4
}

// frame takes an IPv4 packet of a link.
func (s *sniffer) frame(dev string, b []byte, out bool) {
	const ipHeader, udpHeader = 20, 8
	if len(b) < ipHeader+udpHeader || b[0] != 0x45 || b[9] != unix.IPPROTO_UDP {
		return
	}
	if from := int(b[ipHeader])<<8 | int(b[ipHeader+1]); !out || from != 67 {
		return
	}
	m, err := dhcpv4.FromBytes(b[ipHeader+udpHeader:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.acks == nil {
		s.acks, s.sent, s.told = map[string][]string{}, map[string]int{}, map[string]*dhcpv4.DHCPv4{}
	}
	s.sent[dev]++
	if err == nil && m.MessageType() == dhcpv4.MessageTypeAck {
		mac := m.ClientHWAddr.String()
		s.acks[mac] = append(s.acks[mac], m.YourIPAddr.String())
		s.told[mac] = m
	}
}

func (s *sniffer) acked(mac string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.acks[mac])
}

// buffer is a bytes.Buffer for two goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
