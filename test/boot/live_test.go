package boot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"rempart/builder/guest"
	"rempart/builder/hypervisor"
	"rempart/builder/kernel"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/live"
	"rempart/profiles"
	"rempart/test/rig"
)

// person is somebody with a key at the other end of the guest's first link.
type person struct {
	address string // a port of this machine that QEMU forwards to the guest's port 22
	config  *ssh.ClientConfig
}

// How long a way in may take to open before it counts as shut, where it is to be shut and where it is to be open: a
// guest in software needs most of a second for the key exchange, and on a busy machine many.
const (
	shutWithin = 8 * time.Second
	openWithin = time.Minute
)

// connect opens a new connection, as a person would who wants to know whether there still is a way in.
func (a *person) connect(handshake time.Duration) (*ssh.Client, error) {
	conn, err := net.DialTimeout("tcp", a.address, handshake)
	if err != nil {
		return nil, err
	}
	// QEMU accepts at once and then tries the guest.
	if err := conn.SetDeadline(time.Now().Add(handshake)); err != nil {
		return nil, err
	}
	c, channels, requests, err := ssh.NewClientConn(conn, a.address, a.config)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return ssh.NewClient(c, channels, requests), conn.SetDeadline(time.Time{})
}

func (a *person) mustConnect(t *testing.T) *ssh.Client {
	t.Helper()
	c, err := a.connect(openWithin)
	if err != nil {
		t.Fatalf("there is no way in: %v", err)
	}
	return c
}

// command runs one command of the guest.
func command(t *testing.T, c *ssh.Client, line string, stdin []byte) (out string, err error) {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		return "", err
	}
	defer s.Close()
	s.Stdin = bytes.NewReader(stdin)
	b, err := s.CombinedOutput(line)
	return string(b), err
}

// awaitChange waits for the report that tells of a profile that is not the master's.
func awaitChange(g *rig.Guest) contract.Report {
	return g.Await("a changed profile", func(r contract.Report) bool { return r.Live.Profile != r.Live.Master })
}

// bootWithAdmin boots a guest with somebody on its first link who may log in.
func bootWithAdmin(t *testing.T, m *rig.Master, o rig.Options) (*rig.Guest, *person) {
	t.Helper()
	signer := rig.NewKey(t).Signer
	o.Identity = filepath.Join(t.TempDir(), "identity.raw")
	id, err := guest.EnsureIdentity(o.Identity, m.Profile.Name, m.Profile, ssh.MarshalAuthorizedKey(signer.PublicKey()))
	if err != nil {
		t.Fatal(err)
	}
	line, err := guest.HostKeyLine(id)
	if err != nil {
		t.Fatal(err)
	}
	host, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &person{address: listener.Addr().String(), config: &ssh.ClientConfig{User: "admin",
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(host), Timeout: openWithin}}
	listener.Close() // QEMU takes the port next
	link := m.Profile.NICs()[0]
	own := link.Addresses[0]
	gateway := netip.MustParseAddr("192.168.0.1")
	o.Backends = []hypervisor.Backend{{Kind: hypervisor.User, Subnet: own.Masked(), Gateway: gateway}}
	o.Sed = fmt.Sprintf(`s/^user,id=.*restrict=on/&,hostfwd=tcp:%s-%s:22/`, a.address, own.Addr())
	return m.Boot(t, o), a
}

