package boot

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rempart/builder/virtualnet"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
	"rempart/profiles"
	"rempart/test/rig"
)

const listProfile = `rempart: 1
name: listed
memory: 128M
state: 64M
admin: none
links:
  out: {address: 203.0.113.2/24, gateway: 203.0.113.1}
zones: {internet: out}
sets:
  drop: {url: "https://203.0.113.9/drop.txt", every: 5m, pin: %q}
  many: {file: many.txt}
policy:
  - internet -> self: {any: {from: [drop, many], action: drop}}
  - internet -> self: ping
`

// Ranges of the set of the profile, of both families, and of each list that is fetched.
const (
	many4, many6 = 10_000, 90_000
	manyRanges   = many4 + many6
	listedRanges = 12_000
)

// manyText are the members of the set of the profile, as a file.
func manyText() string {
	var b strings.Builder
	for i := range many4 {
		fmt.Fprintf(&b, "10.%d.%d.%d\n", i>>14, i>>6&0xff, i<<2&0xff)
	}
	for i := range many6 {
		fmt.Fprintf(&b, "2001:db8:%x:%x::/64\n", i>>12, i<<2&0xffff)
	}
	return b.String()
}

// listText is a list, each time another; all have one range in common.
func listText(n int) string {
	var b strings.Builder
	b.WriteString("203.0.113.50\n")
	for i := 1; i < listedRanges; i++ {
		fmt.Fprintf(&b, "%d.%d.%d.%d/31 ; SBL%d\n", 100+n, i>>14, i>>6&0xff, i<<2&0xff, i)
	}
	return b.String()
}

// listServer gives out a list by https, to the guest alone.
type listServer struct {
	mu   sync.Mutex
	text string // empty: it has nothing to give
}

func (s *listServer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.text == "" {
		http.Error(w, "nothing today", http.StatusBadGateway)
		return
	}
	_, _ = io.WriteString(w, s.text)
}

func (s *listServer) say(text string) { s.mu.Lock(); s.text = text; s.mu.Unlock() }

// selfSigned is a certificate that nobody vouches for, and the pin of its key.
func selfSigned(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(parsed.RawSubjectPublicKeyInfo)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		"sha256//" + base64.StdEncoding.EncodeToString(sum[:])
}

// listed is a guest with sets, and hosts outside: one that serves the list and one that is tried to be shut out.
type listed struct {
	*rig.Guest
	host *virtualnet.Host
}

var (
	listedSelf  = netip.MustParseAddr("203.0.113.2")
	listedTried = netip.MustParseAddr("203.0.113.50")
	listedOther = netip.MustParseAddr("203.0.113.51")
)

// TestLists boots a guest of 128 MiB with 100,000 ranges in its profile that fetches a list of 12,000 more. What they
// name is shut out, without the policy being loaded again for the list. A change of the profile brings other ranges
// while the guest runs. After a start the list that was kept is in force from the first moment on, although the server
// has nothing to give, and another one of its size takes its place when it has. Memory is enough at every moment.
func TestLists(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certificate, pin := selfSigned(t)
	text := fmt.Sprintf(listProfile, pin)
	for name, content := range map[string]string{"listed.yaml": text, "many.txt": manyText(),
		"next.yaml": strings.Replace(text, "many.txt", "more.txt", 1), "more.txt": manyText() + "203.0.113.51\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next, err := profiles.Load(filepath.Join(dir, "next.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	m := rig.Build(t, filepath.Join(dir, "listed.yaml"))
	disk := filepath.Join(dir, "state.raw")
	if err := rig.Blank(disk, m.Profile.State.Size); err != nil {
		t.Fatal(err)
	}
	segment := virtualnet.NewSegment("outside", slog.New(slog.NewTextHandler(t.Output(),
		&slog.HandlerOptions{Level: slog.LevelWarn})))
	t.Cleanup(segment.Close)
	host, err := segment.NewHost("server", net.HardwareAddr{2, 0, 0x5e, 0, 0x66, 1}, []netip.Prefix{
		netip.MustParsePrefix("203.0.113.9/24"), netip.PrefixFrom(listedTried, 24), netip.PrefixFrom(listedOther, 24)})
	if err != nil {
		t.Fatal(err)
	}
	lists := &listServer{}
	lists.say(listText(0))
	lists.serve(t, host, certificate)

	g := listed{m.Boot(t, rig.Options{Backends: wires(1), State: disk}), host}
	segment.PlugGuest(g.Guest.Guest.Wires[0])
	g.AwaitReady()
	g.AwaitConsole("list in force")
	g.expect(t, "with the list fetched", manyRanges, listedOther, listedTried)
	if n := strings.Count(g.ConsoleText(), "policy loaded"); n != 1 {
		t.Errorf("the policy was loaded %d times; want once, lists change by themselves", n)
	}
	status, out, errs := g.Ctl(nil, "profile")
	if p, err := profiles.Decode([]byte(strings.TrimSpace(out))); status != ctl.Done || err != nil || len(out) > 4096 ||
		p.Set("many").Len() != manyRanges {
		t.Errorf("profile = %d, %d bytes, %q, %v; want the set with its ranges elsewhere", status, len(out), errs, err)
	}
	if status, out, errs := g.Ctl(bytes.NewReader(change(t, m.Profile, next)), "apply"); status != ctl.Done {
		t.Errorf("apply = %d, %q, %q", status, out, errs)
	}
	g.expect(t, "with the changed profile", manyRanges+1, netip.Addr{}, listedTried, listedOther)
	if status, _, errs := g.Ctl(nil, "undo"); status != ctl.Done {
		t.Errorf("undo = %d, %q", status, errs)
	}
	g.expect(t, "with the change undone", manyRanges, listedOther, listedTried)
	g.inMemory(t)
	g.PowerOff()

	lists.say("")
	// An hour later, so that it is time to ask again.
	later := "-rtc base=" + time.Now().UTC().Add(time.Hour).Format("2006-01-02T15:04:05")
	g = listed{m.Boot(t, rig.Options{Backends: wires(1), State: disk, More: later}), host}
	segment.PlugGuest(g.Guest.Guest.Wires[0])
	g.Await("the policy", func(r contract.Report) bool { return r.Policy == "loaded" })
	g.AwaitReady()
	g.expect(t, "after a start", manyRanges, listedOther, listedTried)
	if text := g.ConsoleText(); strings.Contains(text, "list in force") || strings.Contains(text, "not there yet") {
		t.Error("after a start the list came later than the policy")
	}
	lists.say(listText(1))
	g.AwaitConsole("list in force")
	g.expect(t, "with another list", manyRanges, listedOther, listedTried)
	g.inMemory(t)
}

// serve serves the list at a host's first address until the test ends.
func (s *listServer) serve(t *testing.T, host *virtualnet.Host, certificate tls.Certificate) {
	t.Helper()
	listener, err := host.ListenTCP(netip.MustParseAddrPort("203.0.113.9:443"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s, ErrorLog: stdlog.New(io.Discard, "", 0)}
	t.Cleanup(func() { server.Close() })
	go func() {
		_ = server.Serve(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}}))
	}()
}

