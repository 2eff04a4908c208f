// Package names answers "who has which name and address?" between the children of a guest: the DHCP servers feed what
// they lease over a unix socket, the name server follows it. Each follower gets the whole state first and then every
// change; a follower that comes back gets the whole state again, which replaces what it had.
//
// What it deliberately does not do: judge names. They are handed on as the client said them; whoever makes records of
// them (package dns/local) sanitises, confines and tells clients of one name apart. It keeps nothing over a restart
// either: the leases on disk do, and who feeds puts them anew.
package names

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Bounds of what is fed. Whoever feeds parses what strangers send: a follower holds it to them again.
const (
	// MaxBindings is how many bindings a feed holds and a follower takes: twice the 50,000 leases that are measured.
	MaxBindings = 100_000
	MaxName     = 255 // bytes; RFC 1035 section 2.3.4, and the longest DHCPv4 option (RFC 2132 section 2)
	MaxLink     = 15  // bytes; IFNAMSIZ of <linux/if.h> without the NUL
	// MaxClient is in hex digits: the longest DHCPv4 client identifier has 255 bytes (RFC 2132 section 9.14), a DUID
	// 130 (RFC 8415 section 11.1).
	MaxClient = 2 * 255
)

// Origins of bindings.
const (
	DHCP4 = "dhcp4"
	DHCP6 = "dhcp6"
)

// Binding is an address that a client holds, and the name it goes by.
type Binding struct {
	Name string     `json:"name,omitempty"` // as the client said it, unsanitised; empty: it said none
	Addr netip.Addr `json:"addr"`           // no zone, no IPv4 inside IPv6; one binding an address
	Link string     `json:"link"`           // of the profile
	// Client tells clients apart for good: the hex of a MAC, client identifier or DUID. A client with an address of
	// each family under different identities counts as two, unless their names differ anyway.
	Client string `json:"client"`
	// Since is when this client was first given the address, in Unix seconds, and Until when the lease ends. Since 0:
	// not known; Until 0: for ever. Of two clients of one name the one that has its address longer keeps it.
	Since  int64  `json:"since,omitempty"`
	Until  int64  `json:"until,omitempty"`
	Origin string `json:"origin"` // DHCP4 or DHCP6
}

// ErrBinding is the error of a binding beyond the bounds.
var ErrBinding = errors.New("no binding of a name")

// Check tells what is wrong with a binding.
func (b Binding) Check() error {
	_, notHex := hex.DecodeString(b.Client)
	switch {
	case !b.Addr.IsValid() || b.Addr.Is4In6() || b.Addr.Zone() != "":
		return fmt.Errorf("%w: address %q: want one without a zone, and IPv4 as such", ErrBinding, b.Addr)
	case len(b.Name) > MaxName:
		return fmt.Errorf("%w: %s has a name of %d bytes; want %d at most", ErrBinding, b.Addr, len(b.Name), MaxName)
	case b.Link == "" || len(b.Link) > MaxLink:
		return fmt.Errorf("%w: %s is on link %.20q; want a name of 1 to %d bytes", ErrBinding, b.Addr, b.Link, MaxLink)
	case b.Client == "" || len(b.Client) > MaxClient || notHex != nil:
		return fmt.Errorf("%w: %s is of client %.20q; want 2 to %d hex digits", ErrBinding, b.Addr, b.Client, MaxClient)
	case b.Origin != DHCP4 && b.Origin != DHCP6:
		return fmt.Errorf("%w: %s comes from %.20q; want %s or %s", ErrBinding, b.Addr, b.Origin, DHCP4, DHCP6)
	case b.Since < 0 || b.Until < 0:
		return fmt.Errorf("%w: %s holds from %d until %d; want no time before 1970", ErrBinding, b.Addr, b.Since, b.Until)
	}
	return nil
}

// Change is what became of the bindings.
type Change struct {
	// Whole says that Put are all bindings there are, whatever was there before.
	Whole bool
	Put   []Binding    // new, or in place of what the address had; in the order they were first put
	Gone  []netip.Addr // bound no more
}

// line is one line of JSON on the socket: one of its fields. A follower first gets every binding, then Whole, then
// what changes.
type line struct {
	Put   *Binding    `json:"put,omitempty"`
	Gone  *netip.Addr `json:"gone,omitempty"`
	Whole bool        `json:"whole,omitempty"`
}

// maxLine bounds a line in bytes. JSON writes a byte of a name as six at most (\u0000).
const maxLine = 6*MaxName + MaxClient + 512

// clean returns the name as text that JSON carries unchanged: what is no UTF-8 would be, as U+FFFD, three bytes long
// and could outgrow the bound.
func clean(name string) string {
	name = strings.ToValidUTF8(name, "?")
	if len(name) > MaxName {
		name = strings.ToValidUTF8(name[:MaxName], "")
	}
	return name
}
