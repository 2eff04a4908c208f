package packets

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rempart/test/net/clients"
	"rempart/test/netns"
	"rempart/test/rig"
)

// gateway is scenario C's master: NAT, leases, names and time behind one address.
const gateway = "nat-gateway"

// newGateway is a hoster with the Internet, name servers and time servers behind it, its monitoring, an admin, and on
// the inside a switch.
func newGateway(t *testing.T, m *rig.Master) *world {
	t.Helper()
	w := newWorld(t, m)
	isp := w.host(t, "isp", "wan", []string{"203.0.113.1/24", "9.9.9.9/32", "162.159.200.1/32", "62.210.16.5/24"})
	w.internet(t, isp)
	// The hoster knows the way to the inside: that nothing gets there is not for want of a route.
	route(t, isp, "10.10.10.0/24", "203.0.113.10")
	w.host(t, "admin", "wan", []string{"203.0.113.7/24"}, "203.0.113.1")
	w.host(t, "hypervisor", "lan", []string{"10.10.10.2/24"}, "10.10.10.1")
	return w
}

// words is what a program says, for those who read it while it runs.
type words struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// daemon runs a program on a node until the test ends, and returns what it says.
func daemon(t *testing.T, n *netns.Node, command ...string) *words {
	t.Helper()
	said, _ := stoppable(t, n, command...)
	return said
}

// stoppable is daemon with what ends it before.
func stoppable(t *testing.T, n *netns.Node, command ...string) (said *words, stop func()) {
	t.Helper()
	said = &words{}
	cmd := n.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	netns.Must(t, cmd.Start())
	stop = sync.OnceFunc(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // and what it started
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		if stop(); t.Failed() {
			t.Logf("%s said:\n%s", command[0], said.String())
		}
	})
	return said, stop
}

// leaser is a host on the inside that has its address from the guest by udhcpc.
type leaser struct {
	*netns.Node
	file string // what it was given: lines of KEY=VALUE
}

// leaser makes one that calls itself name, with a hardware address of its own or the one given.
func (w *world) leaser(t *testing.T, name, mac string) *leaser {
	t.Helper()
	l := &leaser{Node: netns.NewNode(t, name), file: filepath.Join(t.TempDir(), "lease")}
	l.Plug(t, "eth0", w.hyper, w.bridge("lan"))
	if mac != "" {
		l.run(t, "ip", "link", "set", "eth0", "address", mac)
	}
	script := filepath.Join(t.TempDir(), "script")
	netns.Must(t, os.WriteFile(script, []byte(`#!/bin/sh
case $1 in
bound|renew)
	ip address replace $ip/$mask dev eth0
	ip route replace default via ${router%% *}
	printf 'ip=%s\nrouter=%s\ndns=%s\ndomain=%s\nntp=%s\n19=%s\n' \
		"$ip" "$router" "$dns" "$domain" "$ntpsrv" "$opt19" >`+l.file+`.new
	mv `+l.file+`.new `+l.file+`;;
esac
`), 0o755))
	daemon(t, l.Node, netns.Tool(t, "udhcpc", "udhcpc"), "-f", "-i", "eth0", "-s", script, "-x", "hostname:"+name, "-t",
		"30", "-T", "1", "-O", "ntpsrv", "-O", "19")
	return l
}

// foreign has a host on the inside whose address is another client's of package clients to get, and waits until it has.
func (w *world) foreign(t *testing.T, name string) (n *netns.Node, address string) {
	t.Helper()
	n = netns.NewNode(t, name)
	n.Plug(t, "eth0", w.hyper, w.bridge("lan"))
	args, err := clients.Command(name, clients.Host{Dir: t.TempDir(), Dev: "eth0", Bits: 24,
		Find: func(program, pkg string) string { return netns.Tool(t, program, pkg) }})
	netns.Must(t, err)
	daemon(t, n, args...)
	eventually(t, name+" to have an address", func() bool { address = ownAddress(t, n); return address != "" })
	return n, address
}

