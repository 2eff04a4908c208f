package guest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// generic is a profile that leaves the outer link to each guest.
func generic(t *testing.T) *profiles.Profile {
	t.Helper()
	p, err := profiles.Parse("p.yaml", []byte("rempart: 1\nname: gw\nadmin: none\n"+
		"links: {wan: {address: instance, gateway: instance}, lan: {address: 10.0.0.1/24}}\n"+
		"zones: {internet: wan, inside: lan}\npolicy: [inside -> internet: any]\nmasquerade: [inside -> internet]\n"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestInstance(t *testing.T) {
	p := generic(t)
	if got := fmt.Sprint(identity.Lacking(p)); got != "[wan: an address wan: a gateway]" {
		t.Errorf("Lacking of a generic profile = %s", got)
	}
	for name, x := range map[string]struct {
		addresses, gateways []string
		want                string // links of the profile that comes of it, or part of the error
	}{
		"one": {[]string{"wan=192.0.2.7/24"}, []string{"wan=192.0.2.1"}, "[192.0.2.7/24] [{192.0.2.1 false 0}]"},
		"outside": {[]string{"wan=192.0.2.7/32"}, []string{"wan=198.51.100.1"},
			"[192.0.2.7/32] [{198.51.100.1 true 0}]"},
		"both families":  {[]string{"wan=192.0.2.7/24", "wan=2001:db8::7/64"}, nil, "[192.0.2.7/24 2001:db8::7/64] []"},
		"another's link": {[]string{"lan=192.0.2.7/24"}, []string{"vpn=192.0.2.1"}, "no link vpn that leaves this"},
		"no value":       {[]string{"wan"}, nil, "want LINK=VALUE"},
		"no length":      {[]string{"wan=192.0.2.7"}, nil, "192.0.2.7/24"},
		"no address":     {nil, []string{"wan=router"}, "want an address, such as"},
		"not a host's":   {[]string{"wan=127.0.0.1/8"}, nil, "want one of a host"},
		"overlapping":    {[]string{"wan=10.0.0.7/16"}, nil, "overlaps"},
		"taken":          {[]string{"wan=192.0.2.7/24"}, []string{"wan=10.0.0.1"}, "the guest's own address"},
	} {
		id := &identity.Identity{Links: []identity.Link{{Name: "wan", MAC: "00:16:3e:00:00:01"}}}
		err := SetAddresses(id, p, x.addresses, x.gateways)
		var own *profiles.Profile
		if err == nil {
			own, err = Applied(id, p)
		}
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprint(own.Links[0].Addresses, " ", own.Links[0].Gateways)
		}
		if !strings.Contains(got, x.want) {
			t.Errorf("%s: %s; want %s", name, got, x.want)
		}
	}
	made := &identity.Identity{}
	if err := MakeUpAddresses(made, p); err != nil {
		t.Fatal(err)
	}
	if own, err := Applied(made, p); err != nil || len(identity.Lacking(own)) != 0 {
		t.Errorf("with made up addresses: %v, %v is lacking", err, identity.Lacking(own))
	}
	if len(p.Links[0].Addresses) != 0 {
		t.Errorf("the profile itself has %v now; want it left as it was", p.Links[0].Addresses)
	}
	// What was given stays until something else is, and what another link says is left aside.
	id := &identity.Identity{Links: []identity.Link{{Name: "wan", Addresses: []netip.Prefix{
		netip.MustParsePrefix("192.0.2.7/24")}}, {Name: "lan", Addresses: []netip.Prefix{
		netip.MustParsePrefix("192.0.2.8/24")}}}}
	if err := SetAddresses(id, p, nil, []string{"wan=192.0.2.1"}); err != nil {
		t.Fatal(err)
	}
	own, err := Applied(id, p)
	if err != nil || len(identity.Lacking(own)) != 0 || own.Links[1].Addresses[0].String() != "10.0.0.1/24" {
		t.Errorf("after one value was added: %+v, %v; want both, and lan as the profile says", own, err)
	}
}
