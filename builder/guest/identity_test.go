package guest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/hypervisor"
	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

func TestEnsureIdentity(t *testing.T) {
	p, err := profiles.Load("home-firewall")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "fw.identity.raw")
	first, err := EnsureIdentity(path, "fw-2", p, []byte("ssh-ed25519 AAAA\n"))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size()%identity.Sector != 0 {
		t.Errorf("identity disk is %v, %v; want whole sectors that only its owner reads", info, err)
	}
	if first.Hostname != "fw-2" || len(first.Links) != len(p.NICs()) || len(first.Seed) != seedSize {
		t.Errorf("identity = %+v; want its name, a MAC for each NIC, a seed", first.Facts())
	}
	// Somebody adds a key and an address by hand, and the profile gets a link more: all that was there stays.
	first.SetSecret(identity.ConsumerWireGuard, "wg0", []byte("k"))
	first.Links[0].MAC = "52:54:00:00:00:01"
	if err := WriteIdentity(path, first); err != nil {
		t.Fatal(err)
	}
	p.Links = append(p.Links, profiles.Link{Name: "more"})
	second, err := EnsureIdentity(path, "fw-2", p, nil)
	if err != nil {
		t.Fatal(err)
	}
	name := first.Links[0].Name
	for _, l := range second.Links {
		if l.MAC == "" || l.Name == name && l.MAC != "52:54:00:00:00:01" {
			t.Errorf("link %s has the MAC %q; want what it had, and one for each", l.Name, l.MAC)
		}
	}
	if len(second.Links) != len(first.Links)+1 {
		t.Errorf("%d links; want one more than %d", len(second.Links), len(first.Links))
	}
	for _, s := range first.Secrets {
		if !bytes.Equal(second.Secret(s.Consumer, s.Name), s.Value) {
			t.Errorf("secret %s/%s has changed", s.Consumer, s.Name)
		}
	}
	if bytes.Equal(first.Seed, second.Seed) {
		t.Error("the random seed is the same for two starts")
	}
	if err := os.WriteFile(path, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureIdentity(path, "fw-2", p, nil); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("EnsureIdentity over junk = %v; want an error that says what to do", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "junk" {
		t.Error("what could not be read was overwritten")
	}
}

func TestGiveAddresses(t *testing.T) {
	p := &profiles.Profile{Name: "x", Links: []profiles.Link{{Name: "a"}, {Name: "b"}}}
	nics, err := Links("x", p)
	if err != nil {
		t.Fatal(err)
	}
	before := nics[0].MAC.String()
	id := &identity.Identity{Links: []identity.Link{{Name: "b", MAC: "52:54:00:00:00:02"}}}
	if err := giveAddresses(nics, id); err != nil {
		t.Fatal(err)
	}
	if nics[0].MAC.String() != before || nics[1].MAC.String() != "52:54:00:00:00:02" {
		t.Errorf("MACs are %s and %s; want %s and the identity's", nics[0].MAC, nics[1].MAC, before)
	}
	var _ []hypervisor.NIC = nics
}

// TestHostKey: ssh-keygen is the judge of the key and of its fingerprint.
func TestHostKey(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("SKIPPED, NOT PASSED: there is no ssh-keygen to judge the host key")
	}
	dir := t.TempDir()
	id, err := EnsureIdentity(filepath.Join(dir, "id.raw"), "x", &profiles.Profile{Name: "x"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := HostKeyFingerprint(id)
	if err != nil {
		t.Fatal(err)
	}
	public, err := HostKeyLine(id)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "key.pub")
	if err := os.WriteFile(file, []byte(public+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(keygen, "-lf", file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), got+" ") {
		t.Errorf("ssh-keygen says %q, %v; want it to know the key as %s", out, err, got)
	}
	if _, err := ParseKey(public); err != nil {
		t.Errorf("ParseKey(%s) = %v", public, err)
	}
	id.SetSecret(identity.ConsumerSSH, identity.SSHHostKey, []byte("-----BEGIN PRIVATE KEY-----\nhunter2\n"))
	if _, err := HostKeyFingerprint(id); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("fingerprint of junk: %v; want an error without it", err)
	}
}

func TestReadKeys(t *testing.T) {
	id, err := EnsureIdentity(filepath.Join(t.TempDir(), "id.raw"), "x", &profiles.Profile{Name: "x"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	line, err := HostKeyLine(id)
	if err != nil {
		t.Fatal(err)
	}
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "id.pub")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	got, err := ReadKeys([]string{file("# me\n\n" + line + " me@home\r\n"), file(line)})
	if err != nil || string(got) != line+"\n" {
		t.Errorf("ReadKeys = %q, %v; want the key once, without its comment", got, err)
	}
	for _, bad := range []string{"", "junk", "ssh-ed25519", "ssh-ed25519 !", "ssh-rsa " + strings.Fields(line)[1],
		"ssh-ed25519 AAAA", "ssh-ed25519 /////w==", `command="x" ` + line, "-----BEGIN OPENSSH PRIVATE KEY-----",
		"ssh-dss " + strings.Fields(line)[1], strings.Repeat("#\n", maxKeyFile)} {
		if got, err := ReadKeys([]string{file(bad)}); err == nil {
			t.Errorf("ReadKeys of %.60q = %q; want an error", bad, got)
		}
	}
	if got, err := ReadKeys(nil); got != nil || err != nil {
		t.Errorf("ReadKeys of none = %q, %v", got, err)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ0 me")
	f.Fuzz(func(t *testing.T, line string) {
		key, err := ParseKey(line)
		if err != nil {
			return
		}
		if again, err := ParseKey(key); err != nil || again != key {
			t.Errorf("ParseKey(%q) = %q, and of that %q, %v", line, key, again, err)
		}
	})
}