// ownAddress is what a host has on the inside; empty: nothing.
func ownAddress(t *testing.T, n *netns.Node) string {
	t.Helper()
	for _, f := range strings.Fields(runOn(t, n, "ip", "-4", "-o", "address", "show", "dev", "eth0")) {
		if a, err := netip.ParsePrefix(f); err == nil && a.Contains(netip.MustParseAddr("10.10.10.1")) {
			return a.Addr().String()
		}
	}
	return ""
}

// given waits until the host has a lease, and returns it.
func (l *leaser) given(t *testing.T) string {
	t.Helper()
	var b []byte
	eventually(t, l.Name+" to have an address", func() (ok bool) {
		var err error
		b, err = os.ReadFile(l.file)
		return err == nil
	})
	return string(b)
}

// eventually waits for what another program brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(rig.Patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// run runs a program on a host and returns what it prints.
func (l *leaser) run(t *testing.T, words ...string) string {
	t.Helper()
	return runOn(t, l.Node, words...)
}

func runOn(t *testing.T, n *netns.Node, words ...string) string {
	t.Helper()
	out, err := n.Command(words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("on %s: %s: %v\n%s", n.Name, strings.Join(words, " "), err, out)
	}
	return string(out)
}

// dig asks the guest, or the server @ADDRESS among the words, and returns the status and the data of the answers:
// "NOERROR 10.10.10.100".
func dig(t *testing.T, n *netns.Node, words ...string) string {
	t.Helper()
	args := append([]string{"+noall", "+comments", "+answer", "+timeout=5", "+tries=3"}, words...)
	if !slices.ContainsFunc(words, func(s string) bool { return strings.HasPrefix(s, "@") }) {
		args = append(args, "@10.10.10.1")
	}
	out, err := n.Command(netns.Tool(t, "dig", "bind9-dnsutils"), args...).Output()
	status := "no answer"
	var data []string
	for line := range strings.Lines(string(out)) {
		if _, rest, ok := strings.Cut(line, "status: "); ok {
			status, _, _ = strings.Cut(rest, ",")
		}
		if f := strings.Fields(line); len(f) >= 5 && line[0] != ';' {
			data = append(data, strings.Join(f[4:], " "))
		}
	}
	if err != nil {
		status += " " + err.Error()
	}
	return strings.TrimSpace(status + " " + strings.Join(data, " "))
}

