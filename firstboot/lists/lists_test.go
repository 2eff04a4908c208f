package lists

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/lists/handover"
	"rempart/firstboot/refresh"
	"rempart/profiles"
)

// guest is the directories of a guest, and what its server of lists says.
type guest struct {
	root   string
	server *httptest.Server
	mu     sync.Mutex
	text   string
	said   string // the last warning
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	g := &guest{root: t.TempDir()}
	g.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		_, _ = io.WriteString(w, g.text)
	}))
	g.server.Config.ErrorLog = stdlog.New(io.Discard, "", 0) // of handshakes that are meant to fail
	g.server.StartTLS()
	t.Cleanup(g.server.Close)
	for _, dir := range []string{contract.ListsDir, contract.ListsKept, profiles.ListsDir,
		filepath.Dir(contract.AuthoritiesPath)} {
		if err := os.MkdirAll(filepath.Join(g.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func (g *guest) say(text string) { g.mu.Lock(); g.text = text; g.mu.Unlock() }

// pin is that of the server.
func (g *guest) pin() string {
	sum := sha256.Sum256(g.server.Certificate().RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// profile has a set that is taken from the server.
func (g *guest) profile(pin string) *profiles.Profile {
	return &profiles.Profile{Name: "gw", Links: []profiles.Link{{Name: "wan",
		Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.2/24")},
		Gateways:  []profiles.Gateway{{Addr: netip.MustParseAddr("203.0.113.1")}}}},
		Sets: []profiles.Set{{Name: "drop", Source: &profiles.ListSource{URL: g.server.URL + "/l", Every: 3600, Least: 50,
			Pin: pin}}}}
}

// env is what the child is given.
func (g *guest) env(p *profiles.Profile) *child.Env {
	return &child.Env{Profile: p, Root: g.root, Log: slog.New(slog.DiscardHandler), Ready: func() {},
		Tell: func(key string, value any) {
			if key == child.KeyWarning {
				g.said = fmt.Sprint(value)
			}
		}}
}

// work lets the child look so many times at each list.
func (g *guest) work(t *testing.T, p *profiles.Profile, times int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	now := time.Unix(1_900_000_000, 0)
	waits := 0
	var mu sync.Mutex // several lists have one clock
	clock := refresh.Clock{Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now },
		Random: func() float64 { return 0.5 }, Wait: func(ctx context.Context, d time.Duration) error {
			mu.Lock()
			defer mu.Unlock()
			now = now.Add(max(d, 0))
			if waits++; waits > times {
				cancel()
			}
			return ctx.Err()
		}}
	g.said = ""
	k, err := newKeeper(g.env(p), clock, (&net.Dialer{}).DialContext)
	if err != nil {
		t.Fatal(err)
	}
	defer k.store.Close()
	if err := k.handOver(); err != nil {
		t.Fatal(err)
	}
	if len(k.useless) == 0 {
		k.refresher.Run(ctx, k.sources)
	}
}

func (g *guest) list(t *testing.T, p *profiles.Profile) string {
	t.Helper()
	list, err := handover.Read(g.root, p, "drop")
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(list)
}

func (g *guest) status(t *testing.T) handover.Status {
	t.Helper()
	all, err := handover.ReadStatus(g.root)
	if err != nil || len(all) != 1 {
		t.Fatalf("status %v, %v; want one", all, err)
	}
	return all[0]
}

func TestLists(t *testing.T) {
	g := newGuest(t)
	p := g.profile(g.pin())
	if handover.Laid(g.root) {
		t.Error("all is handed over before the child began")
	}
	const good = "[{198.51.100.0 198.51.100.255} {2001:db8:1:: 2001:db8:1:ffff:ffff:ffff:ffff:ffff}]"
	g.say("198.51.100.0/25 ; x\n198.51.100.128/25\n2001:db8:1::/48\n# end\n")
	g.work(t, p, 1)
	if got := g.list(t, p); got != good || !handover.Laid(g.root) {
		t.Errorf("handed over: %s, laid %v; want %s, true", got, handover.Laid(g.root), good)
	}
	if s := g.status(t); s.Entries != 2 || s.Error != "" || s.Taken == 0 || g.said != "" {
		t.Errorf("status %+v, warning %q; want two ranges and no error", s, g.said)
	}
	// What cannot be meant is refused, and the last good one stays.
	for text, why := range map[string]string{
		"":                                     "no address",
		"<html>\n<body>":                       "not a list",
		"0.0.0.0/0\n":                          "more than half",
		"0.0.0.0/1\n128.0.0.0/1\n":             "203.0.113.2",
		"198.51.100.0/24\n203.0.113.2\n":       "address of the guest",
		"198.51.100.0/24\n203.0.113.0/31\n":    "gateway of the guest",
		"::/0\n":                               "more than half",
		"2000::/4\n3000::/5\n198.51.100.0/24":  "more than half",
		strings.Repeat("198.51.100.0/24\n", 2): "",
	} {
		g.say(text)
		g.work(t, p, 1)
		got, s := g.list(t, p), g.status(t)
		switch {
		case why == "":
			if s.Error != "" || s.Entries != 1 {
				t.Errorf("half of the last list: %+v; want it", s)
			}
		case got != good && !strings.HasPrefix(got, "[{198.51.100.0 198.51.100.255}") || s.Error == "":
			t.Errorf("after %q: %s, status %+v; want the last good list and an error", text, got, s)
		}
	}
	many := &strings.Builder{}
	for i := range 100 {
		fmt.Fprintf(many, "198.51.%d.1\n", i)
	}
	g.say(many.String())
	g.work(t, p, 1)
	g.say("198.51.100.9\n")
	g.work(t, p, 16)
	if s := g.status(t); s.Entries != 100 || !strings.Contains(s.Error, "less than 50%") ||
		!strings.Contains(g.said, "set drop: ") {
		t.Errorf("a list that shrank: %+v, warning %q; want it refused, and said after some tries", s, g.said)
	}
	// After a start it is there before anything is fetched.
	if err := os.RemoveAll(filepath.Join(g.root, contract.ListsDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(g.root, contract.ListsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	g.server.Close()
	g.work(t, p, 0)
	if list, err := handover.Read(g.root, p, "drop"); err != nil || len(list) != 100 {
		t.Errorf("after a start: %d ranges, %v; want 100", len(list), err)
	}
	// A set that is no more is taken back.
	p.Sets[0].Name = "other"
	g.work(t, p, 0)
	if _, err := handover.Read(g.root, p, "drop"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the list of a set that is no more: %v; want ErrNotExist", err)
	}
}

func TestTrust(t *testing.T) {
	g := newGuest(t)
	g.say("198.51.100.0/24\n")
	wrong := base64.StdEncoding.EncodeToString(make([]byte, sha256.Size))
	p := g.profile(wrong)
	g.work(t, p, 1)
	if s := g.status(t); !strings.Contains(s.Error, "not the pinned one: it is sha256//"+g.pin()) {
		t.Errorf("a server with another key: %+v; want it refused, and its pin told", s)
	}
	p = g.profile("")
	g.work(t, p, 1)
	if s := g.status(t); !strings.Contains(s.Error, "no certificate authorities") ||
		!strings.Contains(g.said, "set drop") {
		t.Errorf("without authorities: %+v, %q; want that to be said", s, g.said)
	}
	file := filepath.Join(g.root, contract.AuthoritiesPath)
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if g.work(t, p, 1); !strings.Contains(g.status(t).Error, "has no certificate") {
		t.Errorf("with a useless file of authorities: %+v", g.status(t))
	}
	ours := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.server.Certificate().Raw})
	if err := os.WriteFile(file, ours, 0o600); err != nil {
		t.Fatal(err)
	}
	if g.work(t, p, 1); g.status(t).Entries != 1 {
		t.Errorf("with the authority: %+v; want the list", g.status(t))
	}
	// The certificate is for 127.0.0.1 and example.com, and for no other name.
	p.Sets[0].Source.URL = strings.Replace(g.server.URL, "127.0.0.1", "localhost", 1)
	if g.work(t, p, 1); !strings.Contains(g.status(t).Error, "certificate is") && !strings.Contains(g.status(t).Error,
		"not localhost") {
		t.Errorf("a certificate for another name: %+v; want it refused", g.status(t))
	}
}

// Lists that are files, and a bound for all sets together.
func TestFilesAndRoom(t *testing.T) {
	g := newGuest(t)
	p := g.profile("")
	p.Sets[0].Source = &profiles.ListSource{File: "here", Every: 60}
	file := filepath.Join(g.root, profiles.ListsDir, "here")
	if err := os.WriteFile(file, []byte("add x 198.51.100.0/24\nadd x 198.51.102.0/24\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if g.work(t, p, 1); g.status(t).Entries != 2 {
		t.Errorf("a file: %+v; want two ranges", g.status(t))
	}
	for i := range profiles.MaxListRanges - 1 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 15), byte(i >> 7), byte(i << 1)})
		if i == 0 {
			p.Sets = append(p.Sets, profiles.Set{Name: "large"})
		}
		p.Sets[1].Ranges = append(p.Sets[1].Ranges, profiles.AddrRange{First: a, Last: a})
	}
	if err := os.WriteFile(file, []byte("198.51.100.0/24\n198.51.104.0/24\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if g.work(t, p, 1); !strings.Contains(g.status(t).Error, "all sets would have") {
		t.Errorf("sets that are too large together: %+v; want that refused", g.status(t))
	}
}
