package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/profiles"
)

func sample() *Identity {
	return &Identity{
		Hostname: "fw-2",
		Links: []Link{
			{Name: "lan0", MAC: "00:16:3e:01:02:03"},
			{Name: "wan", MAC: "52:54:00:aa:bb:cc", Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.9/32"),
				netip.MustParsePrefix("2001:db8::9/64")}, Gateways: []netip.Addr{netip.MustParseAddr("198.51.100.1")}},
		},
		Secrets: []Secret{
			{ConsumerSSH, SSHHostKey, []byte("a key")},
			{ConsumerWireGuard, "wg0", []byte("k0")},
			{ConsumerWireGuard, "wg0/office", []byte("k1")},
		},
		Seed: bytes.Repeat([]byte{7}, minSeed),
	}
}

func TestRoundTrip(t *testing.T) {
	for _, id := range []*Identity{{}, sample()} {
		b, err := id.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if len(b) == 0 || len(b)%Sector != 0 {
			t.Errorf("Encode() has %d bytes; want whole sectors of %d", len(b), Sector)
		}
		// A disk may be larger than the image on it.
		got, err := Decode(append(b, make([]byte, 3*Sector)...))
		if err != nil || !reflect.DeepEqual(got, id) {
			t.Errorf("Decode(Encode(%+v)) = %+v, %v; want the same", id, got, err)
		}
	}
}

func TestEncodeIsDeterministic(t *testing.T) {
	a, b := sample(), sample()
	b.Links[0], b.Links[1] = b.Links[1], b.Links[0]
	b.Secrets[0], b.Secrets[2] = b.Secrets[2], b.Secrets[0]
	first, err := a.Encode()
	second, err2 := b.Encode()
	if err != nil || err2 != nil || !bytes.Equal(first, second) {
		t.Errorf("two orders of the same identity are %d and %d bytes (%v, %v); want the same bytes", len(first),
			len(second), err, err2)
	}
	if b.Links[0].Name != "wan" {
		t.Error("Encode() changed the order of what it was given")
	}
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	b, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	used := headerSize + int(binary.BigEndian.Uint32(b[12:]))
	for i := range used * 8 {
		bad := bytes.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := Decode(bad); !errors.Is(err, ErrFormat) {
			t.Fatalf("Decode with bit %d flipped = %v; want %v", i, err, ErrFormat)
		}
	}
	for _, n := range []int{0, 1, headerSize - 1, headerSize, used - 1} {
		if _, err := Decode(b[:n]); !errors.Is(err, ErrFormat) {
			t.Errorf("Decode of the first %d bytes = %v; want %v", n, err, ErrFormat)
		}
	}
}

// seal is an image of any payload, with the right digest.
func seal(payload string) []byte {
	b := append([]byte(Magic), 0, 0, 0, Version)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	digest := sha256.Sum256(append(bytes.Clone(b), payload...))
	return append(append(b, digest[:]...), payload...)
}

func TestDecodeIsStrict(t *testing.T) {
	if _, err := Decode(seal(`{"hostname":"fw-1"}`)); err != nil {
		t.Fatalf("Decode of a plain identity = %v", err)
	}
	for _, payload := range []string{
		``, `null`, `[]`, `{} {}`, ` {}`, `{"hostname": "fw-1"}`, `{"hostname":"fw-1","hostname":"fw-2"}`,
		`{"Hostname":"fw-1"}`, `{"unknown":1}`, `{"hostname":"FW"}`, `{"hostname":"a..b"}`, `{"seed":"AAAA"}`,
		`{"links":[{"name":"b"},{"name":"a"}]}`, `{"links":[{"name":"a"},{"name":"a"}]}`, `{"links":[{"name":"../x"}]}`,
		`{"links":[{"name":"a","mac":"01:00:5e:00:00:01"}]}`, `{"links":[{"name":"a","mac":"00:16:3E:00:00:01"}]}`,
		`{"links":[{"name":"a","mac":"00:16:3e:00:00:01"},{"name":"b","mac":"00:16:3e:00:00:01"}]}`,
		`{"links":[{"name":"a","addresses":["224.0.0.1/4"]}]}`, `{"links":[{"name":"a","gateways":["::"]}]}`,
		`{"secrets":[{"consumer":"ssh","name":"../x","value":"AA=="}]}`,
		`{"secrets":[{"consumer":"..","name":"x","value":"AA=="}]}`,
		`{"secrets":[{"consumer":"ssh","name":".x","value":"AA=="}]}`,
		`{"secrets":[{"consumer":"ssh","name":"a/../b","value":"AA=="}]}`,
		`{"secrets":[{"consumer":"ssh","name":"x","value":""}]}`,
	} {
		if id, err := Decode(seal(payload)); !errors.Is(err, ErrFormat) {
			t.Errorf("Decode(%s) = %+v, %v; want %v", payload, id, err, ErrFormat)
		}
	}
}

