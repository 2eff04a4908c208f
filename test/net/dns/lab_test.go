// Package dns_test runs the dns child on real interfaces, in network namespaces of its own, between foreign programs:
// dig and kdig ask, unbound and dnsmasq are asked, dnsperf floods.
package dns_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/dhcp"
	"rempart/firstboot/dns"
	"rempart/profiles"
	"rempart/test/netns"
)

// The test binary is two programs: the test, and the child in the guest's namespace.
const (
	childEnv = "REMPART_TEST_DNS_PROFILE" // profile as JSON
	rootEnv  = "REMPART_TEST_DNS_ROOT"
)

// patience is how long anything may take on a machine that does other things too.
const patience = time.Minute

func TestMain(m *testing.M) {
	if p := os.Getenv(childEnv); p != "" {
		os.Exit(runChild(p))
	}
	if !netns.Inside() {
		os.Exit(netns.Isolate())
	}
	netns.CheckPowers()
	os.Exit(m.Run())
}

// runChild is the child as PID 1 would run it, but for its confinement.
func runChild(profile string) int {
	var p profiles.Profile
	if err := json.Unmarshal([]byte(profile), &p); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	env := &child.Env{Profile: &p, Root: os.Getenv(rootEnv), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Ready: func() { fmt.Println("ready") }, Tell: func(key string, value any) { fmt.Println("tell", key, value) }}
	if len(p.DHCP) > 0 { // beside it, for names of leases
		leases := *env
		leases.Ready = func() { fmt.Println("leases") }
		ended := make(chan error, 1)
		go func() { ended <- dhcp.Spec().Run(ctx, &leases) }()
		defer func() {
			if err := <-ended; err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}()
	}
	if err := dns.Run(ctx, env); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Addresses of the lab.
const (
	gatewayAddr = "10.10.10.1"
	upstreamA   = "192.0.2.53"
	upstreamB   = "192.0.2.54"
)

// lab is a client and a stranger on a LAN, the guest, and name servers behind it.
type lab struct {
	t                  testing.TB
	client, gw, others *netns.Node
	root               string
	child              *exec.Cmd
	change             func(*profiles.Profile) // what is not said in YAML; nil: nothing
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, client: netns.NewNode(t, "client"), gw: netns.NewNode(t, "gw"), others: netns.NewNode(t, "others"),
		root: t.TempDir()}
	eth, lan := l.client.Join(t, "eth0", l.gw, "lan0")
	wan, out := l.gw.Join(t, "wan0", l.others, "eth0")
	for _, a := range []string{"10.10.10.5/24", "10.10.10.6/24", "10.99.0.5/24", "fd00:1::5/64"} {
		l.client.Addr(t, eth, netip.MustParsePrefix(a))
	}
	for _, a := range []string{gatewayAddr + "/24", "fd00:1::1/64"} {
		l.gw.Addr(t, lan, netip.MustParsePrefix(a))
	}
	l.gw.Addr(t, wan, netip.MustParsePrefix("192.0.2.1/24"))
	l.gw.Route(t, lan, netip.MustParsePrefix("10.99.0.0/24"), netip.Addr{}, 0)
	for _, a := range []string{upstreamA, upstreamB, "192.0.2.55"} {
		l.others.Addr(t, out, netip.MustParsePrefix(a+"/24"))
	}
	for _, n := range []*netns.Node{l.client, l.gw, l.others} {
		lo := n.Device(t, "lo")
		netns.Must(t, n.Link.LinkSetUp(lo))
	}
	return l
}

// base is what every profile of the lab says beside dns.
const base = `rempart: 1
name: gw
links: {wan0: {address: 192.0.2.1/24, gateway: 192.0.2.254}, lan0: {address: [10.10.10.1/24, "fd00:1::1/64"]}}
zones: {internet: wan0, inside: lan0}
admin: {from: inside}
`

// start runs the child with a profile whose section dns is given; it is ready when start returns.
func (l *lab) start(section string) {
	l.t.Helper()
	l.startProfile(base + section)
}

