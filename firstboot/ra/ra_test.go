package ra

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/boottime"
	"rempart/firstboot/child"
	"rempart/firstboot/link/packet"
	"rempart/firstboot/link/watch"
	"rempart/profiles"
)

var update = flag.Bool("update", false, "write the golden files anew")

const self = "fe80::1"

func lanLink(addresses ...watch.Address) watch.Link {
	return watch.Link{Index: 3, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0xb}, MTU: 1500, Running: true,
		LinkLocal: netip.MustParseAddr(self), Addresses: addresses}
}

func address(p string, valid, preferred time.Duration) watch.Address {
	return watch.Address{Prefix: netip.MustParsePrefix(p), Valid: valid, Preferred: preferred}
}

func usual() *profiles.Advert {
	return &profiles.Advert{Link: "lan", Lifetime: 1800, Interval: 600, Valid: 5400, Preferred: 2700}
}

func TestCompose(t *testing.T) {
	f := watch.Forever
	for _, c := range []struct {
		name      string
		edit      func(*profiles.Advert)
		addresses []watch.Address
		uplink    bool
		gone      []prefix
		want      string
	}{
		{"no way out", nil, []watch.Address{address("fd00::1/64", f, f)}, false, nil,
			"0s; fd00::/64 1h30m0s 45m0s; []"},
		{"a way out", nil, []watch.Address{address("fd00::1/64", f, f)}, true, nil,
			"30m0s; fd00::/64 1h30m0s 45m0s; []"},
		{"always", func(a *profiles.Advert) { a.Always = true }, nil, false, nil, "30m0s; []"},
		{"never", func(a *profiles.Advert) { a.Lifetime = 0 }, nil, true, nil, "0s; []"},
		{"delegated for less", nil, []watch.Address{address("2001:db8::1/64", time.Hour, 10*time.Minute)}, true, nil,
			"30m0s; 2001:db8::/64 1h0m0s 10m0s; []"},
		{"deprecated", nil, []watch.Address{address("2001:db8::1/64", 2*time.Hour, 0), address("2001:db8:1::1/64", f, f)},
			true, nil, "30m0s; 2001:db8::/64 1h30m0s 0s; 2001:db8:1::/64 1h30m0s 45m0s; []"},
		{"not for hosts", nil, []watch.Address{address("2001:db8::1/127", f, f), address("2001:db8::1/48", f, f)}, true, nil,
			"30m0s; []"},
		{"two in one subnet", nil, []watch.Address{address("fd00::1/64", time.Minute, 0), address("fd00::2/64", f, f)}, true,
			nil, "30m0s; fd00::/64 1h30m0s 45m0s; []"},
		{"gone", nil, []watch.Address{address("fd00::1/64", f, f)}, true,
			[]prefix{{netip.MustParsePrefix("fd01::/64"), time.Hour, 0}, {netip.MustParsePrefix("fd00::/64"), time.Hour, 0}},
			"30m0s; fd00::/64 1h30m0s 45m0s; fd01::/64 1h0m0s 0s; []"},
		{"names by itself", func(a *profiles.Advert) { a.DNSSelf = true }, []watch.Address{
			address("2001:db8::1/64", time.Hour, 0), address("fd00::1/64", f, f)}, true, nil,
			"30m0s; 2001:db8::/64 1h0m0s 0s; fd00::/64 1h30m0s 45m0s; [fd00::1]"},
		{"names without a prefix", func(a *profiles.Advert) {
			a.DNSSelf, a.DNS = true, []netip.Addr{netip.MustParseAddr("fd00::53")}
		}, nil, true, nil, "30m0s; [fe80::1 fd00::53]"},
	} {
		a := usual()
		if c.edit != nil {
			c.edit(a)
		}
		m := compose(a, lanLink(c.addresses...), c.uplink, c.gone)
		got := fmt.Sprintf("%s;", m.lifetime)
		for _, p := range m.prefixes {
			got += fmt.Sprintf(" %s %s %s;", p.prefix, p.valid, p.preferred)
		}
		if got += fmt.Sprintf(" %s", m.servers); got != c.want {
			t.Errorf("%s: compose = %s; want %s", c.name, got, c.want)
		}
	}
}

