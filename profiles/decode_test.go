package profiles

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func builtinJSON(t testing.TB) []byte {
	t.Helper()
	p, err := Load("home-firewall")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestDecodeRefusesWhatNobodyWrote(t *testing.T) {
	good := string(builtinJSON(t))
	if _, err := Decode([]byte(good)); err != nil {
		t.Fatalf("Decode(JSON of a profile): %v", err)
	}
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%s is not in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for _, c := range []struct {
		name, src, want string
		canonical       bool
	}{
		{name: "empty", src: "", want: "EOF"},
		{name: "null", src: "null", want: "not the JSON rempart writes", canonical: true},
		{name: "unknown key", src: replace(`"name":`, `"nmae":1,"name":`), want: "unknown field"},
		{name: "key twice", src: replace(`"name":`, `"name":"x","name":`), want: "not the JSON", canonical: true},
		{name: "another case", src: replace(`"name":"fw-1"`, `"Name":"fw-1"`), want: "not the JSON", canonical: true},
		{name: "key missing", src: replace(`"kernel":"cloud",`, ``), want: "not the JSON", canonical: true},
		{name: "two values", src: good + good, want: "something follows"},
		{name: "trailing junk", src: good + "x", want: "something follows"},
		{name: "wrong type", src: replace(`"memory":134217728`, `"memory":"128M"`), want: "cannot unmarshal"},
		{name: "too large", src: strings.Repeat(" ", maxJSON+1), want: "more than"},
	} {
		p, err := Decode([]byte(c.src))
		if p != nil || err == nil || !strings.Contains(err.Error(), c.want) ||
			errors.Is(err, ErrNotCanonical) != c.canonical {
			t.Errorf("Decode(%s) = %v, %v; want an error with %q", c.name, p, err, c.want)
		}
	}
}

// TestDecodeKeepsTheRules breaks a good profile in one way after the other, as no YAML could, and wants each told.
func TestDecodeKeepsTheRules(t *testing.T) {
	for _, c := range []struct {
		want string
		edit func(p *Profile)
	}{
		{"name: the host name is empty", func(p *Profile) { p.Name = "" }},
		{"memory: 0M", func(p *Profile) { p.Memory = 0 }},
		{"memory: 1 bytes", func(p *Profile) { p.Memory = 1 }},
		{"kernel: expected cloud", func(p *Profile) { p.Kernel = "" }},
		{"state: -1 bytes", func(p *Profile) { p.State.Size = -1 }},
		{"there are no links", func(p *Profile) { p.Links = nil }},
		{"65 links, expected at most 64", func(p *Profile) { p.Links = make([]Link, maxLinks+1) }},
		{`link "lan0" is declared twice`, func(p *Profile) { p.Links[1].Name = "lan0" }},
		{"links.lan0.mac: expected a hardware address", func(p *Profile) { p.Links[0].MAC = "52:54:00:12:34:5A" }},
		{"links.lan0.mtu: -1", func(p *Profile) { p.Links[0].MTU = -1 }},
		{"missing links.lan0.address", func(p *Profile) { p.Links[0].Addresses = nil }},
		{"is no address with prefix length", func(p *Profile) { p.Links[0].Addresses[0] = netip.Prefix{} }},
		{"links.lan0.gateway: there is no address", func(p *Profile) { p.Links[0].Gateways[0] = Gateway{} }},
		{"there are no zones", func(p *Profile) { p.Zones = nil }},
		{"65 zones, expected at most 64", func(p *Profile) { p.Zones = make([]Zone, maxZones+1) }},
		{`zone "home" is declared twice`, func(p *Profile) { p.Zones[2].Name = "home" }},
		{"zones.dmz: no link", func(p *Profile) { p.Zones[2].Members = nil }},
		{"both rest and prefixes", func(p *Profile) { p.Zones[0].Members[0].Rest = true }},
		{"zones.home: 1025 prefixes", func(p *Profile) {
			p.Zones[0].Members[0].Prefixes = make([]netip.Prefix, maxPrefixes+1)
		}},
		{"zones.home.prefix: invalid Prefix is no prefix", func(p *Profile) {
			p.Zones[0].Members[0].Prefixes = make([]netip.Prefix, 1)
		}},
		{"has bits set beyond its length", func(p *Profile) {
			p.Zones[0].Members[0].Prefixes[0] = netip.MustParsePrefix("192.168.0.1/24")
		}},
		{"admin: both none and from", func(p *Profile) { p.Admin.None = true }},
		{"admin: nobody may reach the guest", func(p *Profile) { p.Admin.Zones = nil }},
		{"expected accept, drop or reject", func(p *Profile) { p.Policy[0].Action = "" }},
		{"policy: ports without tcp, udp or sctp", func(p *Profile) { p.Policy[0].Matches[0].Ports = []PortRange{{1, 2}} }},
		{"policy: unknown protocol", func(p *Profile) { p.Policy[0].Matches[0].Protocol = "icmpv4" }},
		{"policy: unknown protocol", func(p *Profile) { p.Policy[0].Matches[0].Protocol = "proto/6" }},
		{"policy: ICMP types without", func(p *Profile) { p.Policy[0].Matches[0].Types = []uint16{8} }},
		{"256 is no ICMP type", func(p *Profile) {
			p.Policy[0].Matches = []Match{{Protocol: ICMP, Types: []uint16{256}}}
		}},
		{"is no rate", func(p *Profile) { p.Policy[0].Limit = &Limit{Count: 1, Per: "w", Burst: 1} }},
		{"70000 connections", func(p *Profile) { p.Policy[0].Connections = 70000 }},
		{"the log text", func(p *Profile) { p.Policy[0].Log = "a\nb" }},
		{"reject with", func(p *Profile) { p.Policy[0].With = "laughter" }},
		{"policy: 9-8 is no range", func(p *Profile) {
			p.Policy[0].Matches[0] = Match{Protocol: TCP, Ports: []PortRange{{9, 8}}}
		}},
		{"policy: more than 20000 rules", func(p *Profile) { p.Policy = make([]Rule, maxPolicy+1) }},
		{"masquerade: 1025 directions", func(p *Profile) { p.Masquerade = make([]Pair, maxPairs+1) }},
		{"forwards: more than 4096, or 8192 ports", func(p *Profile) { p.Forwards = make([]Forward, maxForwardRules+1) }},
		{"forwards: expected tcp or udp", func(p *Profile) { p.Forwards[0].Protocol = Ping }},
		{"forwards: 0 ports", func(p *Profile) { p.Forwards[0].Ports = nil }},
		{"forwards: 0 is no range", func(p *Profile) { p.Forwards[0].Ports = []PortRange{{0, 0}} }},
		{"forwards: 2 ports lead to the one port 8", func(p *Profile) { p.Forwards[0].ToPort = 8 }},
		{"forwards: there is no address", func(p *Profile) { p.Forwards[0].To = netip.Addr{} }},
		{"is no plain address", func(p *Profile) { p.Forwards[0].To = netip.MustParseAddr("::ffff:10.9.0.2") }},
		{"forwards: 10.9.0.1 is the guest's own address", func(p *Profile) {
			p.Forwards[0].To, p.Forwards[0].Ports = netip.MustParseAddr("10.9.0.1"), nil
		}},
		{`host "web" is declared twice`, func(p *Profile) {
			h := Host{Name: "web", Addresses: []netip.Addr{netip.MustParseAddr("10.9.0.2")}}
			p.Hosts = []Host{h, h}
		}},
		{"hosts.web: no address", func(p *Profile) { p.Hosts = []Host{{Name: "web", Addresses: []netip.Addr{}}} }},
		{"hosts: 4097 entries", func(p *Profile) { p.Hosts = make([]Host, maxHosts+1) }},
	} {
		p, err := Load("home-firewall")
		if err != nil {
			t.Fatal(err)
		}
		c.edit(p)
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatalf("%s: %v", c.want, err)
		}
		var invalid Invalid
		if _, err := Decode(raw); !errors.As(err, &invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Decode of a profile broken so: %v; want Invalid with %q", err, c.want)
		}
	}
}

