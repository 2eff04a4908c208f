package link

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/boottime"
	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/dhcp/downstream"
	"rempart/firstboot/link/dhcp4"
	"rempart/firstboot/link/dhcp6"
	"rempart/profiles"
)

// uplinkEnv is a guest with two uplinks and an inside, on an empty root.
func uplinkEnv(t *testing.T) (*child.Env, *bytes.Buffer) {
	var log bytes.Buffer
	return &child.Env{
		Root: t.TempDir(),
		Log:  slog.New(slog.NewTextHandler(&log, nil)),
		Profile: &profiles.Profile{Links: []profiles.Link{{Name: "wan", DHCP: true}, {Name: "wan2", DHCP: true},
			{Name: "lan", Addresses: []netip.Prefix{pfx("10.10.10.1/24"), pfx("fd00::1/64")}}}},
	}, &log
}

func uplinksOf(env *child.Env) *uplinks { return newUplinks(env, Compile(env.Profile)) }

func aLease() dhcp4.Lease {
	now := boottime.Now()
	return dhcp4.Lease{Address: pfx("198.51.100.50/24"), Server: ip("198.51.100.1"), MAC: "02:00:00:00:00:0a",
		DNS: []netip.Addr{ip("9.9.9.9")}, Routes: []dhcp4.Route{{Dst: pfx("192.0.2.0/24")}},
		Obtained: now, Renew: now + time.Hour, Rebind: now + 2*time.Hour, Expires: now + 3*time.Hour}
}

// TestLostSubnets: what a link inside has by DHCP leads nowhere without it, from its first lease on, also when that has
// ended; what an uplink has does not, and what the profile says already is not said twice.
func TestLostSubnets(t *testing.T) {
	env, _ := uplinkEnv(t)
	env.Profile.Links[1].Accept.NoDefault = true
	u := uplinksOf(env)
	l := aLease()
	u.leases.learn("wan", &l)
	if got := u.lost(nil); len(got) != 0 {
		t.Errorf("before its lease %v lead nowhere; want none", got)
	}
	l.Address = pfx("10.7.0.50/24")
	u.leases.learn("wan2", &l)
	want := []Route{{Dst: pfx("10.7.0.0/24"), Dead: profiles.Unreachable, Metric: metricLost, Protocol: ProtocolStatic}}
	for _, what := range []string{"with a lease", "when it has ended"} {
		if got := u.lost(nil); !slices.Equal(got, want) {
			t.Errorf("%s %v lead nowhere; want %v", what, got, want)
		}
		u.leases.learn("wan2", nil)
	}
	l.Address = pfx("10.8.0.50/24")
	u.leases.learn("wan2", &l)
	want[0].Dst = pfx("10.8.0.0/24")
	if got := u.lost(nil); !slices.Equal(got, want) {
		t.Errorf("with another lease %v lead nowhere; want %v", got, want)
	}
	if got := u.lost(want); len(got) != 0 {
		t.Errorf("%v lead nowhere twice", got)
	}
}

func TestLeaseOutlivesTheProcess(t *testing.T) {
	env, _ := uplinkEnv(t)
	l := aLease()
	u := uplinksOf(env)
	u.leases.learn("wan", &l)
	resolvFile := filepath.Join(env.Root, contract.ResolvPath)
	if b, err := os.ReadFile(resolvFile); err != nil || !strings.HasSuffix(string(b), "nameserver 9.9.9.9\n") {
		t.Errorf("resolv.conf = %q, %v", b, err)
	}
	again := uplinksOf(env)
	if got := again.current4()["wan"]; !reflect.DeepEqual(got, l) {
		t.Errorf("the next run knows %+v; want %+v", got, l)
	}
	if got := again.inside("wan2"); !slices.Contains(got, pfx("198.51.100.0/24")) || !slices.Contains(got,
		pfx("10.10.10.0/24")) ||
		len(got) != 2 {
		t.Errorf("inside for wan2 = %v; want the IPv4 subnets of wan and lan", got)
	}
	if got := again.inside("wan"); !slices.Equal(got, []netip.Prefix{pfx("10.10.10.0/24")}) {
		t.Errorf("inside for wan = %v; want that of lan", got)
	}
	again.leases.learn("wan", nil)
	if got := uplinksOf(env).current4(); len(got) != 0 {
		t.Errorf("after its end the next run still knows %v", got)
	}
	if b, err := os.ReadFile(resolvFile); err != nil || strings.Contains(string(b), "9.9.9.9") {
		t.Errorf("after the end resolv.conf = %q, %v", b, err)
	}
	if files, err := filepath.Glob(filepath.Join(env.Root, contract.LinkDir, ".*-*")); err != nil || len(files) != 0 {
		t.Errorf("left behind: %v, %v", files, err)
	}
}