func TestManyPrefixesAreBounded(t *testing.T) {
	var list []watch.Address
	for i := range 300 {
		list = append(list, address(fmt.Sprintf("fd00:0:0:%x::1/64", i), watch.Forever, watch.Forever))
	}
	m := compose(usual(), lanLink(list...), true, nil)
	if len(m.prefixes) != profiles.MaxAdvertPrefixes {
		t.Errorf("%d prefixes are advertised; want %d", len(m.prefixes), profiles.MaxAdvertPrefixes)
	}
}

// full says everything there is to say.
func full() message {
	a := &profiles.Advert{Link: "lan", Lifetime: 1800, Interval: 600, Valid: 5400, Preferred: 2700, MTU: 1480,
		Preference: profiles.PreferHigh, Managed: true, Other: true, Search: []string{"home.arpa", "example.net"},
		Routes: []profiles.AdvertRoute{{To: netip.MustParsePrefix("2001:db8:5::/48"), Preference: profiles.PreferLow,
			Lifetime: 900}}}
	m := compose(a, lanLink(address("2001:db8:1::1/64", time.Hour, time.Minute),
		address("fd00::1/64", watch.Forever, watch.Forever)), true, nil)
	m.servers = []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::53")}
	return m
}

// TestEncode compares with bytes that radvdump and rdisc6 read as meant (test/net/inside).
func TestEncode(t *testing.T) {
	final := full()
	final.final = true
	for name, m := range map[string]message{"full": full(), "final": final} {
		got := []byte(fmt.Sprintf("% x\n", m.encode()))
		file := filepath.Join("testdata", name+".hex")
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("encode of %s = %s; want %s", name, got, want)
		}
	}
}

func TestEncodeIsOnePacket(t *testing.T) {
	m := full()
	b := m.encode()
	if n := int(binary.BigEndian.Uint16(b[4:])); n != len(b)-ipHeader || (len(b)-ipHeader)%optionUnit != 0 {
		t.Errorf("payload length %d of a packet of %d bytes", n, len(b))
	}
	if sum := packet.Sum(packet.Pseudo6(b), b[ipHeader:]); sum != 0xffff {
		t.Errorf("the checksum adds up to %x; want ffff", sum)
	}
}

// solicitation is a valid one.
func solicitation(from string, options ...byte) []byte {
	b := make([]byte, ipHeader+solicitHeader, 128)
	b = append(b, options...)
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipHeader))
	b[6], b[7] = protocolICMP6, hopLimit
	copy(b[8:], netip.MustParseAddr(from).AsSlice())
	copy(b[24:], netip.MustParseAddr("ff02::2").AsSlice())
	b[ipHeader] = typeSolicit
	binary.BigEndian.PutUint16(b[ipHeader+2:], ^packet.Sum(packet.Pseudo6(b), b[ipHeader:]))
	return b
}

func TestCheckSolicit(t *testing.T) {
	source := []byte{optionSource, 1, 2, 0, 0, 0, 0, 9}
	edited := func(b []byte, at int, value byte) []byte { b[at] = value; return b }
	for _, c := range []struct {
		name   string
		b      []byte
		summed bool
		want   bool
	}{
		{"of a host", solicitation("fe80::9", source...), true, true},
		{"of a host without an address", solicitation("::"), true, true},
		{"with Ethernet padding", append(solicitation("fe80::9"), 0, 0, 0, 0), true, true},
		{"a hardware address of nobody", solicitation("::", source...), true, false},
		{"forwarded", edited(solicitation("fe80::9"), 7, 254), true, false},
		{"from a group", solicitation("ff02::1"), true, false},
		{"damaged", edited(solicitation("fe80::9", source...), ipHeader+12, 7), true, false},
		{"not summed yet", edited(solicitation("fe80::9", source...), ipHeader+12, 7), false, true},
		{"a code", edited(solicitation("fe80::9"), ipHeader+1, 1), false, false},
		{"an option of no length", solicitation("fe80::9", 1, 0, 0, 0, 0, 0, 0, 0), true, false},
		{"an option longer than the packet", solicitation("fe80::9", 1, 2, 0, 0, 0, 0, 0, 0), true, false},
		{"half an option", solicitation("fe80::9", 1), true, false},
		{"short", solicitation("fe80::9")[:47], true, false},
		{"nothing", nil, true, false},
	} {
		if err := checkSolicit(c.b, c.summed); (err == nil) != c.want {
			t.Errorf("%s: checkSolicit = %v; want it taken: %v", c.name, err, c.want)
		}
	}
}