// TestGateway boots scenario C among foreign clients and servers: what they are given, what names and time they hear,
// that nothing of it is to be had from outside, and that leases outlive a power cut.
func TestGateway(t *testing.T) {
	m := rig.Build(t, gateway)
	w := newGateway(t, m)
	isp := w.hosts["isp"]
	upstream := daemon(t, isp, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
		"--listen-address=9.9.9.9", "--bind-interfaces", "--log-queries", "--log-facility=-", "--user=root", "--group=",
		"--pid-file=", "--address=/example.com/198.51.100.7", "--address=/rebind.example/10.10.10.2")
	dir := t.TempDir()
	netns.Must(t, os.WriteFile(filepath.Join(dir, "chrony"), []byte("local stratum 5\nallow all\n"+
		"bindaddress 162.159.200.1\ncmdport 0\nbindcmdaddress /\npidfile "+dir+"/pid\n"), 0o600))
	chronyd := netns.Tool(t, "chronyd", "chrony")
	daemon(t, isp, chronyd, "-x", "-d", "-u", "root", "-f", filepath.Join(dir, "chrony"))
	w.serve(t)

	boot := func(o rig.Options) *rig.Guest {
		o.Backends = w.backends()
		return m.Boot(t, o)
	}
	// A machine whose clock stands years back, as one without a battery.
	g := boot(rig.Options{More: "-rtc base=2021-01-01"})
	shop, proxy := w.leaser(t, "shop", ""), w.leaser(t, "proxy", "52:54:00:10:10:10")
	g.AwaitReady()

	had := shop.given(t)
	t.Run("leases", func(t *testing.T) {
		address := strings.TrimPrefix(strings.Split(had, "\n")[0], "ip=")
		if a, err := netip.ParseAddr(address); err != nil || a.Compare(netip.MustParseAddr("10.10.10.100")) < 0 ||
			a.Compare(netip.MustParseAddr("10.10.10.200")) > 0 {
			t.Errorf("shop was given %q; want an address of the pool", had)
		}
		want := "router=10.10.10.1\ndns=10.10.10.1\ndomain=madyanne.lan\nntp=10.10.10.1\n19=01\n"
		if _, rest, _ := strings.Cut(had, "\n"); rest != want {
			t.Errorf("shop was told %q; want %q", rest, want)
		}
		if got := proxy.given(t); !strings.HasPrefix(got, "ip=10.10.10.10\n") {
			t.Errorf("proxy was given %q; want the address it has in the profile", got)
		}
	})
	address := strings.TrimPrefix(strings.Split(had, "\n")[0], "ip=")
	t.Run("names", func(t *testing.T) {
		for question, want := range map[string]string{
			"shop.madyanne.lan":       "NOERROR " + address,
			"SHOP.Madyanne.LAN":       "NOERROR " + address,
			"shop":                    "NOERROR " + address,
			"-x " + address:           "NOERROR shop.madyanne.lan.",
			"proxy.madyanne.lan":      "NOERROR 10.10.10.10",
			"hypervisor":              "NOERROR 10.10.10.2",
			"-x 10.10.10.2":           "NOERROR hypervisor.madyanne.lan.",
			"gateway.madyanne.lan":    "NOERROR 10.10.10.1",
			"nobody.madyanne.lan":     "NXDOMAIN",
			"nodots":                  "NXDOMAIN",
			"-x 10.10.10.199":         "NXDOMAIN",
			"-x 192.168.77.1":         "NXDOMAIN",
			"example.com":             "NOERROR 198.51.100.7",
			"+tcp www.example.com":    "NOERROR 198.51.100.7",
			"rebind.example":          "",
			"shop.madyanne.lan AAAA":  "NOERROR",
			"-t ANY example.com +tcp": "",
		} {
			got := dig(t, shop.Node, strings.Fields(question)...)
			switch {
			case question == "rebind.example" && strings.Contains(got, "10.10.10.2"):
				t.Errorf("dig %s = %s: an upstream's answer points inside", question, got)
			case want != "" && got != want:
				t.Errorf("dig %s = %s; want %s", question, got, want)
			}
		}
		for _, private := range []string{"madyanne.lan", "nodots", "192.in-addr.arpa", "10.in-addr.arpa"} {
			if strings.Contains(upstream.String(), private) {
				t.Errorf("a question with %s left the house", private)
			}
		}
		if !strings.Contains(upstream.String(), "example.com") && !strings.Contains(upstream.String(), "eXample") &&
			!strings.Contains(strings.ToLower(upstream.String()), "example.com") {
			t.Error("the upstream was not asked for example.com: the test proves nothing")
		}
	})
	owner, others := map[string]string{address: "shop"}, map[string]*netns.Node{}
	for _, name := range clients.Names() {
		n, a := w.foreign(t, name)
		if owner[a] != "" {
			t.Errorf("%s and %s both have %s", name, owner[a], a)
		}
		owner[a], others[a] = name, n
		runOn(t, n, "ping", "-c1", "-W20", "10.10.10.1")
	}
	t.Run("time", func(t *testing.T) {
		said := ""
		eventually(t, "the guest's clock to be right", func() bool {
			_, said, _ = g.Ctl(nil, "time")
			return strings.Contains(said, "synchronised to 162.159.200.1, stratum 6")
		})
		out, err := shop.Command(chronyd, "-Q", "-t", "10", "-u", "root", "-f", "/dev/null",
			"server 10.10.10.1 iburst maxsamples 1", "cmdport 0", "pidfile "+dir+"/pid2").CombinedOutput()
		var off float64
		_, wrong, ok := strings.Cut(string(out), "System clock wrong by ")
		if _, scan := fmt.Sscan(wrong, &off); !ok || scan != nil || off < -1 || off > 1 {
			t.Errorf("chronyd -Q by the guest: %v\n%s\nwant it to be right within a second", err, out)
		}
	})
	t.Run("truth", func(t *testing.T) { w.truth(t, gatewayTruth()) })
	t.Run("outside", func(t *testing.T) { w.silent(t, isp, chronyd, dir) })

	// The power goes; the leases do not.
	g.Cut()
	g = boot(rig.Options{State: g.State})
	g.AwaitReady()
	_, leases, _ := g.Ctl(nil, "served")
	served := strings.Fields(leases)
	if !slices.Contains(served, address) || !strings.Contains(leases, "shop") {
		t.Errorf("after a power cut the leases are\n%s\nwant shop's %s", leases, address)
	}
	late := w.leaser(t, "late", "")
	taken, _, _ := strings.Cut(strings.TrimPrefix(late.given(t), "ip="), "\n")
	if owner[taken] != "" {
		t.Errorf("a new host was given %s, which %s has", taken, owner[taken])
	}
	for a, n := range others {
		if got := ownAddress(t, n); got != a || !slices.Contains(served, a) {
			t.Errorf("after a power cut %s has %q, and the leases are\n%s\nwant it to have %s still", owner[a], got, leases, a)
		}
	}
	if got := dig(t, late.Node, "shop.madyanne.lan"); got != "NOERROR "+address {
		t.Errorf("after a power cut dig shop.madyanne.lan = %s; want %s", got, address)
	}
	g.PowerOff()
	rig.Honest(t, g.State)
}

