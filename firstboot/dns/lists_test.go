package dns

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/dns/answer"
	"rempart/firstboot/dns/override"
	"rempart/firstboot/lists/handover"
	"rempart/profiles"
	"rempart/profiles/blocklist"
)

// handOver lays a list of names down as the lists child does.
func handOver(t *testing.T, root, list string, names ...string) {
	t.Helper()
	var b blocklist.Builder
	for _, name := range names {
		b.Add(name, true)
	}
	raw, _, err := b.Table()
	if err != nil {
		t.Fatal(err)
	}
	if err := handover.Write(root, handover.NamesList(list), bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
}

// TestNameLists: lists are in force from the first query on, a changed one at once, one that cannot be used leaves the
// one before, and no list keeps from clients what is in a domain of the guest's own.
func TestNameLists(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, contract.ListsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	p := &profiles.Profile{Name: "gw", DNS: &profiles.DNS{Cache: 1 << 20,
		Links: []profiles.DNSLink{{Link: "lan", Domain: "home.example", NoRecursion: true}},
		Zones: []profiles.DNSZone{{Name: "zone.example", Records: "@ SOA ns host 1 2 3 4 5\n@ NS ns\nns A 10.0.0.1\n"}},
		Block: &profiles.Block{Allow: []string{"good.example"}, Lists: []profiles.BlockList{{Name: "a"}, {Name: "b"}}}}}
	handOver(t, root, "a", "ads.example", "home.example", "zone.example", "good.example")
	h, err := newHouse(&child.Env{Profile: p, Root: root, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	blocks := func(name string) bool {
		m := new(dns.Msg)
		m.SetQuestion(name+".", dns.TypeA)
		_, mine := h.blocked.Answer(t.Context(), &answer.Query{Msg: m})
		return mine
	}
	for name, want := range map[string]bool{"ads.example": true, "x.ads.example": true, "www.example": false,
		"pc.home.example": false, "ns.zone.example": false, "good.example": false} {
		if got := blocks(name); got != want {
			t.Errorf("at the start %s is blocked: %v; want %v", name, got, want)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	followed := make(chan struct{})
	go func() { h.lists.follow(ctx); close(followed) }()
	await := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	before := h.blocked.Generation()
	handOver(t, root, "b", "late.example")
	await("a list that comes later is not in force", func() bool { return blocks("late.example") })
	if !blocks("ads.example") || h.blocked.Generation() == before {
		t.Error("the other list is not in force any more, or answers of the cache still hold")
	}
	// A list that is none, and then one that is.
	if err := handover.Write(root, handover.NamesList("a"), bytes.NewReader([]byte("RMPBLK1\nrubbish"))); err != nil {
		t.Fatal(err)
	}
	handOver(t, root, "b", "last.example")
	await("a list after a broken one is not in force", func() bool { return blocks("last.example") })
	if !blocks("ads.example") || blocks("late.example") || h.blocked.Len() != 5 {
		t.Errorf("after a broken list: %d names, ads %v, late %v; want the last good one of each", h.blocked.Len(),
			blocks("ads.example"), blocks("late.example"))
	}
	stop()
	<-followed
}

// TestNameListsShareRoom: of two lists that are renewed at a time, one that grows into what the other gives back is
// in force too, whichever comes first in the profile.
func TestNameListsShareRoom(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, contract.ListsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	p := &profiles.Profile{Name: "gw", DNS: &profiles.DNS{Block: &profiles.Block{
		Lists: []profiles.BlockList{{Name: "a"}, {Name: "b"}}}}}
	own := func(string) bool { return false }
	l := &nameLists{root: root, profile: p, log: slog.New(slog.DiscardHandler), most: 4,
		blocked: override.NewBlocked(p.DNS.Block, blocklist.Table{}, own), seen: map[string]fs.FileInfo{},
		tables: map[string]blocklist.Table{}}
	small, large := []string{"w.example"}, []string{"x.example", "y.example", "z.example"}
	for turn, lists := range [][2][]string{{small, large}, {large, small}, {small, large}} {
		handOver(t, root, "a", lists[0]...)
		handOver(t, root, "b", lists[1]...)
		if l.renew(); l.tables["a"].Len() != len(lists[0]) || l.tables["b"].Len() != len(lists[1]) {
			t.Errorf("turn %d: %d and %d names are in force; want %d and %d", turn, l.tables["a"].Len(),
				l.tables["b"].Len(), len(lists[0]), len(lists[1]))
		}
	}
	handOver(t, root, "a", append(small, large...)...)
	if l.renew(); l.tables["a"].Len() != len(small) {
		t.Errorf("%d names are in force of a list there is no room for; want the %d before", l.tables["a"].Len(), len(small))
	}
}
