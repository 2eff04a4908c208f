package net

import (
	stdnet "net"
	"net/http"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"

	"rempart/profiles"
)

// row is one line of a truth table that a person wrote from the words of the profile, not from code: who runs which
// program, and what that program must see. An empty want: it must fail.
type row struct {
	from string // "link address"
	run  string
	want string // what its output must contain; "ok": that it succeeds is enough
}

// serve answers HTTP requests with the address they came from, as the server sees it.
func (n *node) serve(t *testing.T, addr string) {
	t.Helper()
	var ln stdnet.Listener
	n.In(t, func() (err error) {
		ln, err = stdnet.Listen("tcp", addr)
		return err
	})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := stdnet.SplitHostPort(r.RemoteAddr)
		_, _ = w.Write([]byte("seen from " + host + "\n"))
	})}
	t.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(ln) }()
}

// at is the host of "link address".
func (l *lab) at(t *testing.T, place string) *node {
	t.Helper()
	link, addr, ok := strings.Cut(place, " ")
	if !ok {
		t.Fatalf("place %q: want a link and an address", place)
	}
	return l.host(t, link, netip.MustParseAddr(addr))
}

func (l *lab) truth(t *testing.T, rows []row) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8) // most rows wait for a silence
	for _, r := range rows {
		words := strings.Fields(r.run)
		cmd := l.at(t, r.from).Command(words[0], words[1:]...)
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer func() { <-slots; wg.Done() }()
			r.check(t, cmd)
		}()
	}
	wg.Wait()
}

// check runs a row's program and compares.
func (r row) check(t *testing.T, cmd *exec.Cmd) {
	out, err := cmd.CombinedOutput()
	switch {
	case r.want == "" && err == nil:
		t.Errorf("from %s: %s succeeded; must fail\n%s", r.from, r.run, out)
	case r.want != "" && err != nil:
		t.Errorf("from %s: %s: %v; must succeed\n%s", r.from, r.run, err, out)
	case r.want != "" && r.want != "ok" && !strings.Contains(string(out), r.want):
		t.Errorf("from %s: %s printed %q; want %q", r.from, r.run, out, r.want)
	}
}

// openPorts is what nmap finds open, of all it is told to try.
func (n *node) openPorts(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := n.Nmap(append([]string{"-n", "-Pn", "-T5", "--max-retries", "1", "--min-rate", "2000", "-oG", "-"},
		args...)...)
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, m := range regexp.MustCompile(`(\d+)/open/`).FindAllStringSubmatch(string(out), -1) {
		open = append(open, m[1])
	}
	return open
}

