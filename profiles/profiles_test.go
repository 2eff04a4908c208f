package profiles

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func mustParse(t testing.TB, src string) *Profile {
	t.Helper()
	p, err := Parse("fw.yaml", []byte(src))
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return p
}

// TestBuiltinJSON compares the JSON of each built-in profile with a golden file: what a guest will carry.
func TestBuiltinJSON(t *testing.T) {
	for _, name := range Builtin() {
		t.Run(name, func(t *testing.T) {
			p, err := Load(name)
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Warnings) > 0 {
				t.Errorf("Load(%s) warns of %v; want no warnings", name, p.Warnings)
			}
			got, err := json.MarshalIndent(p, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			golden := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("JSON of %s is\n%s\nwant\n%s", name, got, want)
			}
			decoded, err := Decode(want)
			if err != nil {
				t.Fatalf("Decode(%s): %v", golden, err)
			}
			if !reflect.DeepEqual(decoded, p) {
				t.Errorf("Decode(%s) = %+v; want %+v", golden, decoded, p)
			}
		})
	}
}

// TestHomeFirewall reads the built-in of the smallest deployment part by part, against that deployment's addresses.
func TestHomeFirewall(t *testing.T) {
	p, err := Load("home-firewall")
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "fw-1" || p.Memory != 128<<20 || p.State.Size != 256<<20 || p.Kernel != "cloud" {
		t.Errorf("machine = %q, %d, %d, %q; want fw-1 with 128 MiB, 256 MiB of state and the cloud kernel",
			p.Name, p.Memory, p.State.Size, p.Kernel)
	}
	if want := []string{"home"}; !reflect.DeepEqual(p.Admin.Zones, want) || p.Admin.None || len(p.Admin.Prefixes) > 0 {
		t.Errorf("admin = %+v; want zone home", p.Admin)
	}
	lan := p.Links[0]
	wantAddresses := []netip.Prefix{netip.MustParsePrefix("192.168.0.101/24"),
		netip.MustParsePrefix("fd00:192:168::101/64")}
	if lan.Name != "lan0" || !reflect.DeepEqual(lan.Addresses, wantAddresses) || len(lan.Gateways) != 2 ||
		lan.Gateways[0] != (Gateway{Addr: netip.MustParseAddr("192.168.0.1")}) {
		t.Errorf("first link = %+v; want lan0 with %v and gateway 192.168.0.1", lan, wantAddresses)
	}
	var external []string
	for _, z := range p.Zones {
		if z.External {
			external = append(external, z.Name)
		}
	}
	if want := []string{"internet"}; !reflect.DeepEqual(external, want) {
		t.Errorf("external zones = %v; want %v", external, want)
	}
	f := p.Forwards[0]
	wantPorts := []PortRange{{80, 80}, {443, 443}}
	if len(p.Forwards) != 1 || f.From != "internet" || f.Protocol != TCP || !reflect.DeepEqual(f.Ports, wantPorts) ||
		f.To != netip.MustParseAddr("192.168.0.102") || !f.SNAT || f.ToPort != 0 {
		t.Errorf("forwards = %+v; want tcp %v from internet to 192.168.0.102 with snat", p.Forwards, wantPorts)
	}
}

func TestPolicySugar(t *testing.T) {
	p := mustParse(t, `
rempart: 1
name: fw
links: {a: {address: 10.0.0.1/24}, b: {address: 10.0.1.1/24}}
zones: {home: a, dmz: b}
admin: none
hosts: {web: .1.7}
policy:
  - home -> dmz: [ssh, dns, udp/4000-4010]
  - home -> dmz: {ping: {from: [10.0.0.5, 10.0.0.128/25]}, tcp: {to: web, action: reject}, any: drop}
  - dmz -> any: any
  - dmz -> self: reject
`)
	prefixes := func(all ...string) (ps []netip.Prefix) {
		for _, s := range all {
			ps = append(ps, netip.MustParsePrefix(s))
		}
		return ps
	}
	want := []Rule{
		{From: "home", To: "dmz", Action: Accept, At: Pos{9, 5}, Matches: []Match{
			{Protocol: TCP, Ports: []PortRange{{22, 22}}},
			{Protocol: UDP, Ports: []PortRange{{53, 53}}}, {Protocol: TCP, Ports: []PortRange{{53, 53}}},
			{Protocol: UDP, Ports: []PortRange{{4000, 4010}}}}},
		{From: "home", To: "dmz", Action: Accept, At: Pos{10, 19},
			Matches: []Match{{Protocol: Ping, Sources: prefixes("10.0.0.5/32", "10.0.0.128/25")}}},
		{From: "home", To: "dmz", Action: Reject, At: Pos{10, 60},
			Matches: []Match{{Protocol: TCP, Destinations: prefixes("10.0.1.7/32")}}},
		{From: "home", To: "dmz", Action: Drop, At: Pos{10, 92}},
		{From: "dmz", To: Any, Action: Accept, At: Pos{11, 5}},
		{From: "dmz", To: Self, Action: Reject, At: Pos{12, 5}},
	}
	if !reflect.DeepEqual(p.Policy, want) {
		t.Errorf("Policy = %+v\nwant %+v", p.Policy, want)
	}
}

