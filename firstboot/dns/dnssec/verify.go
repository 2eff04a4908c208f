package dnssec

import (
	"slices"
	"time"

	"github.com/miekg/dns"
)

// budget is what one validation may cost. An honest chain of five zones takes some 20 verifications and 10 questions.
type budget struct {
	verifications int // of signatures with public keys, the costly part
	questions     int
	hashes        int // rounds of NSEC3 hashing
}

// Bounds of a set: what is beyond is not tried (CVE-2023-50387). Keys of one tag come by chance in one zone of 65,536.
const (
	maxSignatures = 8 // of one set
	maxSameTag    = 4 // keys that a signature is tried with
	maxKeys       = 32
	// maxKeyText is the longest key that can verify anything, in base64: RSA of 4096 bits with an exponent of 4 bytes.
	maxKeyText    = (1 + 4 + 512 + 2) / 3 * 4
	maxSetRecords = 256
)

func newBudget() *budget { return &budget{verifications: 64, questions: 64, hashes: 4096} }

// set are the records of one name and type, with their signatures.
type set struct {
	name string // canonical
	kind uint16
	rrs  []dns.RR
	sigs []*dns.RRSIG
}

// setsOf groups records.
func setsOf(rrs []dns.RR) (sets []*set) {
	type key struct {
		name string
		kind uint16
	}
	at := map[key]*set{}
	get := func(name string, kind uint16) *set {
		k := key{dns.CanonicalName(name), kind}
		if at[k] == nil {
			at[k] = &set{name: k.name, kind: kind}
			sets = append(sets, at[k])
		}
		return at[k]
	}
	for _, rr := range rrs {
		h := rr.Header()
		if h.Class != dns.ClassINET || h.Rrtype == dns.TypeOPT {
			continue
		}
		if sig, ok := rr.(*dns.RRSIG); ok {
			s := get(h.Name, sig.TypeCovered)
			s.sigs = append(s.sigs, sig)
			continue
		}
		s := get(h.Name, h.Rrtype)
		s.rrs = append(s.rrs, rr)
	}
	return sets
}

// find is the set of a name and type that holds records.
func find(sets []*set, name string, kind uint16) *set {
	for _, s := range sets {
		if s.kind == kind && s.name == name && len(s.rrs) > 0 {
			return s
		}
	}
	return nil
}

// records are the set's own and its signatures.
func (s *set) records() []dns.RR {
	all := slices.Clone(s.rrs)
	for _, sig := range s.sigs {
		all = append(all, sig)
	}
	return all
}

// ttl is the time to live of the set in seconds: the least of its records.
func (s *set) ttl() uint32 {
	least := s.rrs[0].Header().Ttl
	for _, rr := range s.rrs[1:] {
		least = min(least, rr.Header().Ttl)
	}
	return least
}

// limit gives no record longer to live than that.
func (s *set) limit(ttl uint32) {
	for _, rr := range s.records() {
		rr.Header().Ttl = min(rr.Header().Ttl, ttl)
	}
}

// zone is a secure zone with its keys.
type zone struct {
	name string
	keys []*dns.DNSKEY
}

// supported tells whether signatures of an algorithm are checked (RFC 8624 section 3.1, RFC 9905 for SHA-1).
func supported(algorithm uint8) bool {
	switch algorithm {
	case dns.RSASHA256, dns.RSASHA512, dns.ECDSAP256SHA256, dns.ECDSAP384SHA384, dns.ED25519:
		return true
	}
	return false
}

// supportedDigest tells whether a DS digest is checked (RFC 8624 section 3.3, RFC 9905).
func supportedDigest(kind uint8) bool { return kind == dns.SHA256 || kind == dns.SHA384 }

