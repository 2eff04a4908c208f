package identity

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Bounds of an identity; they keep a guest of 96 MB from being filled by its own identity.
const (
	maxLinks     = 64
	maxAddresses = 64 // of one link
	maxSecrets   = 256
	maxSecret    = 64 << 10 // bytes of one value
	minSeed      = 32       // bytes: the kernel's pool is 256 bits
	maxSeed      = 512
)

// Check tells everything that is wrong with an identity, at once. No error shows a value.
func (id *Identity) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("identity: "+format, args...)) }
	if id.Hostname != "" && !IsHostname(id.Hostname) {
		bad("host name %.80q: want an RFC 1123 label in lower case, such as fw-1", id.Hostname)
	}
	if len(id.Links) > maxLinks {
		bad("%d links, at most %d", len(id.Links), maxLinks)
	}
	links, macs := map[string]bool{}, map[string]string{}
	for _, l := range id.Links {
		if !isLink(l.Name) || links[l.Name] {
			bad("link %.32q: no name of a link, or there twice", l.Name)
		}
		links[l.Name] = true
		if l.MAC != "" {
			switch other, taken := macs[l.MAC]; {
			case !isMAC(l.MAC):
				bad("link %.32q: MAC %.32q: want that of one station, such as 00:16:3e:01:02:03", l.Name, l.MAC)
			case taken:
				bad("links %.32q and %.32q have the same MAC %s", other, l.Name, l.MAC)
			}
			macs[l.MAC] = l.Name
		}
		checkAddresses(l, bad)
	}
	checkSecrets(id.Secrets, bad)
	if n := len(id.Seed); n != 0 && (n < minSeed || n > maxSeed) {
		bad("a random seed of %d bytes: want %d to %d", n, minSeed, maxSeed)
	}
	return errors.Join(errs...)
}

func checkAddresses(l Link, bad func(string, ...any)) {
	if len(l.Addresses) > maxAddresses || len(l.Gateways) > maxAddresses {
		bad("link %.32q: %d addresses and %d gateways, at most %d", l.Name, len(l.Addresses), len(l.Gateways), maxAddresses)
	}
	for _, a := range l.Addresses {
		if !a.IsValid() || !isHost(a.Addr()) {
			bad("link %.32q: address %s: want one of a host, such as 192.0.2.1/24", l.Name, a)
		}
	}
	for _, g := range l.Gateways {
		if !isHost(g) {
			bad("link %.32q: gateway %s: want the address of a host", l.Name, g)
		}
	}
}

func isHost(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a.Zone() == "" && !a.Is4In6()
}

func checkSecrets(all []Secret, bad func(string, ...any)) {
	if len(all) > maxSecrets {
		bad("%d secrets, at most %d", len(all), maxSecrets)
	}
	seen := map[[2]string]bool{}
	for _, s := range all {
		switch key := [2]string{s.Consumer, s.Name}; {
		case !isConsumer(s.Consumer):
			bad("secret for %.40q: no name of a consumer", s.Consumer)
		case !isName(s.Name):
			bad("secret %s/%.100q: want one to three words of letters, digits and ._- joined by slashes", s.Consumer, s.Name)
		case seen[key]:
			bad("secret %s/%s is there twice", s.Consumer, s.Name)
		case len(s.Value) == 0 || len(s.Value) > maxSecret:
			bad("secret %s/%s of %d bytes: want 1 to %d", s.Consumer, s.Name, len(s.Value), maxSecret)
		default:
			seen[key] = true
		}
	}
}

// sorted is a copy in the order of the names.
func (id *Identity) sorted() *Identity {
	c := *id
	c.Links = slices.Clone(id.Links)
	slices.SortFunc(c.Links, func(a, b Link) int { return cmp.Compare(a.Name, b.Name) })
	c.Secrets = slices.Clone(id.Secrets)
	slices.SortFunc(c.Secrets, func(a, b Secret) int {
		return cmp.Or(cmp.Compare(a.Consumer, b.Consumer), cmp.Compare(a.Name, b.Name))
	})
	return &c
}