func TestForwardSugar(t *testing.T) {
	p := mustParse(t, `
rempart: 1
name: fw
links: {a: {address: [dhcp, "fd01::1/64"]}, b: {address: [10.0.1.1/24, "fd00::1/64"]}}
zones: {internet: a, dmz: b}
admin: none
hosts: {web: [.10, "fd00::10"]}
forwards:
  - {from: internet, tcp: [80, 8000-8002], udp: 443, to: web}
  - {from: internet, tcp: 2222, to: ".11:22"}
  - {from: internet, udp: 5000-5010, to: "[fd00::11]:6000"}
`)
	v4, v6 := netip.MustParseAddr("10.0.1.10"), netip.MustParseAddr("fd00::10")
	web, quic := []PortRange{{80, 80}, {8000, 8002}}, []PortRange{{443, 443}}
	want := []Forward{
		{From: "internet", Protocol: TCP, Ports: web, To: v4, At: Pos{9, 5}},
		{From: "internet", Protocol: TCP, Ports: web, To: v6, At: Pos{9, 5}},
		{From: "internet", Protocol: UDP, Ports: quic, To: v4, At: Pos{9, 5}},
		{From: "internet", Protocol: UDP, Ports: quic, To: v6, At: Pos{9, 5}},
		{From: "internet", Protocol: TCP, Ports: []PortRange{{2222, 2222}}, To: netip.MustParseAddr("10.0.1.11"), ToPort: 22,
			At: Pos{10, 5}},
		{From: "internet", Protocol: UDP, Ports: []PortRange{{5000, 5010}}, To: netip.MustParseAddr("fd00::11"), ToPort: 6000,
			At: Pos{11, 5}},
	}
	if !reflect.DeepEqual(p.Forwards, want) {
		t.Errorf("Forwards = %+v\nwant %+v", p.Forwards, want)
	}
}

func TestDefaults(t *testing.T) {
	p := mustParse(t, "{rempart: 1, name: fw, links: {a: {address: 10.0.0.1/24}}, zones: {wan: a}, admin: none}")
	if p.Memory != 128<<20 || p.State.Size != 256<<20 || p.Kernel != KernelCloud || !p.Admin.None || !p.Zones[0].External {
		t.Errorf("defaults = %+v; want 128 MiB, 256 MiB of state, the cloud kernel, no admin, wan external", p)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "home-firewall")
	const mine = "{rempart: 1, name: mine, links: {a: {address: 10.0.0.1/24}}, zones: {z: a}, admin: none}"
	if err := os.WriteFile(file, []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := Load(file); err != nil || p.Name != "mine" {
		t.Errorf("Load(%s) = %v, %v; want the file", file, p, err)
	}
	if p, err := Load("home-firewall"); err != nil || p.Name != "fw-1" {
		t.Errorf("Load(home-firewall) = %v, %v; want the built-in profile", p, err)
	}
	t.Chdir(dir)
	if p, err := Load("home-firewall"); err != nil || p.Name != "mine" {
		t.Errorf("Load(home-firewall) beside a file of that name = %v, %v; want the file", p, err)
	}
	if _, err := Load("home-firewal"); !errors.Is(err, fs.ErrNotExist) ||
		!strings.Contains(err.Error(), `did you mean "home-firewall"?`) {
		t.Errorf("Load(home-firewal): %v; want fs.ErrNotExist and a suggestion", err)
	}
	var invalid Invalid
	if _, err := Load(dir); err == nil || errors.As(err, &invalid) {
		t.Errorf("Load(a directory): %v; want an error that is not Invalid", err)
	}
	if _, err := Load(filepath.Join(file, "below")); err == nil || !strings.Contains(err.Error(), "opening the profile") {
		t.Errorf("Load(a path below a file): %v; want it to say what failed", err)
	}
	big := filepath.Join(dir, "big.yaml")
	if err := os.WriteFile(big, make([]byte, 10<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(big); !errors.As(err, &invalid) || len(invalid) != 1 {
		t.Errorf("Load(10 MiB): %v; want one finding", err)
	}
	if file, src, err := Source(big); err != nil || file != big || len(src) != MaxSource+1 {
		t.Errorf("Source(10 MiB) = %s, %d bytes, %v; want %d bytes and no more", file, len(src), err, MaxSource+1)
	}
}

func TestLoadStdin(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin := os.Stdin
	os.Stdin = r
	t.Cleanup(func() { os.Stdin = stdin; r.Close() })
	if _, err := w.WriteString("{rempart: 1, nmae: x}"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	_, err = Load(Stdin)
	want := `<stdin>:1:14: unknown key "nmae"; did you mean "name"?`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Load(-): %v; want it to say %q", err, want)
	}
}
