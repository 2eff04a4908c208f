// Package downstream is how the child that delegates prefixes tells the child that routes where each of them leads: a
// file in contract.DownstreamDir, replaced whole. It stays when either of them is started again, so no way is lost
// meanwhile. The child that writes it speaks with strangers, so who reads it takes nothing on trust.
//
// What it deliberately does not do: delegate, or change any route.
package downstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// Way is where a delegated prefix leads.
type Way struct {
	Link  string               `json:"link"`
	Block profiles.PrefixBlock `json:"block"` // in the link's profiles.PrefixPool
	Via   netip.Addr           `json:"via"`   // the router it was delegated to
	Until time.Duration        `json:"until"` // CLOCK_BOOTTIME
}

// Most is how many ways there are at most.
const Most = 1024

// Names in the directory.
const (
	waysName = "ways"
	newName  = ".ways.new"
)

// maxFile bounds the file, in bytes: a way is some 150, of a link with a name of 15 and two addresses of 39 at most.
const maxFile = Most * 256

// Write lays the ways down, in place of those before. There are Most at most.
func Write(root string, ways []Way) error {
	b, err := json.Marshal(ways)
	if err != nil {
		return err
	}
	dir := filepath.Join(root, contract.DownstreamDir)
	next := filepath.Join(dir, newName)
	if err := os.WriteFile(next, b, 0o644); err != nil { // in memory: nothing has to be synced
		return fmt.Errorf("where delegated prefixes lead: %w", err)
	}
	return os.Rename(next, filepath.Join(dir, waysName))
}

// Read reads the ways that can be, as the profile has it, and an error about those that cannot. Nobody wrote any: there
// are none.
func Read(root string, p *profiles.Profile) ([]Way, error) {
	b, err := child.ReadUntrusted(filepath.Join(root, contract.DownstreamDir, waysName), maxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("where delegated prefixes lead: %w", err)
	}
	return read(b, p)
}

func read(b []byte, p *profiles.Profile) (good []Way, err error) {
	var all []Way
	if err := child.Strict(b, &all); err != nil {
		return nil, fmt.Errorf("where delegated prefixes lead: %w", err)
	}
	if len(all) > Most {
		return nil, fmt.Errorf("where delegated prefixes lead: %d of them, more than %d", len(all), Most)
	}
	seen := map[profiles.PrefixBlock]bool{}
	var bad []error
	for _, w := range all {
		switch problem := w.check(p); {
		case problem != nil:
			bad = append(bad, problem)
		case !seen[w.Block]:
			seen[w.Block] = true
			good = append(good, w)
		}
	}
	return good, errors.Join(bad...)
}

// check tells why a way is none.
func (w Way) check(p *profiles.Profile) error {
	d := p.DHCP6Of(w.Link)
	b := w.Block.Prefix
	switch {
	case d == nil || d.Delegate == nil:
		return fmt.Errorf("a way for %.64q: nothing is delegated there", w.Link)
	case !b.IsValid() || b != b.Masked() || b.Bits() > d.Delegate.Longest && !d.Names(w.Block) ||
		!d.Delegate.Contains(w.Block):
		return fmt.Errorf("a way to %s by %s, which delegates %s", w.Block, w.Link, d.Delegate.PrefixBlock)
	case !Router(p.Links, w.Link, w.Via):
		return fmt.Errorf("a way to %s via %s, where no router of link %s can be", w.Block, w.Via, w.Link)
	}
	return nil
}

// Router tells whether an address can be that of a router on a link: link-local, or in a subnet that the profile gives
// the link, and not the guest's own.
func Router(links []profiles.Link, link string, a netip.Addr) bool {
	if !a.Is6() || a.Is4In6() || a.Zone() != "" {
		return false
	}
	on := a.IsLinkLocalUnicast()
	for _, l := range links {
		for _, own := range l.Addresses {
			if own.Addr() == a {
				return false
			}
			on = on || l.Name == link && own.Contains(a)
		}
	}
	return on
}

// Watch tells of new ways, see child.WatchDir.
func Watch(ctx context.Context, root string) (<-chan struct{}, error) {
	return child.WatchDir(ctx, filepath.Join(root, contract.DownstreamDir))
}
