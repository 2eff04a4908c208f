package pcap

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Packets from the header of the network on, each from 10.0.0.1 or fd00::1 to 10.0.0.2 or fd00::2.
var (
	tcp4   = unhex("4500002800000000400600000a0000010a000002" + "303901bb0000000000000000500200000000" + "0000")
	udp4   = unhex("4500001c00000000401100000a0000010a000002" + "303900350008" + "0000")
	later4 = unhex("4500001c00000064401100000a0000010a000002" + "303900350008" + "0000")
	tcp6   = unhex("6000000000140640" + "fd000000000000000000000000000001" + "fd000000000000000000000000000002" +
		"303901bb0000000000000000500200000000" + "0000")
	hops6 = unhex("60000000001c0040" + "fd000000000000000000000000000001" + "fd000000000000000000000000000002" +
		"1100000000000000" + "303900350014" + "0000" + "000000000000000000000000")
	arp = unhex("0001080006040001" + "020000000001" + "0a000001" + "000000000000" + "0a000002")
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// framed puts a packet into a frame, in VLANs if there are tags.
func framed(kind string, packet []byte, tags ...string) []byte {
	return append(unhex("020000000002"+"020000000001"+strings.Join(tags, "")+kind), packet...)
}

func TestMatch(t *testing.T) {
	one, two, three := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::2"), netip.MustParseAddr("10.0.0.3")
	for _, tt := range []struct {
		name   string
		filter Filter
		kind   uint32
		packet []byte
		want   bool
	}{
		{"everything", Filter{}, Ethernet, nil, true},
		{"a host", Filter{Host: one}, Ethernet, framed("0800", tcp4), true},
		{"another host", Filter{Host: three}, Ethernet, framed("0800", tcp4), false},
		{"a host in ARP", Filter{Host: one}, Ethernet, framed("0806", arp), true},
		{"another host in ARP", Filter{Host: three}, Ethernet, framed("0806", arp), false},
		{"a host by IPv6", Filter{Host: two}, Ethernet, framed("86dd", tcp6), true},
		{"a port", Filter{Port: 443}, Ethernet, framed("0800", tcp4), true},
		{"the sender's port", Filter{Port: 12345}, Ethernet, framed("0800", udp4), true},
		{"another port", Filter{Port: 80}, Ethernet, framed("0800", tcp4), false},
		{"a port in a later fragment", Filter{Port: 53}, Ethernet, framed("0800", later4), false},
		{"a host in a later fragment", Filter{Host: one}, Ethernet, framed("0800", later4), true},
		{"a port in ARP", Filter{Port: 53}, Ethernet, framed("0806", arp), false},
		{"a port by IPv6", Filter{Port: 443}, Ethernet, framed("86dd", tcp6), true},
		{"a port behind hop-by-hop options", Filter{Port: 53}, Ethernet, framed("86dd", hops6), true},
		{"a port in a VLAN", Filter{Port: 443}, Ethernet, framed("0800", tcp4, "81000005"), true},
		{"a port in two VLANs", Filter{Port: 443}, Ethernet, framed("0800", tcp4, "88a80005", "81000006"), true},
		{"a host and a port", Filter{Host: one, Port: 53}, Ethernet, framed("0800", tcp4), false},
		{"without a port", Filter{Not: 443}, Ethernet, framed("0800", tcp4), false},
		{"without another port", Filter{Not: 22}, Ethernet, framed("0800", tcp4), true},
		{"without a port of TCP", Filter{Not: 53}, Ethernet, framed("0800", udp4), true},
		{"in a tunnel", Filter{Port: 443, Host: two}, Raw, tcp6, true},
		{"IPv4 in a tunnel", Filter{Port: 443}, Raw, tcp4, true},
		{"too short", Filter{Host: one}, Ethernet, framed("0800", tcp4)[:20], false},
		{"nothing", Filter{Host: one}, Raw, nil, false},
		{"another protocol", Filter{Host: one}, Ethernet, framed("88cc", nil), false},
		{"another protocol, no matter", Filter{Not: 22}, Ethernet, framed("88cc", nil), true},
	} {
		if got := tt.filter.Match(tt.kind, tt.packet); got != tt.want {
			t.Errorf("%s: Match = %v; want %v", tt.name, got, tt.want)
		}
	}
}

func FuzzMatch(f *testing.F) {
	for _, p := range [][]byte{framed("0800", tcp4), framed("86dd", hops6, "81000005"), framed("0806", arp), tcp6} {
		f.Add(p)
	}
	host := netip.MustParseAddr("10.0.0.1")
	f.Fuzz(func(t *testing.T, packet []byte) {
		for _, kind := range []uint32{Ethernet, Raw} {
			both := Filter{Host: host, Port: 443}.Match(kind, packet)
			if both && !(Filter{Host: host}.Match(kind, packet) && Filter{Port: 443}.Match(kind, packet)) {
				t.Error("a packet is of a host and a port, but not of each")
			}
		}
	})
}

// TestTcpdumpReads has tcpdump judge a file.
func TestTcpdumpReads(t *testing.T) {
	tcpdump, err := exec.LookPath("tcpdump")
	if err != nil {
		t.Skipf("SKIPPED, NOT PASSED: %v", err)
	}
	var file bytes.Buffer
	w, err := NewWriter(&file, Ethernet)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range [][]byte{framed("0800", tcp4), framed("86dd", tcp6, "81000005"), framed("0806", arp)} {
		if err := w.Write(time.Unix(1_700_000_000, int64(i)*1000), p, len(p)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(tcpdump, "-nn", "-e", "-tt", "-r", "-")
	cmd.Stdin = &file
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1700000000.000000 02:00:00:00:00:01 >", "10.0.0.1.12345 > 10.0.0.2.443",
		"1700000000.000001 ", "vlan 5", "fd00::1.12345 > fd00::2.443", "who-has 10.0.0.2 tell 10.0.0.1"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("tcpdump says\n%s\nwant %q in it", out, want)
		}
	}
}
