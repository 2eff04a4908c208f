package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// SetAddresses puts addresses, each given as LINK=ADDRESS/LENGTH, and gateways, each LINK=ADDRESS, onto an identity.
// What is given for a link replaces all it had of the kind. The links are those whose profile says instance.
func SetAddresses(id *identity.Identity, p *profiles.Profile, addresses, gateways []string) error {
	var errs []error
	links := map[string]*identity.Link{} // as given so far
	link := func(option, given string, wants func(profiles.Link) bool) (l *identity.Link, value string) {
		name, value, ok := strings.Cut(given, "=")
		if !ok {
			errs = append(errs, fmt.Errorf("%s %s: want LINK=VALUE", option, given))
			return nil, ""
		}
		i := slices.IndexFunc(p.Links, func(have profiles.Link) bool { return have.Name == name })
		if i < 0 || !wants(p.Links[i]) {
			errs = append(errs, fmt.Errorf("%s %s: %s has no link %s that leaves this to each guest; its profile would say "+
				"%s: instance", option, given, p.Name, name, strings.TrimPrefix(option, "--")))
			return nil, ""
		}
		if l = links[option+name]; l == nil {
			l = &identity.Link{Name: name}
			links[option+name] = l
		}
		return l, value
	}
	for _, given := range addresses {
		l, text := link("--address", given, func(l profiles.Link) bool { return l.Instance })
		if l == nil {
			continue
		}
		a, err := netip.ParsePrefix(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--address %s: want an address with prefix length, such as 192.0.2.7/24", given))
			continue
		}
		l.Addresses = append(l.Addresses, a)
	}
	for _, given := range gateways {
		l, text := link("--gateway", given, func(l profiles.Link) bool { return l.InstanceGateway })
		if l == nil {
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--gateway %s: want an address, such as 192.0.2.1", given))
			continue
		}
		l.Gateways = append(l.Gateways, a)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, l := range links {
		i := slices.IndexFunc(id.Links, func(have identity.Link) bool { return have.Name == l.Name })
		if i < 0 {
			id.Links = append(id.Links, identity.Link{Name: l.Name})
			i = len(id.Links) - 1
		}
		if len(l.Addresses) > 0 {
			id.Links[i].Addresses = l.Addresses
		}
		if len(l.Gateways) > 0 {
			id.Links[i].Gateways = l.Gateways
		}
	}
	if err := id.Check(); err != nil {
		return err
	}
	return makeDNSKey(id, p, time.Now()) // which is for these addresses
}

// MakeUpAddresses gives an identity what a profile leaves to each guest, for trying the profile: an IPv4 subnet for
// each link out of those between carriers and their customers (RFC 6598), which nobody's own network uses.
func MakeUpAddresses(id *identity.Identity, p *profiles.Profile) error {
	var addresses, gateways []string
	next := netip.MustParseAddr("100.64.0.0").As4()
	for _, l := range p.Links {
		if !l.Instance && !l.InstanceGateway {
			continue
		}
		next[3] = 1
		gateway := netip.AddrFrom4(next)
		next[3] = 2
		if l.Instance {
			addresses = append(addresses, fmt.Sprintf("%s=%v/24", l.Name, netip.AddrFrom4(next)))
		} else if len(l.Addresses) > 0 {
			gateway = l.Addresses[0].Masked().Addr().Next()
			if gateway == l.Addresses[0].Addr() {
				gateway = gateway.Next()
			}
		}
		if l.InstanceGateway {
			gateways = append(gateways, fmt.Sprintf("%s=%v", l.Name, gateway))
		}
		next[2]++
	}
	return SetAddresses(id, p, addresses, gateways)
}

// Applied is a profile as that of the guest with an identity, checked as if it had been written like that.
func Applied(id *identity.Identity, p *profiles.Profile) (*profiles.Profile, error) {
	own := *p
	own.Links = slices.Clone(p.Links)
	id.Facts().ApplyAddresses(&own)
	b, err := json.Marshal(&own)
	if err != nil {
		return nil, err
	}
	checked, err := profiles.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("the addresses of this guest do not fit its profile: %w", err)
	}
	checked.TakeStored(p)
	return checked, nil
}
