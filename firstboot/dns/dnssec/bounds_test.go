package dnssec

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// TestWorkIsBounded: a zone made to cost (CVE-2023-50387) costs a few verifications and is bogus.
func TestWorkIsBounded(t *testing.T) {
	v := validator(t, &upstream{tree: theTree(t)})
	key := &dns.DNSKEY{Hdr: dns.RR_Header{Name: "evil.test.", Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 60},
		Flags: 256, Protocol: 3, Algorithm: dns.ECDSAP256SHA256}
	if _, err := key.Generate(256); err != nil {
		t.Fatal(err)
	}
	z := zone{name: "evil.test."}
	for range 100 { // of one tag
		z.keys = append(z.keys, key)
	}
	s := &set{name: "www.evil.test.", kind: dns.TypeA, rrs: []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "www.evil.test.",
		Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: []byte{192, 0, 2, 1}}}}
	for range 100 {
		s.sigs = append(s.sigs, &dns.RRSIG{Hdr: dns.RR_Header{Name: s.name, Rrtype: dns.TypeRRSIG, Class: dns.ClassINET,
			Ttl: 60}, TypeCovered: dns.TypeA, Algorithm: key.Algorithm, Labels: 3, OrigTtl: 60, Expiration: 1<<32 - 1,
			KeyTag: key.KeyTag(), SignerName: z.name, Signature: strings.Repeat("QUFB", 21) + "QQ=="})
		now, _ := v.timed()
		sig := s.sigs[len(s.sigs)-1]
		sig.Inception, sig.Expiration = uint32(now.Unix())-60, uint32(now.Unix())+60
	}
	b := newBudget()
	all := b.verifications
	_, err := v.verify(b, z, s)
	if used := all - b.verifications; !errors.Is(err, errBudget) || used > maxSignatures*maxSameTag || used == 0 {
		t.Errorf("100 signatures and 100 keys: %v after %d verifications; want errBudget after 1 to %d", err, used,
			maxSignatures*maxSameTag)
	}
	var many []dns.RR
	for range maxKeys + 1 {
		many = append(many, key)
	}
	if _, _, err := v.keysOf(newBudget(), z.name, nil, &set{rrs: many}); !errors.Is(err, errBudget) {
		t.Errorf("%d keys: %v; want errBudget", len(many), err)
	}
}

// TestHashingIsBounded: CVE-2023-50868.
func TestHashingIsBounded(t *testing.T) {
	d := &denial{zone: "test.", hashes: map[string]string{}, nsec3: []*dns.NSEC3{{Hdr: dns.RR_Header{
		Name: strings.Repeat("a", 32) + ".test."}, Hash: dns.SHA1, Iterations: maxIterations, NextDomain: "b"}}}
	b := newBudget()
	name := strings.Repeat("x.", 120) + "test."
	if _, err := d.noName(b, name); err == nil {
		t.Error("a name of 121 labels was denied by one NSEC3; want an error")
	}
	if b.hashes < 0 || b.hashes > maxIterations {
		t.Errorf("%d rounds of hashing are left; want them used up, and no more", b.hashes)
	}
}

// TestMemoryIsBounded: cuts of names that anybody can ask for.
func TestMemoryIsBounded(t *testing.T) {
	v := validator(t, &upstream{tree: theTree(t)})
	now, _ := v.timed()
	for i := range 3 * maxCuts {
		v.remember(fmt.Sprint(i, "."), cut{until: now.Add(maxCut)})
	}
	if len(v.cuts) != maxCuts {
		t.Errorf("%d cuts are remembered; want %d", len(v.cuts), maxCuts)
	}
	large := &dns.DNSKEY{PublicKey: strings.Repeat("A", maxKeyText)}
	z := zone{}
	for range maxKeys {
		z.keys = append(z.keys, large)
	}
	for i := range maxCuts {
		v.remember(fmt.Sprint(i, "."), cut{zone: z, until: now.Add(maxCut)})
	}
	sum := 0
	for _, c := range v.cuts {
		sum += c.size()
	}
	if sum > maxCutBytes || sum != v.bytes || sum == 0 {
		t.Errorf("the keys of cuts take %d bytes, %d are counted; want %d at most", sum, v.bytes, maxCutBytes)
	}
}

// fuzzed answers every question but those of the chain with a packet of the fuzzer's making.
type fuzzed struct {
	*upstream
	name   string
	packet []byte
}

func (f *fuzzed) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	if q.Question[0].Name != f.name {
		return f.upstream.Exchange(ctx, q)
	}
	m := new(dns.Msg)
	if err := m.Unpack(f.packet); err != nil {
		return nil, err
	}
	return m, nil
}

// FuzzValidate: whatever an upstream says of a name, it is no more than the zone's owner signed.
func FuzzValidate(f *testing.F) {
	u := &upstream{tree: theTree(f)}
	names := []string{"www.nsec.test.", "x.wild.nsec3.test.", "nothing.nsec3.test.", "x.d.nsec.test."}
	for i, name := range names {
		m, err := u.Exchange(f.Context(), question(name, a, true))
		if err != nil {
			f.Fatal(err)
		}
		packet, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i, packet)
	}
	f.Fuzz(func(t *testing.T, which int, packet []byte) {
		name := names[uint(which)%uint(len(names))]
		v, err := New(&fuzzed{u, name, packet}, Config{Anchors: u.anchors})
		if err != nil {
			t.Fatal(err)
		}
		m, err := v.Exchange(t.Context(), question(name, a, true))
		if err != nil || !m.AuthenticatedData {
			return
		}
		want, err := u.Exchange(t.Context(), question(name, a, true))
		if err != nil {
			t.Fatal(err)
		}
		if m.Rcode != want.Rcode {
			t.Fatalf("%s is %v, signed is %v", name, m, want)
		}
		signed := map[string]bool{}
		for _, rr := range want.Answer {
			rr.Header().Ttl = 0
			signed[strings.ToLower(rr.String())] = true
		}
		for _, rr := range m.Answer {
			rr.Header().Ttl = 0
			if rr.Header().Rrtype != dns.TypeRRSIG && !signed[strings.ToLower(rr.String())] {
				t.Fatalf("%v is believed, signed is %v", rr, want.Answer)
			}
		}
	})
}
