package filter_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/profiles"
)

// table prints probes for the golden files.
func table(probes []filter.Probe) string {
	var b strings.Builder
	addr := func(a netip.Addr) string {
		if !a.IsValid() {
			return "?"
		}
		return a.String()
	}
	for _, p := range probes {
		verdict := "drop"
		if p.Pass {
			seen := addr(p.SeenSrc)
			if p.SeenLast.IsValid() {
				seen += "-" + addr(p.SeenLast)
			}
			verdict = fmt.Sprintf("pass  seen %s -> %s %d", seen, addr(p.SeenDst), p.SeenPort)
		}
		between := ">"
		if p.Bridge != "" {
			between = "=" + p.Bridge + "="
		}
		fmt.Fprintf(&b, "%s -> %s | %s%s%s | %s -> %s %s %d | %s | %s\n", p.From, p.To, p.Link, between, p.OutLink,
			addr(p.Src), addr(p.Dst), p.Protocol, p.Port, verdict, p.Proves)
	}
	return b.String()
}

func TestProbesGolden(t *testing.T) {
	for _, p := range everyProfile(t) {
		golden(t, p.Name+".probes", table(filter.Probes(p)))
	}
}

// TestProbeOfNamedAdmin: an admin is tried although a forward leads to the same host.
func TestProbeOfNamedAdmin(t *testing.T) {
	p := filtertest.Stewarded()
	admin := p.Admin.Prefixes[0].Addr()
	for _, probe := range filter.Probes(p) {
		if probe.Src == admin && probe.To == profiles.Self && probe.Port == filter.PortSSH {
			if !probe.Pass || !strings.HasPrefix(probe.Proves, "admin") {
				t.Errorf("the probe of the admin is %+v; want it to pass", probe)
			}
			return
		}
	}
	t.Errorf("there is no probe of the admin:\n%s", table(filter.Probes(p)))
}

// TestNoNetworksOwnAddress: nobody sends from a network's own address while it has others. In IPv6 that is every
// router's on it, the guest's too, which answers itself.
func TestNoNetworksOwnAddress(t *testing.T) {
	for _, p := range filtertest.Profiles() {
		for _, probe := range filter.Probes(p) {
			for _, l := range p.Links {
				for _, a := range l.Addresses {
					if a.Bits() < a.Addr().BitLen()-2 && probe.Src == a.Masked().Addr() {
						t.Errorf("%s: %+v is sent from the own address of %s", p.Name, probe, a)
					}
				}
			}
		}
	}
}
