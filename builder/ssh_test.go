package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/running"
	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// sshGuest is an SSH server with the host key of an identity: it says what it is asked, and ends with status 5.
func sshGuest(t *testing.T, hostKey []byte) (addr string) {
	t.Helper()
	signer, err := ssh.ParsePrivateKey(hostKey)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
		return nil, nil
	}}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	serve := func(conn net.Conn) {
		defer conn.Close()
		_, channels, requests, err := ssh.NewServerConn(conn, config)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(requests)
		for ch := range channels {
			c, requests, err := ch.Accept()
			if err != nil {
				return
			}
			for r := range requests {
				_ = r.Reply(true, nil)
				fmt.Fprintln(c, r.Type, string(r.Payload[min(4, len(r.Payload)):]))
				_, _ = c.SendRequest("exit-status", false, ssh.Marshal(struct{ S uint32 }{5}))
				c.Close()
			}
		}
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return l.Addr().String()
}

func TestSSH(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	p, err := profiles.Load("home-firewall")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	disk, other := filepath.Join(dir, "identity.raw"), filepath.Join(dir, "other.raw")
	id, err := guest.EnsureIdentity(disk, "fw-1", p, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := guest.EnsureIdentity(other, "fw-1", p, nil); err != nil {
		t.Fatal(err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := sshGuest(t, id.Secret(identity.ConsumerSSH, identity.SSHHostKey))
	// Another guest runs now, and says where it is.
	hostKey, err := guest.HostKeyLine(id)
	if err != nil {
		t.Fatal(err)
	}
	place, err := running.Place()
	if err != nil {
		t.Fatal(err)
	}
	g, err := running.Register(place, "fw-9")
	if err == nil {
		err = g.Announce(running.Info{HostKey: hostKey, SSH: addr})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.Forget(); err != nil {
			t.Error(err)
		}
	}()
	for _, c := range []struct {
		args     []string
		code     int
		out, err string // parts
	}{
		{[]string{"-i", disk, "-a", addr, "-k", key, "fw-1", "log", "-f", "a b"}, 5, "exec log -f 'a b'\n", ""},
		{[]string{"-i", disk, "-a", addr, "-k", key, "fw-1"}, 5, "shell", ""},
		{[]string{"-i", other, "-a", addr, "-k", key, "fw-1", "status"}, exitFailed, "", "another machine answers"},
		{[]string{"-i", disk, "-a", addr, "fw-1", "status"}, exitFailed, "", "no key to log in with"},
		{[]string{"-i", disk, "-k", key, "fw-1", "status"}, exitFailed, "", "say where it is by --address"},
		{[]string{"-a", addr, "-k", key, "never-ran", "status"}, exitFailed, "", "name its identity disk by --identity"},
		{[]string{"-a", addr, "-k", key, "no/such/folder", "status"}, exitFailed, "", "want the name of one, or the folder"},
		{[]string{"-k", key, "fw-9", "status"}, 5, "exec status\n", ""},
		{[]string{"-k", key, "-i", other, "-a", addr, "fw-9", "status"}, exitFailed, "", "another machine answers"},
		{nil, exitUsage, "", "want a guest"},
	} {
		args := append([]string{"ssh"}, c.args...)
		for i, a := range args {
			if a == "-i" {
				args[i] = "--identity"
			}
		}
		code, out, errs := rempart(args...)
		if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errs, c.err) {
			t.Errorf("rempart %q = %d, %q, %q; want %d, %q, %q", args, code, out, errs, c.code, c.out, c.err)
		}
	}
	// A confirmation gets there by SSH alone: nobody serves the hypervisor's channel here. The server says 5 to it.
	const refused = "the guest's confirm ended with status 5"
	if code, _, errs := rempart("confirm", "-k", key, "fw-9"); code != exitFailed || !strings.Contains(errs, refused) {
		t.Errorf("rempart confirm = %d, %q; want %d, %q", code, errs, exitFailed, refused)
	}
}

func TestAddressOf(t *testing.T) {
	const base = "rempart: 1\nname: gw\nlinks: {a: {address: 203.0.113.2/24, gateway: 203.0.113.1}, " +
		"b: {address: [10.3.0.1/24, \"fd00:3::1/64\"]}}\nzones: {internet: a, inside: {link: b, prefix: PREFIX}}\n"
	for _, c := range []struct{ prefix, admin, want string }{
		{"10.3.0.0/24", "{from: inside}", "10.3.0.1"},
		{`["fd00:3::/64"]`, "{from: inside}", "fd00:3::1"},
		{"10.3.0.0/24", "{from: 203.0.113.7}", "203.0.113.2"},
		{"10.3.0.0/24", "none", ""},
		{"rest", "{from: inside}", "10.3.0.1"},
		// What another zone has of the link, the rest has not.
		{"rest}, lab: {link: b, prefix: 10.3.0.0/16", "{from: inside}", "fd00:3::1"},
	} {
		src := strings.Replace(base, "PREFIX", c.prefix, 1) + "admin: " + c.admin + "\n"
		p, err := profiles.Parse("x.yaml", []byte(src))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := addressOf(&identity.Identity{}, p); got != c.want {
			t.Errorf("addressOf(%s, %s) = %q; want %q", c.prefix, c.admin, got, c.want)
		}
	}
	for in, want := range map[string]string{"10.0.0.1": "10.0.0.1:22", "10.0.0.1:2222": "10.0.0.1:2222",
		"fd00::1": "[fd00::1]:22", "[fd00::1]": "[fd00::1]:22", "[fd00::1]:2222": "[fd00::1]:2222", "gw.lan": "gw.lan:22"} {
		if got := withPort(in); got != want {
			t.Errorf("withPort(%s) = %s; want %s", in, got, want)
		}
	}
}

// TestSSHAbsent: what there is to do is told of a guest that does not run, and of one that there is not.
func TestSSHAbsent(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	folder := t.TempDir()
	t.Setenv("REMPART_GUESTS", folder)
	h, err := home.Default()
	if err != nil {
		t.Fatal(err)
	}
	g, err := h.Create(t.Context(), home.Description{Name: "fw", Store: folder,
		Master: strings.Repeat("0", 64), Firmware: "bios", Accel: "tcg"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Save(); err != nil {
		t.Fatal(err)
	}
	g.Unlock()
	for name, want := range map[string]string{"fw": "rempart start fw", "absent": "rempart list"} {
		if code, _, errs := rempart("ssh", name, "status"); code != exitFailed || !strings.Contains(errs, want) ||
			strings.Contains(errs, "manifest.json") {
			t.Errorf("ssh %s = %d, %q; want %q in it", name, code, errs, want)
		}
	}
}
