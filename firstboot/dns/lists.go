package dns

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	"github.com/miekg/dns"

	"rempart/firstboot/contract"
	"rempart/firstboot/dns/override"
	"rempart/firstboot/lists/handover"
	"rempart/profiles"
	"rempart/profiles/blocklist"
)

// nameLists are the lists of blocked names that the lists child takes from elsewhere, as they are in force.
type nameLists struct {
	root    string
	profile *profiles.Profile
	log     *slog.Logger
	blocked *override.Blocked
	seen    map[string]fs.FileInfo
	tables  map[string]blocklist.Table
}

// follow puts lists in force as they are handed over, until ctx is done.
func (l *nameLists) follow(ctx context.Context) {
	changes, err := handover.Watch(ctx, l.root)
	if err != nil {
		l.log.Error("lists of blocked names stay as they are", "error", err)
		return
	}
	for range changes {
		l.renew()
	}
}

// renew puts the lists in force that are others than before. One that cannot be used leaves the one before in force.
func (l *nameLists) renew() {
	room := handover.MostNames()
	for _, t := range l.tables {
		room -= t.Len()
	}
	changed := false
	for _, list := range l.profile.BlockLists() {
		info, err := os.Lstat(filepath.Join(l.root, contract.ListsDir, handover.NamesList(list.Name)))
		before := l.seen[list.Name]
		if errors.Is(err, fs.ErrNotExist) ||
			err == nil && before != nil && os.SameFile(before, info) && before.ModTime().Equal(info.ModTime()) {
			continue
		}
		l.seen[list.Name] = info
		had := l.tables[list.Name].Len()
		t, err := handover.ReadNames(l.root, list.Name, room+had)
		if err == nil {
			err = handover.SaneNames(l.profile, t)
		}
		if err != nil {
			l.log.Error("list of blocked names not used", "error", err)
			continue
		}
		room += had - t.Len()
		l.tables[list.Name] = t
		changed = true
		l.log.Info("list of blocked names in force", "list", list.Name, "names", t.Len())
	}
	if changed {
		l.blocked.SetLists(slices.Collect(maps.Values(l.tables)))
		debug.FreeOSMemory() // of those before: it may be hours until another look at what is not used
	}
}

// listMemory is what lists of blocked names take of the heap, in bytes: the largest there can be, and the one that it
// takes the place of.
func listMemory(p *profiles.Profile) int64 {
	if len(p.BlockLists()) == 0 {
		return 0
	}
	return 2 * blocklist.Size(handover.MostNames())
}

// ownDomain tells of a name whether it is in a domain or zone of the guest's own.
func ownDomain(d *profiles.DNS) func(name string) bool {
	var all []string
	for _, l := range d.Links {
		if l.Domain != "" {
			all = append(all, l.Domain+".")
		}
	}
	for _, z := range d.Zones {
		all = append(all, z.Name+".")
	}
	return func(name string) bool {
		return slices.ContainsFunc(all, func(domain string) bool { return dns.IsSubDomain(domain, name) })
	}
}
