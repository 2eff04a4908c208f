package hypervisor

import (
	"net"
	"strings"
	"testing"
)

func TestMACsAreStableAndDistinct(t *testing.T) {
	links := make([]string, 24)
	for i := range links {
		links[i] = "lan" + string(rune('a'+i))
	}
	macs := MACs("fw-1", links)
	// The addresses are part of the interface: people write them into DHCP servers and hosters' panels.
	if got, want := macs[0].String(), "00:16:3e:10:82:55"; got != want {
		t.Errorf("MACs(fw-1, %s)[0] = %s; want %s", links[0], got, want)
	}
	seen := map[string]bool{}
	for i, m := range macs {
		if !strings.HasPrefix(m.String(), "00:16:3e:") || seen[m.String()] {
			t.Errorf("MACs(fw-1)[%d] = %s; want 00:16:3e:*, each once", i, m)
		}
		seen[m.String()] = true
	}
	if fewer := MACs("fw-1", links[:3]); fewer[2].String() != macs[2].String() {
		t.Errorf("MACs with 3 links [2] = %s; want %s as with 24", fewer[2], macs[2])
	}
	if other := MACs("fw-2", links[:1]); other[0].String() == macs[0].String() {
		t.Errorf("MACs(fw-2)[0] = %s; want another than fw-1's", other[0])
	}
	same := MACs("x", []string{"a", "a"})
	if same[0].String() == same[1].String() {
		t.Errorf("MACs with a repeated name = %v; want two addresses", same)
	}
}

func TestParseBackend(t *testing.T) {
	good := map[string]Backend{
		"none":                       {Kind: Unplugged},
		"user":                       {Kind: User},
		"user,internet":              {Kind: User, Internet: true},
		"tap:tap0":                   {Kind: Tap, Tap: "tap0"},
		"socket:listen=127.0.0.1:99": {Kind: Socket, Socket: "listen=127.0.0.1:99"},
		"socket:connect=[::1]:99":    {Kind: Socket, Socket: "connect=[::1]:99"},
	}
	for in, want := range good {
		got, err := ParseBackend(in)
		if err != nil || got != want {
			t.Errorf("ParseBackend(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "usr", "user,", "tap:", "tap:a,script=/bin/sh", "tap:sixteen-bytes-xx", "socket:",
		"socket:exec=1:2", "socket:listen=1:2,localaddr=3", "wire"} {
		if got, err := ParseBackend(in); err == nil {
			t.Errorf("ParseBackend(%q) = %+v; want an error", in, got)
		}
	}
}

func TestValidate(t *testing.T) {
	mac := net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 1}
	good := Machine{Name: "g", Memory: 1 << 27, Firmware: BIOS, System: Disk{Path: "x"}, Accel: TCG,
		NICs: []NIC{{Link: "a", MAC: mac, Backend: Backend{Kind: User}}}}
	if err := good.Validate(); err != nil {
		t.Fatalf("Validate(%+v) = %v; want nil", good, err)
	}
	bad := good
	bad.Name, bad.Memory, bad.Accel, bad.Firmware = "", 0, Auto, UEFI
	bad.NICs = append(bad.NICs, NIC{Link: "b", MAC: mac}, NIC{Link: "c", MAC: net.HardwareAddr{1, 0, 0, 0, 0, 0}})
	err := bad.Validate()
	if err == nil {
		t.Fatal("Validate of a machine full of mistakes = nil; want them all")
	}
	for _, want := range []string{"no name", "memory", "flash", "accelerator", "links a and b", "link c"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v; want it to name %q", err, want)
		}
	}
}