// expect checks how many ranges there are, who gets an answer, if anybody is named, and who does not.
func (g listed) expect(t *testing.T, when string, many int, answered netip.Addr, shut ...netip.Addr) {
	t.Helper()
	type row struct {
		Set    string
		Ranges int
		Taken  int64
	}
	wrong := func() (what []string) {
		for _, r := range answer[[]row](t, g.Guest, "sets") {
			if want := map[string]int{"many": many, "drop": listedRanges}[r.Set]; r.Ranges != want ||
				(r.Taken != 0) != (r.Set == "drop") {
				what = append(what, fmt.Sprintf("%s has %d ranges, taken at %d; want %d", r.Set, r.Ranges, r.Taken, want))
			}
		}
		return what
	}
	// How lists stand is told by their child, which begins anew with a changed profile; what they shut out, below, is
	// shut out all the while.
	what := wrong()
	for end := time.Now().Add(rig.Patience); len(what) > 0 && time.Now().Before(end); what = wrong() {
	}
	for _, w := range what {
		t.Errorf("%s: set %s", when, w)
	}
	if answered.IsValid() {
		ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
		defer cancel()
		if err := g.host.Ping(ctx, answered, listedSelf, []byte("lists"), time.Second); err != nil {
			t.Errorf("%s: %v, which is in no set, gets no answer: %v", when, answered, err)
		}
	}
	for _, from := range shut {
		if g.leaks(t, from) {
			t.Errorf("%s: %v, which is in a set, gets an answer", when, from)
		}
	}
}

// inMemory checks that nothing ran out of memory, and says what there is.
func (g listed) inMemory(t *testing.T) {
	t.Helper()
	type child struct {
		Name                 string
		Restarts             int
		Charged, Peak, Limit int64
	}
	look := answer[struct {
		Memory   contract.Memory
		Children []child
	}](t, g.Guest, "top")
	t.Logf("%d ranges of %d MiB of memory: %d KiB free", manyRanges+listedRanges, look.Memory.Total>>20,
		look.Memory.Available>>10)
	for _, c := range look.Children {
		if c.Restarts > 0 {
			t.Errorf("child %s was started again %d times", c.Name, c.Restarts)
		}
		if c.Charged > 0 {
			t.Logf("%-10s %6d KiB, %6d at most, may have %6d", c.Name, c.Charged>>10, c.Peak>>10, c.Limit>>10)
		}
	}
}

// leaks tells whether a host gets an answer: to the requests that the guest has dropped, or to one that it has not.
func (g listed) leaks(t *testing.T, from netip.Addr) bool {
	t.Helper()
	type counter struct {
		Counter string
		Packets uint64
	}
	dropped := func() uint64 {
		for { // many calls one after the other: one whose end the guest missed is made once more
			status, out, _, err := g.TryCtl(nil, "counters", "--json")
			var all []counter
			if err != nil || status != ctl.Done || json.Unmarshal([]byte(out), &all) != nil {
				if t.Context().Err() != nil {
					t.Fatal(err)
				}
				continue
			}
			i := slices.IndexFunc(all, func(c counter) bool { return c.Counter == "in/internet" })
			if i < 0 {
				t.Fatal("there is no counter in/internet")
			}
			return all[i].Packets
		}
	}
	before := dropped()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answered := make(chan error, 1)
	go func() { answered <- g.host.Ping(ctx, from, listedSelf, []byte("listed"), 100*time.Millisecond) }()
	for dropped() < before+3 {
		select {
		case err := <-answered:
			return err == nil
		default:
		}
	}
	cancel()
	return <-answered == nil
}
