package ra

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/link/watch"
	"rempart/profiles"
)

// guestRoot is a root with the child's directories, and a state disk.
func guestRoot(t *testing.T) *child.Env {
	t.Helper()
	env := &child.Env{Root: t.TempDir(), Log: slog.New(slog.DiscardHandler), Profile: &profiles.Profile{}}
	env.Profile.State.Size = 1 << 30
	for _, dir := range []string{runDir, stateDir} {
		if err := os.MkdirAll(filepath.Join(env.Root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return env
}

// patient is longer than the disk of a busy machine keeps a test waiting.
const patient = time.Minute

// newServer is a run of the child that has taken over what there is, with one link that advertises its own address for
// names.
func newServer(env *child.Env) (*server, *voice) {
	v := &voice{router: *newRouter()}
	v.advert.DNSSelf = true
	s := &server{env: env, voices: []*voice{v}, patience: patient}
	s.load()
	return s, v
}

// says has a link with addresses advertised, at a time after now, and returns what is said.
func (s *server) says(v *voice, after time.Duration, addresses ...watch.Address) message {
	now := s.now() + after
	v.look(now, lanLink(addresses...), true, true)
	m := v.message(now)
	v.spoke(now, m)
	s.save()
	return m
}

// told is what is said, as text: prefixes with how long they are preferred, and name servers that are taken back.
func told(m message) string {
	var all []string
	for _, p := range m.prefixes {
		all = append(all, fmt.Sprint(p.prefix, " ", p.preferred))
	}
	slices.Sort(all)
	return fmt.Sprint(all, "; ", m.left)
}

// TestStartedAgain: a guest that is started again, with another prefix, takes back what it advertised before, when it
// has had the time to get the same again.
func TestStartedAgain(t *testing.T) {
	forever := watch.Forever
	own := address("fd00::1/64", forever, forever)
	old, fresh := address("2001:db8:1::1/64", time.Hour, time.Hour), address("2001:db8:2::1/64", time.Hour, time.Hour)
	for _, c := range []struct {
		what  string
		now   []watch.Address
		early string // said at once, and after a while
		later string
	}{
		{"another prefix", []watch.Address{fresh, own}, "[2001:db8:2::/64 1h0m0s fd00::/64 1h0m0s]; []",
			"[2001:db8:1::/64 0s 2001:db8:2::/64 1h0m0s fd00::/64 1h0m0s]; [2001:db8:1::1]"},
		{"the same", []watch.Address{old, own}, "[2001:db8:1::/64 1h0m0s fd00::/64 1h0m0s]; []",
			"[2001:db8:1::/64 1h0m0s fd00::/64 1h0m0s]; []"},
		{"none", []watch.Address{own}, "[fd00::/64 1h0m0s]; []", "[2001:db8:1::/64 0s fd00::/64 1h0m0s]; [2001:db8:1::1]"},
	} {
		env := guestRoot(t)
		s, v := newServer(env)
		v.advert.Preferred = 3600
		s.says(v, 0, old, own)
		if err := os.Remove(keptFile(env.Root)); err != nil { // as a boot does
			t.Fatal(err)
		}
		for run := range 2 { // and again by a process that is started again meanwhile
			s, v = newServer(env)
			v.advert.Preferred = 3600
			if got := told(s.says(v, 0, c.now...)); got != c.early {
				t.Errorf("%s, run %d: at first it says %s; want %s", c.what, run, got, c.early)
			}
			if at, _ := v.next(); at > s.now()+returning {
				t.Errorf("%s, run %d: it speaks next in %s; want what is gone said then", c.what, run, at-s.now())
			}
		}
		m := s.says(v, returning, c.now...)
		if got := told(m); got != c.later {
			t.Errorf("%s: later it says %s; want %s", c.what, got, c.later)
		}
		if at := find(m.prefixes, old.Prefix.Masked()); at >= 0 && m.prefixes[at].valid > deprecating {
			t.Errorf("%s: what is gone is said to be valid for %s", c.what, m.prefixes[at].valid)
		}
		m = s.says(v, returning+deprecating, c.now...)
		if c.what != "the same" && find(m.prefixes, old.Prefix.Masked()) >= 0 {
			t.Errorf("%s: in the end it still says %s", c.what, told(m))
		}
	}
}

// TestNameServerAfterStart: a guest that is started again and names another name server than before takes the old one
// back in time, though no prefix is gone.
func TestNameServerAfterStart(t *testing.T) {
	own := address("fd00::1/64", watch.Forever, watch.Forever)
	env := guestRoot(t)
	s, v := newServer(env)
	v.advert.DNS = []netip.Addr{netip.MustParseAddr("fd00::53")}
	s.says(v, 0, own)
	if err := os.Remove(keptFile(env.Root)); err != nil { // as a boot does
		t.Fatal(err)
	}
	s, v = newServer(env)
	for range maxInitial { // the first ones are close together
		s.says(v, 0, own)
	}
	if at, _ := v.next(); at > s.now()+returning {
		t.Errorf("it speaks next in %s; want the name server taken back after %s", at-s.now(), returning)
	}
	if m := s.says(v, returning, own); fmt.Sprint(m.left) != "[fd00::53]" {
		t.Errorf("it takes %v back; want the name server of before", m.left)
	}
}

// TestStateDisk: what is kept there has no times, and is written when it changes, not with each advertisement; without
// a state disk it is not.
func TestStateDisk(t *testing.T) {
	env := guestRoot(t)
	s, v := newServer(env)
	one, two := address("2001:db8:1::1/64", time.Hour, time.Hour), address("2001:db8:2::1/64", time.Hour, time.Hour)
	state := func() os.FileInfo {
		t.Helper()
		info, err := os.Stat(stateFile(env.Root))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	s.says(v, 0, one)
	first := state()
	s.says(v, time.Minute, one)
	if !os.SameFile(first, state()) {
		t.Error("it was written again, though nothing new was said")
	}
	s.says(v, 2*time.Minute, one, two)
	b, err := os.ReadFile(stateFile(env.Root))
	want := `[{"link":"lan","server":"2001:db8:1::1"},{"link":"lan","prefix":"2001:db8:1::/64"},` +
		`{"link":"lan","prefix":"2001:db8:2::/64"}]`
	if err != nil || string(b) != want {
		t.Errorf("the state disk has %s, %v; want %s", b, err, want)
	}
	for _, p := range contract.StatePlaces() {
		if filepath.Join(contract.StateDir, p.Path) == stateDir && state().Mode().Perm() & ^p.FileMode != 0 {
			t.Errorf("it has mode %o; want %o at most", state().Mode().Perm(), p.FileMode)
		}
	}
	env = guestRoot(t)
	env.Profile.State.Size = 0
	s, v = newServer(env)
	s.says(v, 0, one)
	if _, err := os.Stat(stateFile(env.Root)); err == nil {
		t.Error("it was written without a state disk")
	}
}

// TestDiskThatHangs: a state disk that takes nothing delays one advertisement and stops none, and has all once it is
// well again.
func TestDiskThatHangs(t *testing.T) {
	env := guestRoot(t)
	s, v := newServer(env)
	pipe := stateFile(env.Root) + ".new" // whoever writes to it waits for a reader
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	one, two := address("2001:db8:1::1/64", time.Hour, time.Hour), address("2001:db8:2::1/64", time.Hour, time.Hour)
	s.patience = time.Millisecond
	s.says(v, 0, one)
	s.says(v, time.Minute, one, two)
	s.patience = patient
	if s.onDisk != nil || s.disk == nil || !s.disk.late {
		t.Fatalf("the state disk is taken to have %v; want nothing, and that it is waited for", s.onDisk)
	}
	reader, err := os.Open(pipe)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	s.readers.Wait() // a pipe cannot be synced, so this write fails
	if err := os.RemoveAll(pipe); err != nil {
		t.Fatal(err)
	}
	s.says(v, 2*time.Minute, one, two) // hears of that
	s.says(v, 3*time.Minute, one, two)
	want := []kept{{Link: "lan", Server: netip.MustParseAddr("2001:db8:1::1")},
		{Link: "lan", Prefix: netip.MustParsePrefix("2001:db8:1::/64")},
		{Link: "lan", Prefix: netip.MustParsePrefix("2001:db8:2::/64")}}
	got, err := readKept(stateFile(env.Root), 0)
	if err != nil || !slices.Equal(got, want) || !slices.Equal(s.onDisk, want) {
		t.Errorf("the state disk has %v, %v; want %v", got, err, want)
	}
}

// TestMostKept: the most that can be promised can be read again, and fits where it is kept.
func TestMostKept(t *testing.T) {
	const links, servers = 64, 17 // as many as a profile may have, and the guest's own address
	env := guestRoot(t)
	env.Profile.RA = make([]profiles.Advert, links)
	s := &server{env: env, patience: patient}
	until := s.now() + maxPromised
	for i := range links {
		v := &voice{router: *newRouter()}
		v.advert.Link = fmt.Sprintf("%015d", i)
		for n := range maxPromises {
			p := netip.MustParsePrefix(fmt.Sprintf("2001:db8:%x:%x::/64", 0x1000+i, 0x1000+n))
			v.said = append(v.said, promise{prefix{prefix: p}, until, s.now() + returning})
		}
		for n := range maxLeft + servers {
			a := netip.MustParseAddr(fmt.Sprintf("2001:db8:%x:1111:1111:1111:1111:%x", 0x1000+i, 0x1000+n))
			v.named = append(v.named, server6{a, until, s.now() + returning})
		}
		s.voices = append(s.voices, v)
	}
	s.save()
	for _, name := range []string{keptFile(env.Root), stateFile(env.Root)} {
		if all, err := readKept(name, s.now()); err != nil || len(all) != links*(maxPromises+maxLeft+servers) {
			t.Errorf("of the most there can be %d are read: %v", len(all), err)
		}
	}
	info, err := os.Stat(stateFile(env.Root))
	if err != nil {
		t.Fatal(err)
	}
	for _, share := range env.Profile.Shares(1 << 30) {
		if share.Of == profiles.WriterAdvert && 2*info.Size() > share.Need {
			t.Errorf("the file has %d bytes, and its share of the state disk %d; want room for two", info.Size(), share.Need)
		}
	}
}