func (l *lab) startProfile(text string) {
	l.t.Helper()
	file := filepath.Join(l.root, "fw.yaml")
	p, err := profiles.Parse(file, []byte(text))
	if err != nil {
		l.t.Fatal(err)
	}
	if l.change != nil {
		l.change(p)
	}
	b, err := json.Marshal(p)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, dir := range []string{contract.DNSDir, contract.LinkDir, contract.DHCPRunDir, contract.DHCPDir,
		contract.ListsDir, filepath.Dir(contract.BlockedPath)} {
		netns.Must(l.t, os.MkdirAll(filepath.Join(l.root, dir), 0o755))
	}
	if d := p.DNS; d.Block != nil && len(d.Block.Compiled) > 0 {
		netns.Must(l.t, os.WriteFile(filepath.Join(l.root, contract.BlockedPath), d.Block.Compiled, 0o644))
	}
	l.child = l.gw.Command("/proc/self/exe")
	l.child.Args[len(l.child.Args)-1] = self(l.t)
	l.child.Env = append(os.Environ(), childEnv+"="+string(b), rootEnv+"="+l.root)
	log := &logWriter{t: l.t}
	l.child.Stderr = log
	ready := make(chan bool, 1)
	out, err := l.child.StdoutPipe()
	netns.Must(l.t, err)
	netns.Must(l.t, l.child.Start())
	go func() {
		b := make([]byte, 4096)
		told := ""
		for {
			n, err := out.Read(b)
			if told += string(b[:n]); strings.Contains(told, "ready\n") {
				select {
				case ready <- true:
				default:
				}
			}
			if err != nil {
				close(ready)
				return
			}
		}
	}()
	l.t.Cleanup(l.stop)
	select {
	case ok := <-ready:
		if !ok {
			l.t.Fatalf("the child ended: %s", log)
		}
	case <-time.After(patience):
		l.t.Fatalf("the child is not ready: %s", log)
	}
}

func self(t testing.TB) string {
	t.Helper()
	name, err := os.Executable()
	netns.Must(t, err)
	return name
}

// stop ends the child.
func (l *lab) stop() {
	if l.child == nil {
		return
	}
	_ = l.child.Process.Signal(syscall.SIGTERM)
	_ = l.child.Wait()
	l.child = nil
}

// logWriter keeps what the child says.
type logWriter struct {
	t    testing.TB
	text strings.Builder
}

func (w *logWriter) Write(b []byte) (int, error) { return w.text.Write(b) }
func (w *logWriter) String() string              { return w.text.String() }

// packages have the programs that are not called as they are.
var packages = map[string]string{"kdig": "knot-dnsutils", "dig": "bind9-dnsutils", "delv": "bind9-dnsutils"}

// tool is where a foreign program is; without it the test fails.
func tool(t testing.TB, name string) string {
	t.Helper()
	return netns.Tool(t, name, cmp.Or(packages[name], name))
}

// serve runs a foreign name server among the others until the test ends or the function it returns is called.
func (l *lab) serve(name string, args ...string) (kill func()) {
	l.t.Helper()
	cmd := l.others.Command(tool(l.t, name), args...)
	log := &logWriter{t: l.t}
	cmd.Stderr, cmd.Stdout = log, log
	netns.Must(l.t, cmd.Start())
	done := false
	kill = func() {
		if !done {
			done = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	l.t.Cleanup(kill)
	return kill
}

// awaitServer waits until a server among the others answers.
func (l *lab) awaitServer(addr, name string) {
	l.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		out, err := l.others.Command("dig", "+tries=1", "+time=1", "+norec", "@"+addr, name).CombinedOutput()
		if err == nil && strings.Contains(string(out), "status:") {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("name server %s does not answer: %s", addr, out)
		}
	}
}

// unbound runs unbound at an address, with lines of its section server.
func (l *lab) unbound(addr string, lines ...string) (kill func()) {
	l.t.Helper()
	conf := filepath.Join(l.t.TempDir(), "unbound.conf")
	text := "server:\n interface: " + addr + "\n access-control: 0.0.0.0/0 allow\n do-daemonize: no\n username: \"\"\n" +
		" chroot: \"\"\n directory: \"/\"\n pidfile: \"\"\n use-syslog: no\n module-config: \"iterator\"\n" +
		" local-zone: \"example.\" static\n num-threads: 1\n"
	text += " " + strings.Join(lines, "\n ") + "\n"
	netns.Must(l.t, os.WriteFile(conf, []byte(text), 0o644))
	kill = l.serve("unbound", "-d", "-c", conf)
	l.awaitServer(addr, "example.")
	return kill
}

// dig asks the guest from the client and returns all that dig says.
func (l *lab) dig(args ...string) string {
	l.t.Helper()
	out, err := l.client.Command("dig", append([]string{"+tries=1", "+time=6", "@" + gatewayAddr}, args...)...).
		CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s(%v)", out, err)
	}
	return string(out)
}

// short is what dig +short says, on one line.
func (l *lab) short(args ...string) string {
	l.t.Helper()
	return strings.Join(strings.Fields(l.dig(append(args, "+short")...)), " ")
}

// status is the word dig has for an answer's RCODE; empty: there was none.
func status(out string) string {
	_, rest, _ := strings.Cut(out, "status: ")
	word, _, _ := strings.Cut(rest, ",")
	return word
}

// told is what the child says of itself.
func (l *lab) told() dns.Status {
	l.t.Helper()
	s, err := dns.ReadStatus(l.t.Context(), filepath.Join(l.root, contract.DNSSocket))
	if err != nil && err != io.EOF {
		l.t.Fatal(err)
	}
	return s
}