func FuzzCheckSolicit(f *testing.F) {
	f.Add(solicitation("fe80::9", 1, 1, 2, 0, 0, 0, 0, 9), true)
	f.Add(solicitation("::"), false)
	f.Fuzz(func(t *testing.T, b []byte, summed bool) {
		if checkSolicit(b, summed) == nil && (b[7] != hopLimit || b[ipHeader] != typeSolicit) {
			t.Errorf("taken: % x", b)
		}
	})
}

func newRouter() *router {
	return &router{advert: usual(), schedule: schedule{random: rand.New(rand.NewPCG(1, 2)), interval: 600 * time.Second}}
}

// run says what goes out until a time.
func (r *router) run(from, until time.Duration) (at []time.Duration) {
	for now, ok := r.next(); ok && now <= until; now, ok = r.next() {
		r.spoke(max(now, from), r.message(max(now, from)))
		at = append(at, max(now, from))
	}
	return at
}

// TestTimes are those of RFC 4861, section 6.2.4: the first at once, three of them at most 16 s apart, then between
// MinRtrAdvInterval and MaxRtrAdvInterval.
func TestTimes(t *testing.T) {
	r := newRouter()
	r.look(time.Second, lanLink(address("fd00::1/64", watch.Forever, watch.Forever)), true, true)
	at := r.run(time.Second, 2*time.Hour)
	if len(at) < 10 || at[0] != time.Second {
		t.Fatalf("advertisements at %v; want the first at once", at)
	}
	for i := 1; i < len(at); i++ {
		gap := at[i] - at[i-1]
		if i < maxInitial && (gap < minDelay || gap > maxInitialInterval) || i >= maxInitial &&
			(gap < 200*time.Second || gap > 600*time.Second) {
			t.Errorf("%v between advertisements %d and %d", gap, i, i+1)
		}
	}
}

// TestSolicitFlood: however many ask, one advertisement goes out in three seconds.
func TestSolicitFlood(t *testing.T) {
	r := newRouter()
	r.look(time.Second, lanLink(), true, true)
	var at []time.Duration
	for now := time.Second; now < time.Minute; now += time.Millisecond {
		r.asked(now)
		if next, _ := r.next(); next <= now {
			r.spoke(now, r.message(now))
			at = append(at, now)
		}
	}
	for i := 1; i < len(at); i++ {
		if gap := at[i] - at[i-1]; gap < minDelay {
			t.Errorf("%v between two advertisements; want %v", gap, minDelay)
		}
	}
	if len(at) < 15 {
		t.Errorf("%d advertisements in a minute of solicitations; want about 20", len(at))
	}
}

// TestAnswer comes within half a second.
func TestAnswer(t *testing.T) {
	r := newRouter()
	r.look(time.Second, lanLink(), true, true)
	r.run(time.Second, 10*time.Minute)
	now := r.last + 10*time.Second
	r.asked(now)
	if at, _ := r.next(); at < now || at > now+maxAnswerDelay {
		t.Errorf("asked at %v the answer goes out at %v", now, at)
	}
}

// TestRenumbering: a prefix that is not on the link any more is said to be deprecated for as long as hosts were told to
// keep it, and two hours at most.
func TestRenumbering(t *testing.T) {
	r := newRouter()
	r.advert.Valid, r.advert.Preferred = 86400, 86400
	old, fresh := address("2001:db8:1::1/64", watch.Forever, watch.Forever), address("2001:db8:2::1/64", watch.Forever,
		watch.Forever)
	r.look(time.Second, lanLink(old), true, true)
	r.run(time.Second, time.Minute)
	now := 10 * time.Minute
	r.look(now, lanLink(fresh), true, true)
	if at, _ := r.next(); at > now+minDelay {
		t.Errorf("news at %v goes out at %v", now, at)
	}
	m := r.message(now)
	at := find(m.prefixes, old.Prefix.Masked())
	if at < 0 || m.prefixes[at].preferred != 0 || m.prefixes[at].valid != deprecating {
		t.Fatalf("after renumbering it says %+v; want %s deprecated", m.prefixes, old.Prefix)
	}
	r.spoke(now, m)
	later := now + deprecating + time.Second
	if m := r.message(later); find(m.prefixes, old.Prefix.Masked()) >= 0 || len(m.prefixes) != 1 {
		t.Errorf("two hours later it says %+v; want %s only", m.prefixes, fresh.Prefix)
	}
}

