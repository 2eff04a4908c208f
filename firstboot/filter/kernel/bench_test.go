package kernel_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/kernel"
	"rempart/profiles"
)

// large is a policy of so many lines, each with addresses of its own, and a set of so many ranges.
func large(lines, ranges int) *profiles.Profile {
	p := withSet(ranges)
	for i := range lines {
		p.Policy = append(p.Policy, profiles.Rule{From: "net", To: "servers", Action: profiles.Accept,
			Matches: []profiles.Match{{Protocol: profiles.TCP, Ports: []profiles.PortRange{{First: 8443, Last: 8443}},
				Sources: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{12, byte(i >> 8), byte(i), 1}), 32)}}}})
	}
	return p
}

// BenchmarkApply compares loading a large policy with nft(8) loading the same as text: the first time, with the set,
// and again over itself, where Apply keeps the set.
func BenchmarkApply(b *testing.B) {
	rs, err := filter.Compile(large(10_000, 100_000))
	if err != nil {
		b.Fatal(err)
	}
	script := filepath.Join(b.TempDir(), "policy.nft")
	if err := os.WriteFile(script, []byte(rs.Text()), 0o600); err != nil {
		b.Fatal(err)
	}
	ours := func(ns int) error {
		return kernel.Apply(context.Background(), rs, kernel.Options{NetNS: ns})
	}
	theirs := func(ns int) error {
		cmd := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), ns), "nft", "-f", script)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("nft -f: %w: %s", err, out)
		}
		return nil
	}
	for _, who := range []struct {
		name string
		load func(ns int) error
	}{{"netlink", ours}, {"nft", theirs}} {
		b.Run(who.name+"/first", func(b *testing.B) {
			for b.Loop() {
				if err := who.load(namespace(b)); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(who.name+"/again", func(b *testing.B) {
			ns := namespace(b)
			if err := who.load(ns); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := who.load(ns); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