func TestDecodeTakesIndentedJSON(t *testing.T) {
	var indented bytes.Buffer
	if err := json.Indent(&indented, builtinJSON(t), "", "\t"); err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(indented.Bytes()); err != nil {
		t.Errorf("Decode(indented JSON): %v; want it taken", err)
	}
}

// TestDecodeLinksNoYAML builds a program that only decodes and looks for the YAML parser and our reader in it.
func TestDecodeLinksNoYAML(t *testing.T) {
	symbols := func(call string, flags ...string) string {
		dir := t.TempDir()
		src := `package main

import "rempart/profiles"

func main() {
	p, err := ` + call + `
	println(p, err)
}
`
		here, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		// An overlay makes the program part of the module, so that the import resolves, and writes nothing into it.
		program, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
		overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
			filepath.Join(here, "linktest", "main.go"): program}})
		if err != nil {
			t.Fatal(err)
		}
		for file, content := range map[string]string{program: src, filepath.Join(dir, "overlay.json"): string(overlay)} {
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		args := append([]string{"build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary}, flags...)
		build := exec.Command("go", append(args, "./linktest")...)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
		out, err := exec.Command("go", "tool", "nm", binary).Output()
		if err != nil {
			t.Fatalf("go tool nm: %v", err)
		}
		return string(out)
	}
	parser := []string{"yaml_parser_parse", "yaml_parser_fetch_next_token",
		"profiles.profileFields", "profiles.readDocument"}
	decodes, parses := symbols("profiles.Decode(nil)"), symbols(`profiles.Parse("", nil)`)
	for _, name := range parser {
		if strings.Contains(decodes, name) {
			t.Errorf("a program that calls Decode holds %s; want it dropped by the linker", name)
		}
		if !strings.Contains(parses, name) {
			t.Errorf("a program that calls Parse lacks %s; want the name this test looks for mended", name)
		}
	}
	if strings.Contains(symbols("profiles.Decode(nil)", "-tags", "guest"), "yaml") {
		t.Error("a program that calls Decode, built with the tag guest, holds something of yaml; want nothing")
	}
}