func TestSpoiltLeaseFiles(t *testing.T) {
	for name, edit := range map[string]func([]byte) []byte{
		"empty":       func([]byte) []byte { return nil },
		"cut short":   func(b []byte) []byte { return b[:len(b)/2] },
		"not JSON":    func([]byte) []byte { return []byte("\x00\xff") },
		"too large":   func(b []byte) []byte { return append(b, bytes.Repeat([]byte(" "), maxKept)...) },
		"other link":  func(b []byte) []byte { return bytes.Replace(b, []byte(`"wan"`), []byte(`"wan2"`), 1) },
		"no address":  func(b []byte) []byte { return bytes.Replace(b, []byte("198.51.100.50/24"), nil, 1) },
		"bad address": func(b []byte) []byte { return bytes.Replace(b, []byte("198.51.100.50"), []byte("224.0.0.1"), 1) },
		"IPv6 address": func(b []byte) []byte {
			return bytes.Replace(b, []byte("198.51.100.50/24"), []byte("fd00::1/64"),
				1)
		},
	} {
		env, log := uplinkEnv(t)
		u := uplinksOf(env)
		l := aLease()
		u.leases.learn("wan", &l)
		b, err := os.ReadFile(u.leases.file("wan"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(u.leases.file("wan"), edit(b), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := uplinksOf(env).current4(); len(got) != 0 || !strings.Contains(log.String(), "ignored a kept lease") {
			t.Errorf("%s: the next run knows %v and said %q; want nothing and a warning", name, got, log)
		}
	}
}

// TestOwnDelegation: the links inside that have their addresses of a delegated prefix do not keep it from being
// extended.
func TestOwnDelegation(t *testing.T) {
	env, _ := uplinkEnv(t)
	env.Profile = &profiles.Profile{Links: []profiles.Link{{Name: "wan", Delegation: &profiles.Delegation{}},
		{Name: "lan", Addresses: []netip.Prefix{pfx("fd00::1/64")},
			Delegated: []profiles.Delegated{{Subnet: 1, Host: ip("::1")}}}},
		DHCP6: []profiles.DHCP6{{Link: "lan", Delegate: &profiles.PrefixPool{Shortest: 62, Longest: 62,
			PrefixBlock: profiles.PrefixBlock{Prefix: pfx("0:0:0:10::/60"), Delegated: true}}}}}
	u := uplinksOf(env)
	later := u.now() + time.Hour
	u.given6.states["wan"] = dhcp6.State{Prefixes: []dhcp6.Prefix{{Prefix: pfx("2001:db8:100::/56"), Valid: later,
		Preferred: later}}}
	if got := u.others6("wan"); !slices.Equal(got, []netip.Prefix{pfx("fd00::/64")}) {
		t.Errorf("DHCPv6 on wan must not touch %v; want fd00::/64 alone", got)
	}
	if got := u.inside6("wan", ""); !slices.Contains(got, pfx("2001:db8:100:1::/64")) {
		t.Errorf("routers on wan must not touch %v; want the subnet of lan among it", got)
	}
	if got := u.inside6("wan", ""); !slices.Contains(got, pfx("2001:db8:100:10::/60")) {
		t.Errorf("routers on wan must not touch %v; want what lan delegates of it among it", got)
	}
}

// TestDownstreamSaidOnce: what the child that delegates cannot mean is said once, however often it says it.
func TestDownstreamSaidOnce(t *testing.T) {
	env, log := uplinkEnv(t)
	u := uplinksOf(env)
	way := downstream.Way{Link: "lan", Via: ip("fe80::7"), Block: profiles.PrefixBlock{Prefix: pfx("fd00:f::/60")}}
	tell := func(ways ...downstream.Way) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(env.Root, contract.DownstreamDir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := downstream.Write(env.Root, ways); err != nil {
			t.Fatal(err)
		}
		u.stale = true
		u.lookDownstream()
	}
	for range 3 {
		tell(way) // nothing is delegated there
	}
	if n := strings.Count(log.String(), "not everything that was delegated is routed"); n != 1 || len(u.ways) != 0 {
		t.Errorf("it was said %d times, and there are the ways %v; want once, and none:\n%s", n, u.ways, log)
	}
	env.Profile.DHCP6 = []profiles.DHCP6{{Link: "lan", Delegate: &profiles.PrefixPool{PrefixBlock: way.Block, Shortest: 60,
		Longest: 60}}}
	if tell(way); !slices.Equal(u.ways, []downstream.Way{way}) {
		t.Errorf("ways are %v; want %v", u.ways, way)
	}
}
