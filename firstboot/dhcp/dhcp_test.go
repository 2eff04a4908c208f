package dhcp

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/firstboot/dhcp/lease"
	"rempart/firstboot/dhcp/v4"
	v6 "rempart/firstboot/dhcp/v6"
	"rempart/firstboot/names"
	"rempart/profiles"
)

// TestBounds: what a profile may ask for is what is kept.
func TestBounds(t *testing.T) {
	if profiles.MaxLeases != lease.DefaultMost {
		t.Errorf("profiles allow %d leases, %d are kept", profiles.MaxLeases, lease.DefaultMost)
	}
}

// TestIdentity: names know a client by what package dns/local reads hardware addresses and DUIDs in.
func TestIdentity(t *testing.T) {
	const mac = "\x02\x00\x00\x00\x00\x01"
	const duid = "\x00\x03\x00\x01" + mac
	for _, c := range []struct{ origin, client, want string }{
		{names.DHCP4, "h\x01" + mac, "020000000001"},
		{names.DHCP4, "nlaptop", "020000000001"},
		{names.DHCP4, "i\x01" + mac, "01020000000001"},
		{names.DHCP4, "i\xff\x00\x00\x00\x01" + duid, "ff0000000100030001020000000001"},
		{names.DHCP6, duid + "\x00\x00\x00\x01", "00030001020000000001"},
	} {
		f := feed{origin: c.origin}
		if got := f.identity(lease.Lease{Client: c.client, Hardware: mac}); got != c.want {
			t.Errorf("%s %q: %s; want %s", c.origin, c.client, got, c.want)
		}
	}
}

// ask sends a line to the desk and returns the lines of the answer.
func ask(t *testing.T, path, question string) []string {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, question); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for in := bufio.NewScanner(conn); in.Scan(); {
		lines = append(lines, in.Text())
	}
	return lines
}

// store6 are leases of DHCPv6, of which there are none.
func store6(t *testing.T) *lease.Store {
	t.Helper()
	store, err := lease.Open(lease.Options{Clock: lease.SystemClock(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// TestDesk: administrators see the leases and end them; the names follow.
func TestDesk(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	store, err := lease.Open(lease.Options{Path: filepath.Join(dir, "leases"), Clock: lease.SystemClock(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	a := netip.MustParseAddr("10.0.0.100")
	done := make(chan error, 1)
	if err := store.Put(lease.Lease{Addr: a, Client: "h\x01abcdef", Hardware: "abcdef", Name: "lap\ntop",
		Expires: store.Now() + 100, State: lease.Bound}, func(err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	names := feed{names.NewFeed(), names.DHCP4, log}
	server := v4.New(v4.Config{Store: store, Names: names, Log: log, DHCP: []profiles.DHCP{{Link: "lan",
		Subnets: []profiles.DHCPSubnet{{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Server: netip.MustParseAddr("10.0.0.1"),
			Pools: profiles.Ranges{{First: a, Last: a}}, Lease: 100}}}}})
	path := filepath.Join(dir, "socket")
	d := &desk{store: store, server: server, log: log,
		server6: v6.New(v6.Config{Store: store6(t), Names: names, Log: log})}
	ended := make(chan error, 1)
	go func() { ended <- d.serve(t.Context(), path) }()
	for {
		if _, err := os.Stat(path); err == nil {
			break
		}
	}
	var l contract.ServedLease
	lines := ask(t, path, "{}")
	if len(lines) != 1 || json.Unmarshal([]byte(lines[0]), &l) != nil || l.State != "leased" ||
		l.Address != "10.0.0.100" ||
		l.Hardware != "61:62:63:64:65:66" || l.Name != "lap\ntop" {
		t.Errorf("the leases are %q; want the one there is", lines)
	}
	for question, want := range map[string]string{
		`{"release":"x"}`:        "is no address",
		`{"release":"10.0.0.9"}`: "nobody has a lease",
		`{"release":"fd00::9"}`:  "nobody has a lease",
	} {
		if got := strings.Join(ask(t, path, question), ""); !strings.Contains(got, want) {
			t.Errorf("%s is answered %q; want %q", question, got, want)
		}
	}
	if got := strings.Join(ask(t, path, `{"release":"10.0.0.100"}`), ""); got != "{}" {
		t.Errorf("ending the lease is answered %q; want no error", got)
	}
	if l, _ := store.Get(a); l.State != lease.Freed {
		t.Errorf("the lease is %+v; want it free", l)
	}
	for _, bad := range []string{"", "[]", strings.Repeat("x", 2*maxQuestion)} {
		if got := ask(t, path, bad); len(got) != 0 {
			t.Errorf("%.20q is answered %q; want nothing", bad, got)
		}
	}
}

// TestMemory: with every lease that is kept, each of a client with a name, what lives on the heap leaves a third of
// the child's bound to garbage.
func TestMemory(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	store, err := lease.Open(lease.Options{Clock: lease.SystemClock(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	names := feed{names.NewFeed(), names.DHCP4, log}
	server := v4.New(v4.Config{Store: store, Names: names, Log: log, DHCP: []profiles.DHCP{{Link: "lan"}}})
	for i := range lease.DefaultMost {
		l := lease.Lease{Addr: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}),
			Client: fmt.Sprintf("i\x01client%08d", i), Hardware: fmt.Sprintf("%06x", i&0xffffff),
			Name: fmt.Sprintf("DESKTOP-%08d", i), Expires: store.Now() + 3600, State: lease.Bound}
		if err := store.Put(l, nil); err != nil {
			t.Fatal(err)
		}
		names.Bound(l, "lan")
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	heap := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d leases: %d bytes each, %d MiB", store.Len(), heap/int64(store.Len()), heap>>20)
	if most := Spec().MemoryLimit * 2 / 3; heap > most {
		t.Errorf("%d leases take %d bytes; want at most %d", store.Len(), heap, most)
	}
	runtime.KeepAlive(server)
	runtime.KeepAlive(names)
}