func TestErrorsShowNoSecret(t *testing.T) {
	for _, payload := range []string{
		`{"secrets":[{"consumer":"ssh","name":"x","value":"hunter2!"}]}`,
		`{"secrets":[{"consumer":"ssh","name":"x","value":{"hunter2":1}}]}`,
		`{"secrets":[{"consumer":"ssh","name":"x","hunter2":"AA=="}]}`,
		`{"secrets":[{"consumer":"ssh","name":"x","value":"hunter2"`,
	} {
		if _, err := Decode(seal(payload)); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Decode(%s) = %v; want an error without what it holds", payload, err)
		}
	}
}

func TestCheckTellsAllAtOnce(t *testing.T) {
	id := &Identity{Hostname: "No", Links: []Link{{Name: "a", MAC: "x"}}, Secrets: []Secret{{"ssh", "k", nil}}}
	err := id.Check()
	for _, want := range []string{"host name", "MAC", "0 bytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Check() = %v; want it to tell of %q too", err, want)
		}
	}
	if _, err := id.Encode(); err == nil {
		t.Error("Encode() of what Check refuses = nil; want an error")
	}
	huge := &Identity{}
	for _, n := range strings.Split("abcdefghijklmnopqrstuvwxyz", "") {
		huge.SetSecret("ssh", n, make([]byte, maxSecret))
	}
	if _, err := huge.Encode(); err == nil {
		t.Errorf("Encode() of %d secrets of %d bytes = nil; want an error: it is over %d", len(huge.Secrets), maxSecret,
			MaxSize)
	}
}

func TestSecrets(t *testing.T) {
	id := sample()
	id.SetSecret(ConsumerWireGuard, "wg0", []byte("new"))
	id.SetSecret(ConsumerSSH, SSHAuthorizedKeys, []byte("ssh-ed25519 AAAA"))
	if got := string(id.Secret(ConsumerWireGuard, "wg0")); got != "new" || len(id.Secrets) != 4 {
		t.Errorf("wireguard/wg0 = %q among %d secrets; want it replaced, and one more", got, len(id.Secrets))
	}
	if got := id.Secret(ConsumerWireGuard, "wg1"); got != nil {
		t.Errorf("Secret of none = %q; want nil", got)
	}
	const want = "/run/rempart/identity/wireguard/wg0:office"
	if got := SecretPath(ConsumerWireGuard, "wg0/office"); got != want {
		t.Errorf("SecretPath() = %s; want %s", got, want)
	}
	for _, c := range Consumers() {
		if id, ok := Owner(c); !ok || id == contract.UIDRoot {
			t.Errorf("Owner(%s) = %d, %v; want a user without privileges", c, id, ok)
		}
	}
	if _, ok := Owner("nobody-knows"); ok {
		t.Error("Owner of an unknown consumer = true; want false")
	}
}

func TestApply(t *testing.T) {
	p := &profiles.Profile{Name: "fw-1", Links: []profiles.Link{{Name: "lan0"}, {Name: "wan", MAC: "52:54:00:00:00:01"},
		{Name: "br0", Bridge: &profiles.Bridge{}}}}
	f := Facts{Hostname: "fw-2", Links: []Link{{Name: "wan", MAC: "00:16:3e:00:00:02"},
		{Name: "br0", MAC: "00:16:3e:00:00:03"}, {Name: "gone", MAC: "00:16:3e:00:00:04"}, {Name: "lan0"}}}
	f.Apply(p)
	got := []string{p.Name, p.Links[0].MAC, p.Links[1].MAC, p.Links[2].MAC}
	if want := []string{"fw-2", "", "00:16:3e:00:00:02", ""}; !reflect.DeepEqual(got, want) {
		t.Errorf("Apply makes name and MACs %q; want %q", got, want)
	}
	Facts{}.Apply(p)
	if p.Name != "fw-2" {
		t.Errorf("no facts make the name %q; want it left", p.Name)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := sample().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(seal(`{}`))
	f.Add(seal(`{"links":[{"name":"a","addresses":["::ffff:192.0.2.1/120"]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		// The digest would stop nearly everything at the door: what is behind it is tried too.
		for _, image := range [][]byte{b, seal(string(b))} {
			id, err := Decode(image)
			if err != nil {
				continue
			}
			again, err := id.Encode()
			if err != nil {
				t.Fatalf("Encode of what was decoded = %v", err)
			}
			if n := headerSize + int(binary.BigEndian.Uint32(image[12:])); !bytes.Equal(again[:n], image[:n]) {
				t.Fatalf("decoded and encoded again it is other bytes")
			}
		}
	})
}