// TestNameServersAreTakenBack: a name server that hosts were told of, the guest's own address in a prefix that is gone
// above all, is said to be none any more for as long as they would ask it.
func TestNameServersAreTakenBack(t *testing.T) {
	r := newRouter()
	r.advert.DNSSelf = true
	r.advert.DNS = []netip.Addr{netip.MustParseAddr("fd00::53")}
	old, fresh := address("2001:db8:1::1/64", time.Hour, time.Hour), address("2001:db8:2::1/64", time.Hour, time.Hour)
	r.look(time.Second, lanLink(old), true, true)
	r.spoke(time.Second, r.message(time.Second))
	const now = 10 * time.Minute
	r.look(now, lanLink(fresh), true, true)
	m := r.message(now)
	r.spoke(now, m)
	left := append([]byte{optionDNS, 3, 0, 0, 0, 0, 0, 0}, old.Prefix.Addr().AsSlice()...)
	if b := m.encode(); !bytes.Contains(b, left) || fmt.Sprint(m.servers) != "[2001:db8:2::1 fd00::53]" {
		t.Errorf("it names %v and takes %v back, as % x; want the old address taken back", m.servers, m.left, b)
	}
	const later = time.Second + 1801*time.Second // three intervals after the first
	if m := r.message(later); len(m.left) != 0 {
		t.Errorf("it goes on taking %v back", m.left)
	}
	r.look(20*time.Minute, lanLink(old), true, true)
	if m := r.message(20 * time.Minute); fmt.Sprint(m.left) != "[2001:db8:2::1]" {
		t.Errorf("back in the old prefix it takes %v back; want the address in the other", m.left)
	}
	for i := range 300 { // prefixes that keep changing
		r.look(now, lanLink(address(fmt.Sprintf("fd00:%x::1/64", i), time.Hour, time.Hour)), true, true)
		m := r.message(now)
		if r.spoke(now, m); len(r.named) > maxLeft+2 || len(m.left) > maxLeft || len(m.encode()) > onePacket {
			t.Fatalf("%d name servers are remembered, %d taken back, in %d bytes", len(r.named), len(m.left), len(m.encode()))
		}
	}
	m = r.message(now)
	for full := (message{from: m.from, mac: m.mac, advert: m.advert, prefixes: m.prefixes}); ; {
		full.servers = append(full.servers, old.Prefix.Addr())
		if len(full.encode()) > onePacket {
			break
		}
		m.servers = full.servers
		if n := len(m.encode()); n > onePacket {
			t.Fatalf("with %d name servers a packet has %d bytes; want %d at most", len(m.servers), n, onePacket)
		}
	}
}

// TestPromisedFirst: what is said is kept before it is said.
func TestPromisedFirst(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := open(lo.Index)
	if errors.Is(err, os.ErrPermission) {
		t.Skip("SKIPPED, NOT PASSED: a packet socket needs CAP_NET_RAW: run it as root")
	}
	if err != nil {
		t.Fatal(err)
	}
	socket.Close() // whatever is sent by it is lost, as when the process ends there
	env := guestRoot(t)
	v := &voice{router: *newRouter(), socket: socket}
	v.advert.DNS = []netip.Addr{netip.MustParseAddr("fd00::53")}
	v.look(boottime.Now(), lanLink(address("2001:db8:1::1/64", time.Hour, time.Hour)), true, true)
	(&server{env: env, voices: []*voice{v}}).speak(v)
	next := &server{env: env, voices: []*voice{{router: *newRouter()}}}
	next.load()
	m := next.voices[0].message(next.now())
	if find(m.prefixes, netip.MustParsePrefix("2001:db8:1::/64")) < 0 || fmt.Sprint(m.left) != "[fd00::53]" {
		t.Errorf("the next run takes back %v and %v; want the prefix and the name server", m.prefixes, m.left)
	}
}

