package downstream

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/contract"
	"rempart/profiles"
)

func profile() *profiles.Profile {
	own := profiles.PrefixBlock{Prefix: netip.MustParsePrefix("fd00:f::/48")}
	named := profiles.PrefixBlock{Prefix: netip.MustParsePrefix("fd00:f:0:1::/64")}
	return &profiles.Profile{
		Links: []profiles.Link{{Name: "lan", Addresses: []netip.Prefix{netip.MustParsePrefix("fd00:1::1/64")}},
			{Name: "dmz", Addresses: []netip.Prefix{netip.MustParsePrefix("fd00:2::1/64")}}},
		DHCP6: []profiles.DHCP6{{Link: "lan",
			Delegate: &profiles.PrefixPool{PrefixBlock: own, Shortest: 56, Longest: 60},
			DHCP6Scope: profiles.DHCP6Scope{Hosts: []profiles.DHCP6Host{{Name: "branch",
				Delegate: &named}}}}},
	}
}

func way(link, prefix, via string) Way {
	block := profiles.PrefixBlock{Prefix: netip.MustParsePrefix(prefix)}
	return Way{Link: link, Block: block, Via: netip.MustParseAddr(via), Until: time.Hour}
}

func TestWays(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, contract.DownstreamDir), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(root, profile()); got != nil || err != nil {
		t.Errorf("before any were written: %v, %v; want none", got, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	news, err := Watch(ctx, root)
	if err != nil {
		t.Fatal(err)
	}
	<-news
	want := []Way{way("lan", "fd00:f:0:100::/56", "fe80::7"), way("lan", "fd00:f:0:200::/60", "fd00:1::7"),
		way("lan", "fd00:f:0:1::/64", "fe80::8")}
	if err := Write(root, want); err != nil {
		t.Fatal(err)
	}
	<-news
	if got, err := Read(root, profile()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Read = %v, %v; want %v", got, err, want)
	}
	stop()
	for range news { // until it is closed
	}
}

// TestStrange: the child that writes the file may be in a stranger's hands.
func TestStrange(t *testing.T) {
	good := way("lan", "fd00:f:0:300::/56", "fe80::7")
	for name, w := range map[string]Way{
		"of another link":            way("dmz", "fd00:f:0:100::/56", "fe80::7"),
		"by a link that is not":      way("wan", "fd00:f:0:100::/56", "fe80::7"),
		"outside the pool":           way("lan", "2001:db8::/56", "fe80::7"),
		"larger than the pool":       way("lan", "fd00::/16", "fe80::7"),
		"smaller than there are any": way("lan", "fd00:f:0:100::/64", "fe80::7"),
		"bits beyond the length":     way("lan", "fd00:f:0:101::/56", "fe80::7"),
		"a part of what is delegated": {Link: "lan", Via: netip.MustParseAddr("fe80::7"),
			Block: profiles.PrefixBlock{Prefix: netip.MustParsePrefix("fd00:f::/56"), Delegated: true}},
		"nothing":           {Link: "lan", Via: netip.MustParseAddr("fe80::7")},
		"via nobody":        {Link: "lan", Block: good.Block},
		"via the guest":     way("lan", "fd00:f:0:100::/56", "fd00:1::1"),
		"via another link":  way("lan", "fd00:f:0:100::/56", "fd00:2::7"),
		"via the Internet":  way("lan", "fd00:f:0:100::/56", "2001:db8::7"),
		"via a group":       way("lan", "fd00:f:0:100::/56", "ff02::1"),
		"via a link of its": way("lan", "fd00:f:0:100::/56", "fe80::7%eth0"),
		"via IPv4":          way("lan", "fd00:f:0:100::/56", "10.0.0.1"),
		"via IPv4 as IPv6":  way("lan", "fd00:f:0:100::/56", "::ffff:10.0.0.1"),
	} {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, contract.DownstreamDir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := Write(root, []Way{w, good, good}); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(root, profile()); err == nil || len(got) != 1 || got[0] != good {
			t.Errorf("%s: %v, %v; want the other one, once, and an error", name, got, err)
		}
	}
	for name, text := range map[string]string{"rubbish": "rubbish", "another field": `[{"link":"lan","dev":"eth0"}]`,
		"too many": "[" + strings.Repeat(`{"link":"lan"},`, Most) + `{"link":"lan"}]`} {
		if got, err := read([]byte(text), profile()); err == nil || len(got) > 0 {
			t.Errorf("%s: %v, %v; want an error", name, got, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`[{"link":"lan","block":{"prefix":"fd00:f:0:100::/56"},"via":"fe80::7","until":5}]`))
	f.Add([]byte(`[{"link":"lan","block":{"prefix":"::/0","delegated":true},"via":"","until":-5}]`))
	p := profile()
	f.Fuzz(func(t *testing.T, b []byte) {
		ways, _ := read(b, p)
		for _, w := range ways {
			if w.check(p) != nil {
				t.Errorf("%v is taken", w)
			}
		}
	})
}
