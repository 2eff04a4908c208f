package dns

import (
	"cmp"
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
	most    int // names of all of them
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
	room := l.most
	for _, t := range l.tables {
		room -= t.Len()
	}
	changed := false
	for _, name := range l.handedOver() {
		had := l.tables[name].Len()
		t, err := handover.ReadNames(l.root, name, room+had)
		if err == nil {
			err = handover.SaneNames(l.profile, t)
		}
		if err != nil {
			l.log.Error("list of blocked names not used", "error", err)
			continue
		}
		room += had - t.Len()
		l.tables[name] = t
		changed = true
		l.log.Info("list of blocked names in force", "list", name, "names", t.Len())
	}
	if changed {
		l.blocked.SetLists(slices.Collect(maps.Values(l.tables)))
		debug.FreeOSMemory() // of those before: it may be hours until another look at what is not used
	}
}

// handedOver are the lists that are others than when they were looked at last; those first that give most room to the
// rest.
func (l *nameLists) handedOver() (fresh []string) {
	grows := map[string]int64{}
	for _, list := range l.profile.BlockLists() {
		info, err := os.Lstat(filepath.Join(l.root, contract.ListsDir, handover.NamesList(list.Name)))
		before := l.seen[list.Name]
		if errors.Is(err, fs.ErrNotExist) ||
			err == nil && before != nil && os.SameFile(before, info) && before.ModTime().Equal(info.ModTime()) {
			continue
		}
		if l.seen[list.Name] = info; err == nil {
			grows[list.Name] = info.Size() - blocklist.Size(l.tables[list.Name].Len())
		}
		fresh = append(fresh, list.Name)
	}
	slices.SortStableFunc(fresh, func(a, b string) int { return cmp.Compare(grows[a], grows[b]) })
	return fresh
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
