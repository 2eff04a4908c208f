package handover

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/profiles"
	"rempart/profiles/blocklist"
)

// NamesList is under which name a list of blocked names of the profile is handed over. No set has a dot in its name.
func NamesList(list string) string { return "dns." + list }

// bytesPerName is how much memory a machine must have for each name of all its lists: a name is eight bytes in the file
// that is handed over, eight in the memory of who uses it and as many again of the one it replaces, and as the lists
// child makes a table, it has what append leaves behind. A guest of 128 MiB has room for a million names.
const bytesPerName = 128

// MostNames is how many names all lists of this machine may have together.
func MostNames() int { return int(min(blocklist.MaxNames, total()/bytesPerName)) }

// ReadNames reads a list of names, most of them at most. What is returned lies in memory of its own: the file is
// another child's, who may shorten it at any time. The error wraps fs.ErrNotExist when none was handed over yet.
func ReadNames(root, list string, most int) (blocklist.Table, error) {
	b, err := child.ReadUntrusted(filepath.Join(root, contract.ListsDir, NamesList(list)), blocklist.Size(most))
	if err != nil {
		return blocklist.Table{}, fmt.Errorf("list of names %s: %w", list, err)
	}
	t, err := blocklist.Open(b)
	if err != nil {
		return blocklist.Table{}, fmt.Errorf("list of names %s: %w", list, err)
	}
	return t, nil
}

// CountNames reads how many names a table has, and nothing more of it.
func CountNames(r io.Reader) (int, error) {
	b := make([]byte, blocklist.Size(0))
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, errNoNames
	}
	n, err := blocklist.Count(b)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNoNames, err)
	}
	return n, nil
}

var errNoNames = errors.New("it is no list of names that was handed over")

// common are domains under which too much lies for anybody to mean all of it.
var common = []string{"com", "net", "org", "arpa"}

// SaneNames tells why a list of names cannot be what anybody means; nil: it may be. It is refused when it is empty, has
// all of a large top-level domain, or names a host that the guest itself needs, for the time or the next list, and that
// the profile does not allow whatever lists say.
func SaneNames(p *profiles.Profile, t blocklist.Table) error {
	if t.Len() == 0 {
		return fmt.Errorf("%w: it has no name", ErrAbsurd)
	}
	for _, domain := range common {
		if t.BlocksName("any." + domain) {
			return fmt.Errorf("%w: it has all of the domain %s", ErrAbsurd, domain)
		}
	}
	var needed []string
	if p.NTP != nil {
		needed = append(needed, p.NTP.Servers...)
	}
	for _, s := range p.Sourced() {
		host, _ := s.Source.Host()
		needed = append(needed, host)
	}
	for _, l := range p.BlockLists() {
		host, _ := l.Source.Host()
		needed = append(needed, host)
	}
	for _, name := range needed {
		if name != "" && t.BlocksName(name) && !allowed(p, name) {
			return fmt.Errorf("%w: it has %s, which the guest itself asks for; if it is right, write it under allow", ErrAbsurd,
				name)
		}
	}
	return nil
}

// allowed tells whether no list keeps a name from anybody: it is one of dns.block.allow, or below one.
func allowed(p *profiles.Profile, name string) bool {
	return p.DNS != nil && p.DNS.Block != nil && slices.ContainsFunc(p.DNS.Block.Allow, func(domain string) bool {
		return name == domain || strings.HasSuffix(name, "."+domain)
	})
}