// change is what `rempart apply` sends to go from one profile to the next.
func change(t *testing.T, running, next *profiles.Profile) []byte {
	t.Helper()
	b, err := json.Marshal(next)
	if err != nil {
		t.Fatal(err)
	}
	l := live.Change{Base: profileDigest(t, running), Modules: kernel.Preload(next), Profile: b}
	for i := range next.Sets {
		for _, b := range next.Sets[i].Files() {
			l.Sets = append(l.Sets, b)
		}
	}
	c, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func profileDigest(t *testing.T, p *profiles.Profile) string {
	t.Helper()
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return contract.ProfileDigest(b)
}

// altered is the profile with some of its text replaced.
func altered(t *testing.T, replace ...string) *profiles.Profile {
	t.Helper()
	src, err := profiles.BuiltinSource(profile)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(string(src), replace[i]) {
			t.Fatalf("the profile does not say %q", replace[i])
		}
	}
	p, err := profiles.Parse(profile+".yaml", []byte(strings.NewReplacer(replace...).Replace(string(src))))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestLiveChange changes the profile of a running guest: by a change that locks its author out, which undoes itself
// although the clock jumps; by one whose author vanishes; and by a good one, which stays. An SSH session from before
// lives through it all.
func TestLiveChange(t *testing.T) {
	t.Parallel()
	const undoAfter = 12
	m := rig.Build(t, profile)
	g, a := bootWithAdmin(t, m, rig.Options{Append: contract.KeyInject + "=jump:clock:100000h", Memory: 128 << 20})
	g.AwaitReady()
	first := a.mustConnect(t)
	defer first.Close()
	apply := fmt.Sprintf("apply --undo-after %d", undoAfter)
	undone := func(since contract.LiveReport) {
		t.Helper()
		r := g.Await("the profile from before", func(r contract.Report) bool {
			return r.Live.Profile == r.Live.Master && r.Live.Since > since.Since
		})
		if took := r.Live.Since - since.Since; took < undoAfter || took > undoAfter+10 {
			t.Errorf("undone after %.1f s of guest time; want %d", took, undoAfter)
		}
		g.AwaitReady()
		a.mustConnect(t).Close()
	}

	t.Run("locked out", func(t *testing.T) {
		out, err := command(t, first, apply, change(t, m.Profile, altered(t, "admin: {from: home}", "admin: {from: dmz}")))
		if err != nil {
			t.Fatalf("apply: %v: %s", err, out)
		}
		applied := awaitChange(g)
		if c, err := a.connect(shutWithin); err == nil {
			c.Close()
			t.Error("there still is a way in, although the changed profile has none")
		}
		if out, err := command(t, first, "confirm", nil); err == nil || !strings.Contains(out, "connect anew") {
			t.Errorf("confirm by a connection from before the change: %v: %s; want it refused", err, out)
		}
		undone(applied.Live)
		g.AwaitConsole("the clock jumped")
		if out, err := command(t, first, "status", nil); err != nil || !strings.Contains(out, "READY") {
			t.Errorf("the session from before the change: %v: %s; want it alive", err, out)
		}
	})

	better := altered(t, "  - home -> self: ping\n", "  - home -> self: ping\n  - home -> dmz: https\n",
		"10.9.0.1/24,", "10.9.0.1/24, 10.9.0.129/24,")
	t.Run("author vanishes", func(t *testing.T) {
		c := a.mustConnect(t)
		if out, err := command(t, c, apply, change(t, m.Profile, better)); err != nil {
			t.Fatalf("apply: %v: %s", err, out)
		}
		c.Close()
		applied := awaitChange(g)
		undone(applied.Live)
	})

	t.Run("confirmed", func(t *testing.T) {
		if out, err := command(t, first, apply, change(t, m.Profile, better)); err != nil {
			t.Fatalf("apply: %v: %s", err, out)
		}
		g.Await("the address the changed profile adds", func(r contract.Report) bool {
			for _, l := range r.Links {
				for _, address := range l.Addresses {
					if l.Name == "dmz0" && address == "10.9.0.129/24" {
						return r.Ready
					}
				}
			}
			return false
		})
		c := a.mustConnect(t)
		defer c.Close()
		if out, err := command(t, c, "confirm", nil); err != nil {
			t.Fatalf("confirm: %v: %s", err, out)
		}
		r := g.Await("the confirmed profile", func(r contract.Report) bool { return r.Live.UndoAt == 0 })
		if r.Live.Profile != profileDigest(t, better) || r.Live.Master != profileDigest(t, m.Profile) {
			t.Errorf("after confirm the guest runs %+v; want the changed profile", r.Live)
		}
		out, err := command(t, c, "profile", nil)
		if err != nil || contract.ProfileDigest([]byte(strings.TrimSpace(out))) != profileDigest(t, better) {
			t.Errorf("profile: %v: %.200s; want the changed one", err, out)
		}
		if out, err := command(t, first, apply, change(t, better, altered(t, "memory: 128M", "memory: 256M"))); err == nil ||
			!strings.Contains(out, "memory") {
			t.Errorf("a change of the memory: %v: %s; want it refused", err, out)
		}
	})
	g.PowerOff()
}
