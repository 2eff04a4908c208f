package lists

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/firstboot/lists/handover"
	"rempart/profiles"
)

// namesProfile has blocked names that are taken from the server.
func (g *guest) namesProfile() *profiles.Profile {
	return &profiles.Profile{Name: "gw", NTP: &profiles.NTP{Servers: []string{"pool.time.example", "192.0.2.1"}},
		DNS: &profiles.DNS{Block: &profiles.Block{Lists: []profiles.BlockList{{Name: "ads",
			Source: profiles.ListSource{URL: g.server.URL + "/l", Every: 3600, Least: 50, Pin: g.pin()}}}}}}
}

// blocked tells which of some names a list that was handed over blocks.
func (g *guest) blocked(t *testing.T, list string, names ...string) string {
	t.Helper()
	table, err := handover.ReadNames(g.root, list, handover.MostNames())
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, name := range names {
		if table.BlocksName(name) {
			all = append(all, name)
		}
	}
	return fmt.Sprint(table.Len(), all)
}

// TestNames: names to be blocked are taken, what cannot be meant is refused, and the last good list stays and is there
// after a start before anything is fetched.
func TestNames(t *testing.T) {
	g := newGuest(t)
	p := g.namesProfile()
	g.say("0.0.0.0 ads.example\n||tracker.example^\nb.example\nc.example\n! comment\nnot a name line\n")
	g.work(t, p, 1)
	const good = "4 [ads.example x.tracker.example]"
	look := func() string { return g.blocked(t, "ads", "ads.example", "x.tracker.example", "www.example") }
	if got, s := look(), g.status(t); got != good || s.Name != handover.NamesList("ads") || s.Entries != 4 ||
		s.Strange != 1 || s.Error != "" || g.said != "" {
		t.Errorf("%s, status %+v, warning %q; want %s and no error", got, s, g.said, good)
	}
	for text, why := range map[string]string{
		"":                                       "not a list",
		"# nothing but a comment\n":              "not a list",
		"<html>\n<body>\n<p>Gone.\n":             "not a list",
		"127.0.0.1 localhost\n":                  "not a list",
		"com\nnet\nads.example\n":                "all of the domain com",
		"*.com\nads.example\n":                   "all of the domain com",
		"time.example\nads.example\nb.example\n": "pool.time.example, which the guest itself asks for",
		"ads.example\n":                          "less than 50%",
	} {
		g.say(text)
		g.work(t, p, 1)
		if got, s := look(), g.status(t); got != good || !strings.Contains(s.Error, why) {
			t.Errorf("after %.40q: %s, status %+v; want %s, and %q", text, got, s, good, why)
		}
	}
	if err := os.RemoveAll(filepath.Join(g.root, contract.ListsDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(g.root, contract.ListsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	g.server.Close()
	if g.work(t, p, 0); look() != good || !handover.Laid(g.root) {
		t.Errorf("after a start with the server away: %s; want %s", look(), good)
	}
	p.DNS.Block.Lists[0].Name = "other"
	if g.work(t, p, 0); !strings.Contains(look(), "no such file") {
		t.Errorf("a list that is no more: %s; want it taken back", look())
	}
}

// TestNamesOfFile: a list that is a file of the guest, beside a set; and a bound for all lists of names together.
func TestNamesOfFile(t *testing.T) {
	g := newGuest(t)
	p := g.namesProfile()
	p.DNS.Block.Lists = []profiles.BlockList{{Name: "own", Source: profiles.ListSource{File: "here", Every: 60}}}
	sets := []profiles.Set{{Name: "own", Source: &profiles.ListSource{File: "there", Every: 60}}}
	for file, text := range map[string]string{"here": "ads.example\n", "there": "198.51.100.0/24\n"} {
		if err := os.WriteFile(filepath.Join(g.root, profiles.ListsDir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g.work(t, p, 1)
	names := p.DNS
	p.DNS, p.Sets = nil, sets
	g.work(t, p, 1)
	p.DNS = names
	g.work(t, p, 0) // both are kept by now
	if got := g.blocked(t, "own", "ads.example"); got != "1 [ads.example]" {
		t.Errorf("a file of names: %s", got)
	}
	if list, err := handover.Read(g.root, p, "own"); err != nil || len(list) != 1 {
		t.Errorf("a set of the same name: %v, %v; want its own list", list, err)
	}
	k := &keeper{env: nil, entries: map[string]int{handover.NamesList("other"): handover.MostNames()}}
	k.env = g.env(p)
	p.DNS.Block.Lists = append(p.DNS.Block.Lists, profiles.BlockList{Name: "other"})
	if err := k.roomForNames(&p.DNS.Block.Lists[0], 1); !errors.Is(err, handover.ErrAbsurd) {
		t.Errorf("one name more than fits = %v; want it refused", err)
	}
	if err := k.roomForNames(&p.DNS.Block.Lists[1], handover.MostNames()); err != nil {
		t.Errorf("a list in place of itself = %v; want room", err)
	}
	if _, err := handover.ReadNames(g.root, "none", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a list nobody handed over = %v; want ErrNotExist", err)
	}
}