// silent asks the guest from outside for all that it serves inside.
func (w *world) silent(t *testing.T, isp *netns.Node, chronyd, dir string) {
	for _, at := range []string{"203.0.113.10", "10.10.10.1"} {
		for _, how := range []string{"+notcp", "+tcp"} {
			cmd := isp.Command(netns.Tool(t, "dig", "bind9-dnsutils"), "@"+at, how, "+timeout=1", "+tries=1",
				"gateway.madyanne.lan")
			if out, err := cmd.CombinedOutput(); err == nil {
				t.Errorf("from outside, dig @%s %s was answered:\n%s", at, how, out)
			}
		}
		out, _ := isp.Command(chronyd, "-Q", "-t", "2", "-u", "root", "-f", "/dev/null",
			"server "+at+" iburst maxsamples 1", "cmdport 0", "pidfile "+dir+"/pid3").CombinedOutput()
		if bytes.Contains(out, []byte("System clock wrong by")) {
			t.Errorf("from outside, %s tells the time:\n%s", at, out)
		}
	}
	out, err := isp.Command(netns.Tool(t, "udhcpc", "udhcpc"), "-f", "-n", "-q", "-i", "eth0", "-s", "/bin/true", "-t",
		"2", "-T", "1").CombinedOutput()
	if err == nil {
		t.Errorf("from outside, an address was given:\n%s", out)
	}
}

// gatewayTruth says in a person's words what the nat-gateway is to do with what is not its own services.
func gatewayTruth() []row {
	const (
		own, inet, hyper = "203.0.113.10", "198.51.100.7", "10.10.10.2"
	)
	return []row{
		{"hypervisor", hyper, "tcp", inet + ":80", pass, "wan " + own + " 198.51.100.7:80"},
		{"hypervisor", hyper, "udp", inet + ":443", pass, "wan " + own + " 198.51.100.7:443"},
		{"hypervisor", hyper, "ping", inet, pass, "wan " + own + " 198.51.100.7"},
		{"hypervisor", hyper, "tcp", "10.10.10.1:22", drop, ""},
		{"hypervisor", hyper, "ping", "10.10.10.1", reach, ""},
		{"hypervisor", hyper, "tcp", "10.10.10.1:80", drop, ""},
		{"admin", "203.0.113.7", "tcp", own + ":22", reach, ""},
		{"isp", "62.210.16.5", "ping", own, reach, ""},
		{"isp", "203.0.113.1", "ping", own, drop, ""},
		{"internet", inet, "ping", own, drop, ""},
		{"internet", inet, "tcp", own + ":22", drop, ""},
		{"internet", inet, "tcp", own + ":8080", drop, ""},
		{"internet", inet, "udp", own + ":443", drop, ""},
		{"internet", inet, "tcp", hyper + ":80", drop, ""},
		{"internet", inet, "udp", hyper + ":443", drop, ""},
		{"internet", inet, "ping", hyper, drop, ""},
	}
}