// verify proves a set by the keys of a zone (RFC 4035 section 5.3) and limits its time to live. It returns the
// signature that holds.
func (v *Validator) verify(b *budget, z zone, s *set) (*dns.RRSIG, error) {
	if len(s.rrs) > maxSetRecords {
		return nil, errBudget
	}
	now, timed := v.timed()
	why := bogus(dns.ExtendedErrorCodeRRSIGsMissing, "%s %s is not signed by %s", s.name, dns.Type(s.kind), z.name)
	labels := dns.CountLabel(s.name)
	for i, sig := range s.sigs {
		signer := dns.CanonicalName(sig.SignerName)
		switch {
		case i >= maxSignatures:
			return nil, errBudget
		case signer != z.name || !dns.IsSubDomain(z.name, s.name) || int(sig.Labels) > labels ||
			int(sig.Labels) < dns.CountLabel(z.name):
			continue
		case !supported(sig.Algorithm):
			continue
		case timed && !sig.ValidityPeriod(now):
			why = bogus(dns.ExtendedErrorCodeSignatureExpired, "the signature of %s %s held until %s", s.name,
				dns.Type(s.kind), dns.TimeToString(sig.Expiration))
			if int32(sig.Inception-uint32(now.Unix())) > 0 { // serial arithmetic, RFC 4034 section 3.1.5
				why = bogus(dns.ExtendedErrorCodeSignatureNotYetValid, "the signature of %s %s holds from %s", s.name,
					dns.Type(s.kind), dns.TimeToString(sig.Inception))
			}
			continue
		}
		tried := 0
		for _, key := range z.keys {
			if key.Algorithm != sig.Algorithm || key.KeyTag() != sig.KeyTag || !usable(key) {
				continue
			}
			if tried++; tried > maxSameTag {
				break
			}
			if b.verifications--; b.verifications < 0 {
				return nil, errBudget
			}
			if sig.Verify(key, s.rrs) == nil {
				ttl := min(s.ttl(), sig.OrigTtl)
				if timed {
					ttl = min(ttl, sig.Expiration-uint32(now.Unix()))
				}
				s.limit(ttl)
				return sig, nil
			}
			why = bogus(dns.ExtendedErrorCodeDNSBogus, "a signature of %s %s is wrong", s.name, dns.Type(s.kind))
		}
		if tried == 0 {
			why = bogus(dns.ExtendedErrorCodeDNSKEYMissing, "%s %s is signed with a key that %s does not have", s.name,
				dns.Type(s.kind), z.name)
		}
	}
	return nil, why
}

// usable tells whether a key may sign records: a zone key (RFC 4034 section 2.1.1) that is not revoked (RFC 5011
// section 2.1).
func usable(k *dns.DNSKEY) bool {
	return k.Flags&dns.ZONE != 0 && k.Flags&dns.REVOKE == 0 && k.Protocol == 3
}

// expanded tells whether a set that sig proves came of a wildcard, and the name next below its closest encloser, which
// then must not exist (RFC 4035 section 5.3.4).
func expanded(s *set, sig *dns.RRSIG) (next string, yes bool) {
	labels := dns.CountLabel(s.name)
	if len(s.name) > 1 && s.name[0] == '*' && s.name[1] == '.' {
		labels-- // the wildcard itself (RFC 4034 section 3.1.3)
	}
	if int(sig.Labels) >= labels {
		return "", false
	}
	return ancestor(s.name, int(sig.Labels)+1), true
}

// ancestor is the part of a name with so many labels.
func ancestor(name string, labels int) string {
	if labels <= 0 {
		return "."
	}
	at := dns.Split(name)
	if len(at) <= labels {
		return name
	}
	return name[at[len(at)-labels]:]
}

func parent(name string) string { return ancestor(name, dns.CountLabel(name)-1) }

// keysOf proves a zone's own keys by the DS records of it: one of the keys they name has signed them all (RFC 4035
// section 5.2). Insecure: none of the DS can be checked.
func (v *Validator) keysOf(b *budget, name string, trusted []*dns.DS, s *set) (zone, Security, error) {
	z := zone{name: name}
	if s == nil {
		return z, Insecure, bogus(dns.ExtendedErrorCodeDNSKEYMissing, "%s has a DS and no DNSKEY", name)
	}
	if len(s.rrs) > maxKeys {
		return z, Insecure, errBudget
	}
	checkable := slices.DeleteFunc(slices.Clone(trusted), func(ds *dns.DS) bool {
		return !supported(ds.Algorithm) || !supportedDigest(ds.DigestType)
	})
	if len(checkable) == 0 {
		return z, Insecure, nil
	}
	var entry []*dns.DNSKEY
	for _, rr := range s.rrs {
		key, ok := rr.(*dns.DNSKEY)
		if !ok || !usable(key) || len(key.PublicKey) > maxKeyText {
			continue
		}
		z.keys = append(z.keys, key)
		for _, ds := range checkable {
			if ds.KeyTag != key.KeyTag() || ds.Algorithm != key.Algorithm {
				continue
			}
			if made := key.ToDS(ds.DigestType); made != nil && equalHex(made.Digest, ds.Digest) {
				entry = append(entry, key)
				break
			}
		}
	}
	if len(entry) == 0 {
		return z, Insecure, bogus(dns.ExtendedErrorCodeDNSKEYMissing, "%s has no key that its parent's DS names", name)
	}
	if _, err := v.verify(b, zone{name, entry}, s); err != nil {
		return z, Insecure, err
	}
	return z, Secure, nil
}

// maxCut bounds how long what was found out about a zone is believed.
const maxCut = time.Hour