// TestShortLife: what lives shorter than the interval is said again before hosts stop using it.
func TestShortLife(t *testing.T) {
	r := newRouter()
	r.look(time.Second, lanLink(address("2001:db8:1::1/64", 4*time.Minute, 2*time.Minute)), true, true)
	now := time.Second
	for range 5 {
		r.spoke(now, r.message(now))
		at, _ := r.next()
		if at-now > time.Minute {
			t.Errorf("next advertisement after %v; want within half of 2 minutes", at-now)
		}
		now = at
		r.look(now, lanLink(address("2001:db8:1::1/64", 4*time.Minute, 2*time.Minute)), true, true)
	}
}

func TestNoLink(t *testing.T) {
	r := newRouter()
	r.look(time.Second, watch.Link{}, false, true)
	if _, ok := r.next(); ok {
		t.Error("it speaks without a link")
	}
	r.look(2*time.Second, lanLink(), true, false)
	if at, ok := r.next(); !ok || at != 2*time.Second {
		t.Errorf("a link that comes is spoken on at %v, %v; want at once", at, ok)
	}
	if m := r.message(2 * time.Second); m.lifetime != 0 || !slices.Equal(m.servers, nil) {
		t.Errorf("without an uplink it says %+v; want no router", m)
	}
}

// TestOpenedLater: a link that is there and not ready yet is tried again, and said once.
func TestOpenedLater(t *testing.T) {
	var said bytes.Buffer
	refused := 0
	s := &server{env: &child.Env{Log: slog.New(slog.NewTextHandler(&said, nil))}, wake: make(chan struct{}, 1),
		broken: make(chan error, 1), voices: []*voice{{router: *newRouter()}}}
	s.open = func(int) (*packet.Socket, error) { refused++; return nil, errors.New("no such device") }
	view := watch.View{Links: map[string]watch.Link{"lan": lanLink()}}
	for range 3 {
		if s.look(view) {
			t.Error("look is content although the socket could not be opened")
		}
	}
	if refused != 3 || strings.Count(said.String(), "not advertising yet") != 1 {
		t.Errorf("tried %d times, and said:\n%s\nwant 3, and said once", refused, said.String())
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := open(lo.Index)
	if errors.Is(err, os.ErrPermission) {
		t.Skip("SKIPPED, NOT PASSED: a packet socket needs CAP_NET_RAW: run it as root")
	}
	s.open = func(int) (*packet.Socket, error) { return socket, err }
	if !s.look(view) || s.voices[0].socket == nil || !s.voices[0].up {
		t.Error("look does not take the socket that could be opened")
	}
	s.closeAll()
	s.readers.Wait()
}

// TestKept: what one run promised the next takes back.
func TestKept(t *testing.T) {
	env := guestRoot(t)
	old := netip.MustParsePrefix("2001:db8:1::/64")
	r := newRouter()
	r.said = []promise{{prefix: prefix{prefix: old, valid: time.Hour}, until: boottime.Now() + time.Hour}}
	(&server{env: env, voices: []*voice{{router: *r}}}).save()
	next := &server{env: env, voices: []*voice{{router: *newRouter()}}}
	next.load()
	v := next.voices[0]
	v.look(next.now(), lanLink(), true, true)
	m := v.message(next.now())
	if at := find(m.prefixes, old); at < 0 || m.prefixes[at].preferred != 0 || m.prefixes[at].valid > time.Hour {
		t.Errorf("the next run says %+v; want %s deprecated", m.prefixes, old)
	}
	for _, bad := range []string{"", "{", "[{}]", `[{"link":"lan","server":"10.0.0.1","until":1}]`,
		`[{"link":"lan","server":"fd00::1","prefix":"fd00::/64","until":1}]`,
		`[{"link":"lan","prefix":"10.0.0.0/8","until":1}]`,
		`[{"link":"lan","prefix":"fd00::/64","until":9000000000000000000}]`} {
		if err := os.WriteFile(keptFile(env.Root), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if all, err := readKept(keptFile(env.Root), time.Minute); err == nil {
			t.Errorf("readKept of %q = %v; want an error", bad, all)
		}
	}
}
