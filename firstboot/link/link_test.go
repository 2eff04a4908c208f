package link

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/link/dhcp4"
	"rempart/profiles"
)

func TestCompile(t *testing.T) {
	p := &profiles.Profile{
		Name: "fw-1", Memory: 128 << 20,
		Links: []profiles.Link{
			{Name: "lan0", MAC: "02-00-5E-00-00-0A", MTU: 1400,
				Addresses: []netip.Prefix{pfx("192.168.0.101/24"), pfx("fd00::101/64")},
				Gateways:  []profiles.Gateway{{Addr: ip("192.168.0.1")}, {Addr: ip("fd00::1"), OnLink: true}}},
			{Name: "dmz0", Addresses: []netip.Prefix{pfx("10.9.0.1/24")}},
		},
	}
	plan := Compile(p)
	if plan.HostName != "fw-1" || len(plan.Links) != 2 || plan.Links[0].MAC != "02:00:5e:00:00:0a" ||
		plan.Links[0].MTU != 1400 {
		t.Errorf("Compile = %+v", plan)
	}
	want := []Route{
		{Dst: pfx("0.0.0.0/0"), Gateway: ip("192.168.0.1"), Metric: 100, Protocol: ProtocolStatic},
		{Dst: pfx("::/0"), Gateway: ip("fd00::1"), OnLink: true, Metric: 101, Protocol: ProtocolStatic},
	}
	if !slices.Equal(plan.Links[0].Routes, want) {
		t.Errorf("routes = %v; want %v", plan.Links[0].Routes, want)
	}
	for _, s := range slices.Concat(plan.Sysctls, plan.Links[0].Sysctls, plan.Links[1].Sysctls, ConntrackSysctls(1)) {
		if s.Why == "" || s.Value == "" || !strings.HasPrefix(s.Path, "net/") {
			t.Errorf("sysctl %+v lacks something", s)
		}
	}
	if last := plan.Links[0].Sysctls[len(plan.Links[0].Sysctls)-1]; !strings.HasSuffix(last.Path, "disable_ipv6") {
		t.Errorf("the last sysctl of a link is %s; want disable_ipv6, after all that keeps IPv6 quiet", last.Path)
	}
}

func sysctlOf(list []Sysctl, path string) string {
	for _, s := range list {
		if s.Path == path {
			return s.Value
		}
	}
	return "missing"
}

func TestForwarding(t *testing.T) {
	v4 := profiles.Link{Name: "a", Addresses: []netip.Prefix{pfx("10.0.0.1/24")}}
	v6 := profiles.Link{Name: "b", Addresses: []netip.Prefix{pfx("fd00::1/64")}}
	dhcp := profiles.Link{Name: "c", DHCP: true}
	zones := []profiles.Zone{{Name: "home"}, {Name: "internet"}}
	for name, c := range map[string]struct {
		p            profiles.Profile
		want4, want6 string
	}{
		"one link, one zone": {profiles.Profile{Links: []profiles.Link{v4}, Zones: zones[:1]}, "0", "0"},
		"one-armed":          {profiles.Profile{Links: []profiles.Link{v4}, Zones: zones}, "1", "0"},
		"forward on one arm": {profiles.Profile{Links: []profiles.Link{v4}, Forwards: []profiles.Forward{{}}}, "1", "0"},
		"two links":          {profiles.Profile{Links: []profiles.Link{v4, v6}}, "1", "1"},
		"IPv6 only":          {profiles.Profile{Links: []profiles.Link{v6, v6}}, "0", "1"},
		"DHCP":               {profiles.Profile{Links: []profiles.Link{dhcp, v6}}, "1", "1"},
	} {
		s := Compile(&c.p).Sysctls
		if g4, g6 := sysctlOf(s, "net/ipv4/ip_forward"), sysctlOf(s, "net/ipv6/conf/all/forwarding"); g4 != c.want4 ||
			g6 != c.want6 {
			t.Errorf("%s: forwarding = %s, %s; want %s, %s", name, g4, g6, c.want4, c.want6)
		}
	}
}