func builtin(t *testing.T, name string) *profiles.Profile {
	t.Helper()
	p, err := profiles.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTruthHomeFirewall(t *testing.T) {
	t.Parallel()
	p := builtin(t, "home-firewall")
	l := newLab(t, p)
	const (
		home, home6         = "lan0 192.168.0.7", "lan0 fd00:192:168::7"
		web                 = "lan0 192.168.0.102"
		internet, internet6 = "lan0 198.51.100.7", "lan0 2001:db8::7"
		dmz, dmz6           = "dmz0 10.9.0.7", "dmz0 fd00:10:9::7"
	)
	for _, port := range []string{"22", "80", "443", "8080"} {
		l.fw.serve(t, ":"+port)
		l.at(t, web).serve(t, ":"+port)
		l.at(t, home).serve(t, ":"+port)
		l.at(t, home6).serve(t, ":"+port)
		l.at(t, dmz).serve(t, ":"+port)
		l.at(t, dmz6).serve(t, ":"+port)
		l.at(t, internet).serve(t, ":"+port)
	}
	l.load(t, compile(t, p))
	l.truth(t, []row{
		// The web server answers by its own gateway, and still the client gets its answer: the firewall stands between.
		{internet, "curl -sS -m 3 --interface 198.51.100.7 http://192.168.0.101/", "seen from 192.168.0.101"},
		{internet, "curl -sS -m 3 --interface 198.51.100.7 http://192.168.0.101:443/", "seen from 192.168.0.101"},
		{internet, "curl -sS -m 1 --interface 198.51.100.7 http://192.168.0.101:8080/", ""},
		{internet, "nc -s 198.51.100.7 -z -w 1 192.168.0.101 22", ""},
		{internet, "ping -I 198.51.100.7 -c 1 -W 1 192.168.0.101", ""},
		{internet, "nc -s 198.51.100.7 -z -w 1 10.9.0.1 80", ""},
		{internet, "nc -s 198.51.100.7 -z -w 1 10.9.0.7 80", ""},
		{internet, "ping -I 198.51.100.7 -c 1 -W 1 10.9.0.7", ""},
		{internet6, "ping -6 -I 2001:db8::7 -c 1 -W 1 fd00:192:168::101", ""},
		{internet6, "nc -6 -s 2001:db8::7 -z -w 1 fd00:192:168::101 80", ""},
		{internet6, "nc -6 -s 2001:db8::7 -z -w 1 fd00:10:9::7 80", ""},
		{home, "nc -z -w 2 192.168.0.101 22", "ok"},
		{home, "ping -c 1 -W 2 192.168.0.101", "ok"},
		{home, "nc -z -w 1 192.168.0.101 80", ""}, // the forward is for the Internet only
		{home, "nc -z -w 1 10.9.0.7 80", ""},
		{home, "ping -c 1 -W 1 10.9.0.7", ""},
		{home6, "nc -6 -z -w 2 fd00:192:168::101 22", "ok"},
		{home6, "ping -6 -c 1 -W 2 fd00:192:168::101", "ok"},
		{home6, "nc -6 -z -w 1 fd00:192:168::101 80", ""},
		{home6, "ping -6 -c 1 -W 1 fd00:10:9::7", ""},
		// The exposed network: to the Internet and never to the rest of the LAN.
		{dmz, "curl -sS -m 3 http://198.51.100.7/", "seen from 192.168.0.101"},
		{dmz, "ping -c 1 -W 2 198.51.100.7", "ok"},
		{dmz, "nc -z -w 1 192.168.0.7 80", ""},
		{dmz, "nc -z -w 1 192.168.0.102 80", ""},
		{dmz, "ping -c 1 -W 1 192.168.0.7", ""},
		{dmz, "nc -z -w 1 10.9.0.1 22", ""},
		{dmz, "nc -z -w 1 192.168.0.101 22", ""},
		{dmz, "ping -c 1 -W 1 10.9.0.1", ""},
		{dmz6, "curl -sS -m 3 http://[2001:db8::7]/", "seen from fd00:10:9::7"},
		{dmz6, "ping -6 -c 1 -W 2 2001:db8::7", "ok"},
		{dmz6, "nc -6 -z -w 1 fd00:192:168::7 80", ""},
		{dmz6, "ping -6 -c 1 -W 1 fd00:10:9::1", ""},
	})
	got := l.at(t, internet).openPorts(t, "-S", "198.51.100.7", "-e", "eth0", "-sS", "-p", "1-1024", "192.168.0.101")
	if strings.Join(got, " ") != "80 443" {
		t.Errorf("nmap from the Internet finds %v open; want 80 443", got)
	}
	if got := l.at(t, dmz).openPorts(t, "-p", "1-1024", "10.9.0.1"); len(got) != 0 {
		t.Errorf("nmap from the dmz finds %v open on the firewall; want none", got)
	}
	if got := l.at(t, home).openPorts(t, "-p", "1-1024", "192.168.0.101"); strings.Join(got, " ") != "22" {
		t.Errorf("nmap from home finds %v open on the firewall; want 22", got)
	}
}

func TestTruthTwoLegs(t *testing.T) {
	t.Parallel()
	p := builtin(t, "dhcp-uplink")
	l := newLab(t, p)
	const (
		internet        = "wan 198.51.100.7"
		neighbour       = "wan 203.0.113.50"
		inside, inside6 = "lan 10.10.10.7", "lan fd00:10:10::7"
		web             = "lan 10.10.10.10"
	)
	for _, port := range []string{"22", "80", "443", "8080"} {
		l.fw.serve(t, ":"+port)
		l.at(t, web).serve(t, ":"+port)
		l.at(t, inside).serve(t, ":"+port)
		l.at(t, internet).serve(t, ":"+port)
	}
	l.load(t, compile(t, p))
	l.truth(t, []row{
		{internet, "curl -sS -m 3 http://203.0.113.10/", "seen from "}, // which of the router's addresses is its own choice
		{internet, "curl -sS -m 3 --interface 198.51.100.7 http://203.0.113.10/", "seen from 198.51.100.7"},
		{internet, "curl -sS -m 3 --interface 198.51.100.7 http://203.0.113.10:443/", "seen from 198.51.100.7"},
		{internet, "curl -sS -m 1 --interface 198.51.100.7 http://203.0.113.10:8080/", ""},
		{internet, "nc -s 198.51.100.7 -z -w 1 203.0.113.10 22", ""},
		{internet, "ping -I 198.51.100.7 -c 1 -W 1 203.0.113.10", ""},
		{internet, "nc -s 198.51.100.7 -z -w 1 10.10.10.10 80", ""}, // not by the forward, so not at all
		{internet, "nc -s 198.51.100.7 -z -w 1 10.10.10.7 80", ""},
		{internet, "nc -s 198.51.100.7 -z -w 1 10.10.10.1 80", ""}, // an inside address of the firewall is nobody's outside
		{neighbour, "curl -sS -m 3 http://203.0.113.10/", "seen from 203.0.113.50"},
		{neighbour, "nc -z -w 1 203.0.113.10 22", ""},
		{inside, "nc -z -w 2 10.10.10.1 22", "ok"},
		{inside, "ping -c 1 -W 2 10.10.10.1", "ok"},
		{inside, "nc -z -w 1 10.10.10.1 80", ""},
		{inside, "curl -sS -m 3 http://198.51.100.7/", "seen from 203.0.113.10"},
		{inside, "ping -c 1 -W 2 198.51.100.7", "ok"},
		{inside6, "nc -6 -z -w 2 fd00:10:10::1 22", "ok"},
		{inside6, "ping -6 -c 1 -W 2 fd00:10:10::1", "ok"},
		{inside6, "nc -6 -z -w 1 fd00:10:10::1 80", ""},
	})
	if got := l.at(t, neighbour).openPorts(t, "-p", "1-1024", "203.0.113.10"); strings.Join(got, " ") != "80 443" {
		t.Errorf("nmap from outside finds %v open; want 80 443", got)
	}
	if got := l.at(t, inside).openPorts(t, "-p", "1-1024", "10.10.10.1"); strings.Join(got, " ") != "22" {
		t.Errorf("nmap from inside finds %v open; want 22", got)
	}
}

func TestTruthXenFirewall(t *testing.T) {
	t.Parallel()
	p := builtin(t, "xen-firewall")
	l := newLab(t, p)
	const (
		admin, admin6   = "ethadm1 10.0.0.7", "ethadm1 fd00:a::7"
		internet        = "ethwan1 198.51.100.7"
		internet6       = "ethwan1 2001:db8::7"
		office, office6 = "ethlan3 10.1.3.7", "ethlan3 fd00:1:3::7"
		other           = "ethlan4 10.1.4.7"
		shop, mail      = "ethdmz1 10.2.1.10", "ethdmz2 10.2.2.25"
		staff, staff6   = "staff 10.3.10.7", "staff fd00:3:10::7"
		guest, guest6   = "guests 10.3.30.7", "guests fd00:3:30::7"
		server, server6 = "brsrv 10.4.0.7", "brsrv fd00:4::7"
	)
	for _, port := range []string{"22", "25", "80", "443", "445", "5432"} {
		for _, place := range []string{admin, internet, office, shop, mail, staff, guest, server, server6} {
			l.at(t, place).serve(t, ":"+port)
		}
		l.fw.serve(t, ":"+port)
	}
	l.load(t, compile(t, p))
	l.truth(t, []row{
		// The way in is the admin's network, and nobody else's.
		{admin, "nc -z -w 2 10.0.0.1 22", "ok"},
		{admin6, "nc -6 -z -w 2 fd00:a::1 22", "ok"},
		{admin, "nc -z -w 1 10.0.0.1 80", ""},
		{office, "nc -z -w 1 10.1.3.1 22", ""},
		{office, "nc -z -w 1 10.0.0.1 22", ""},
		{staff6, "nc -6 -z -w 1 fd00:3:10::1 22", ""},
		{server, "nc -z -w 1 10.4.0.1 22", ""},
		{office, "ping -c 1 -W 2 10.1.3.1", "ok"},
		{guest, "ping -c 1 -W 1 10.3.30.1", ""},
		// Offices reach servers and the Internet, and not each other, nor guests them.
		{office, "curl -sS -m 3 http://10.4.0.7/", "seen from 10.1.3.7"},
		{office6, "curl -sS -m 3 http://[fd00:4::7]/", "seen from fd00:1:3::7"},
		{office, "nc -z -w 2 10.4.0.7 445", "ok"},
		{office, "nc -z -w 1 10.4.0.7 5432", ""},
		{office, "nc -z -w 1 10.4.0.7 22", ""},
		{admin, "nc -z -w 2 10.4.0.7 22", "ok"},
		{office, "curl -sS -m 3 http://198.51.100.7/", "seen from 203.0.113.2"},
		{office, "nc -z -w 1 10.1.4.7 80", ""},
		{other, "ping -c 1 -W 1 10.1.3.7", ""},
		{staff, "curl -sS -m 3 http://10.4.0.7:443/", "seen from 10.3.10.7"},
		{staff, "nc -z -w 1 10.4.0.7 445", ""},
		{staff, "ping -c 1 -W 2 198.51.100.7", "ok"},
		{guest, "curl -sS -m 3 http://198.51.100.7/", "seen from 203.0.113.2"},
		{guest6, "curl -sS -m 3 http://[2001:db8::7]/", "seen from fd00:3:30::7"},
		{guest, "nc -z -w 1 198.51.100.7 25", ""},
		{guest, "nc -z -w 1 10.4.0.7 80", ""},
		{guest6, "nc -6 -z -w 1 fd00:4::7 80", ""},
		{server, "curl -sS -m 3 http://198.51.100.7/", "seen from 203.0.113.2"},
		{server, "nc -z -w 1 10.1.3.7 80", ""},
		{server, "ping -c 1 -W 1 198.51.100.7", ""},
		// The exposed ones: asked from the Internet by the forwards only, and with business with one port of the servers.
		{internet, "curl -sS -m 3 --interface 198.51.100.7 http://203.0.113.2/", "seen from 198.51.100.7"},
		{internet, "nc -s 198.51.100.7 -z -w 2 203.0.113.2 25", "ok"},
		{internet, "nc -s 198.51.100.7 -z -w 1 203.0.113.2 22", ""},
		{internet, "nc -s 198.51.100.7 -z -w 1 10.2.1.10 80", ""},
		{internet, "ping -I 198.51.100.7 -c 1 -W 1 203.0.113.2", ""},
		{internet6, "nc -6 -s 2001:db8::7 -z -w 1 fd00:4::7 80", ""},
		{internet6, "ping -6 -I 2001:db8::7 -c 1 -W 1 2001:db8:1::2", ""},
		{shop, "nc -z -w 2 10.4.0.7 5432", "ok"},
		{shop, "nc -z -w 1 10.4.0.7 80", ""},
		{shop, "nc -z -w 1 10.2.2.25 25", ""},
		{mail, "nc -z -w 1 10.1.3.7 80", ""},
	})
	got := l.at(t, internet).openPorts(t, "-S", "198.51.100.7", "-e", "eth0", "-sS", "-p", "1-1024", "203.0.113.2")
	if strings.Join(got, " ") != "25 80 443" {
		t.Errorf("nmap from the Internet finds %v open; want 25 80 443", got)
	}
}