func TestReversePath(t *testing.T) {
	gw := []profiles.Gateway{{Addr: ip("10.0.0.9")}}
	for name, c := range map[string]struct {
		links []profiles.Link
		want  string
	}{
		"one gateway":     {[]profiles.Link{{Name: "a", Gateways: gw}, {Name: "b"}}, "1"},
		"none":            {[]profiles.Link{{Name: "a"}, {Name: "b"}}, "1"},
		"two on one link": {[]profiles.Link{{Name: "a", Gateways: append(gw, gw...)}, {Name: "b"}}, "1"},
		"on two links":    {[]profiles.Link{{Name: "a", Gateways: gw}, {Name: "b", DHCP: true}}, "2"},
		"the second of IPv6": {[]profiles.Link{{Name: "a", Gateways: gw}, {Name: "b",
			Gateways: []profiles.Gateway{{Addr: ip("fd00::9")}}}}, "1"},
		"two DHCP uplinks, loose": {[]profiles.Link{{Name: "a", DHCP: true}, {Name: "b", DHCP: true}}, "2"},
	} {
		if got := sysctlOf(Compile(&profiles.Profile{Links: c.links}).Links[1].Sysctls,
			"net/ipv4/conf/*/rp_filter"); got != c.want {
			t.Errorf("%s: rp_filter = %s; want %s", name, got, c.want)
		}
	}
}

func TestConntrackSize(t *testing.T) {
	for memory, want := range map[int64]string{0: "8192", 64 << 20: "8192", 128 << 20: "16384", 1 << 30: "131072",
		1 << 40: "1048576"} {
		if got := ConntrackSysctls(memory)[0].Value; got != want {
			t.Errorf("conntrack_max for %d bytes = %s; want %s", memory, got, want)
		}
	}
}

func TestSetSysctl(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "proc/sys/net/ipv4/conf/lan0")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "rp_filter")
	if err := os.WriteFile(file, []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	k := &kernel{root: root}
	s := Sysctl{Path: "net/ipv4/conf/*/rp_filter", Value: "1", Why: "spoofing"}
	for i, want := range []bool{true, false} {
		if wrote, err := k.setSysctl(s, "lan0"); wrote != want || err != nil {
			t.Errorf("setSysctl, time %d = %t, %v; want %t", i+1, wrote, err, want)
		}
	}
	if b, err := os.ReadFile(file); string(b) != "1" || err != nil {
		t.Errorf("rp_filter = %q, %v; want 1", b, err)
	}
	s.Path = "net/ipv4/conf/*/missing"
	if _, err := k.setSysctl(s, "lan0"); err == nil || !strings.Contains(err.Error(), "net/ipv4/conf/lan0/missing") {
		t.Errorf("a missing switch: %v; want an error that names it", err)
	}
	s.Optional = true
	if wrote, err := k.setSysctl(s, "lan0"); wrote || err != nil {
		t.Errorf("a missing optional switch = %t, %v; want nothing", wrote, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing switch was made")
	}
}

func TestResolv(t *testing.T) {
	p := &profiles.Profile{Links: []profiles.Link{{Name: "a"}, {Name: "b"}}}
	leases := map[string]dhcp4.Lease{
		"b": {DNS: []netip.Addr{ip("9.9.9.9"), ip("8.8.8.8"), ip("1.1.1.1")}, Domain: "b.example"},
		"a": {DNS: []netip.Addr{ip("8.8.8.8"), ip("8.8.4.4")}},
	}
	want := "search b.example\nnameserver 8.8.8.8\nnameserver 8.8.4.4\nnameserver 9.9.9.9\n"
	got := string(resolv(p, Learnt{Leases: leases}, 0))
	if !strings.HasSuffix(got, want) || strings.Count(got, "\n") != 5 {
		t.Errorf("resolv = %q; want a comment and %q", got, want)
	}
}

func TestKeptLease(t *testing.T) {
	now := 1000 * time.Second
	good := dhcp4.Lease{Address: pfx("198.51.100.50/24"), Server: ip("198.51.100.1"), Obtained: now - 1, Renew: now + 5,
		Rebind: now + 6, Expires: now + 7}
	if err := good.Check(now); err != nil {
		t.Errorf("Check = %v; want nil", err)
	}
	for name, edit := range map[string]func(*dhcp4.Lease){
		"empty":         func(l *dhcp4.Lease) { *l = dhcp4.Lease{} },
		"ended":         func(l *dhcp4.Lease) { l.Expires = now },
		"for years":     func(l *dhcp4.Lease) { l.Expires = now + 1000*24*time.Hour },
		"IPv6":          func(l *dhcp4.Lease) { l.Address = pfx("fd00::1/64") },
		"multicast":     func(l *dhcp4.Lease) { l.Address = pfx("224.0.0.1/24") },
		"T1 after T2":   func(l *dhcp4.Lease) { l.Renew = now + 8 },
		"from tomorrow": func(l *dhcp4.Lease) { l.Obtained = now + 1 },
		"many routes":   func(l *dhcp4.Lease) { l.Routes = make([]dhcp4.Route, 99) },
	} {
		l := good
		edit(&l)
		if l.Check(now) == nil {
			t.Errorf("%s: Check(%+v) = nil; want an error", name, l)
		}
	}
}
