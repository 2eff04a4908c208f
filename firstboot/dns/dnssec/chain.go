package dnssec

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// cut is what lies at a name: a secure zone, an insecure one, or nothing that begins a zone.
type cut struct {
	zone     zone // with keys: a secure zone begins here
	insecure bool // from here on nothing is signed
	err      error
	until    time.Time
	timed    bool // found out while the clock showed a time
}

// Bounds of the memory of cuts.
const (
	maxCuts = 4096
	// maxCutBytes is about what the keys of all cuts take: zones, and their keys, can be anybody's.
	maxCutBytes = 4 << 20
	// badCut is how long a failure is remembered (RFC 4035 section 4.7), in which nobody is asked again.
	badCut = 10 * time.Second
	// patience bounds finding out about one cut, whoever waits for it.
	patience = 10 * time.Second
)

func equalHex(a, b string) bool {
	x, err1 := hex.DecodeString(a)
	y, err2 := hex.DecodeString(b)
	return err1 == nil && err2 == nil && slices.Equal(x, y)
}

// security walks from the root to a name: to the zone that is to sign it, or to where nothing is signed any more.
func (v *Validator) security(ctx context.Context, b *budget, name string) (zone, Security, error) {
	name = dns.CanonicalName(name)
	root, err := v.cutAt(ctx, b, ".", zone{})
	if err != nil {
		return zone{}, Insecure, err
	}
	z := root.zone
	if root.insecure {
		return z, Insecure, nil
	}
	for labels := 1; labels <= dns.CountLabel(name); labels++ {
		c, err := v.cutAt(ctx, b, ancestor(name, labels), z)
		switch {
		case err != nil:
			return zone{}, Insecure, err
		case c.insecure:
			return zone{}, Insecure, nil
		case c.zone.keys != nil:
			z = c.zone
		}
	}
	return z, Secure, nil
}

// cutAt tells what lies at a name in a secure zone; one question at a time asks about each.
func (v *Validator) cutAt(ctx context.Context, b *budget, name string, above zone) (cut, error) {
	if v.unsigned[name] {
		return cut{insecure: true}, nil
	}
	now, timed := v.timed()
	v.mu.Lock()
	c, known := v.cuts[name]
	v.mu.Unlock()
	if known && c.until.After(now) && (c.timed || !timed) {
		return c, c.err
	}
	wait := v.flights.DoChan(name, func() (any, error) {
		// Whoever asked first may give up: others wait for the same, and the next asks again anyway.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		c, ttl := v.findCut(ctx, newBudget(), name, above)
		c.until, c.timed = v.clock().Add(min(ttl, maxCut)), timed
		v.remember(name, c)
		return c, nil
	})
	if b.questions -= 2; b.questions < 0 { // what it took, at most, counts for who needs it
		return cut{}, errBudget
	}
	select {
	case r := <-wait:
		c = r.Val.(cut)
		return c, c.err
	case <-ctx.Done():
		return cut{}, ctx.Err()
	}
}

func (v *Validator) remember(name string, c cut) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bytes += c.size() - v.cuts[name].size()
	v.cuts[name] = c
	for other, old := range v.cuts { // any: the map begins anywhere, and what is needed again is asked again
		if len(v.cuts) <= maxCuts && v.bytes <= maxCutBytes {
			break
		}
		if other != name {
			v.bytes -= old.size()
			delete(v.cuts, other)
		}
	}
}

// size is about what the keys of a cut take, in bytes.
func (c cut) size() (n int) {
	const key = 160 // beside its text
	for _, k := range c.zone.keys {
		n += key + len(k.PublicKey)
	}
	return n
}

// findCut finds out what lies at a name.
func (v *Validator) findCut(ctx context.Context, b *budget, name string, above zone) (cut, time.Duration) {
	failed := func(err error) (cut, time.Duration) {
		var wrong *Bogus
		if !errors.As(err, &wrong) {
			err = &Bogus{dns.ExtendedErrorCodeDNSSECIndeterminate, "the chain to " + name + " cannot be had: " + err.Error()}
		}
		return cut{err: err}, badCut
	}
	trusted, ttl := v.anchors, maxCut
	if name != "." {
		var c cut
		var err error
		if trusted, ttl, c, err = v.delegation(ctx, b, name, above); err != nil {
			return failed(err)
		}
		if len(trusted) == 0 {
			return c, ttl
		}
	}
	m, err := v.ask(ctx, b, name, dns.TypeDNSKEY)
	if err != nil {
		return failed(err)
	}
	keys := find(setsOf(m.Answer), name, dns.TypeDNSKEY)
	z, security, err := v.keysOf(b, name, trusted, keys)
	if err != nil {
		return failed(err)
	}
	return cut{zone: z, insecure: security == Insecure}, min(ttl, seconds(keys.ttl()))
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

// delegation asks the zone above for the DS of a name: these, or what their absence means.
func (v *Validator) delegation(ctx context.Context, b *budget, name string, above zone) (trusted []*dns.DS,
	ttl time.Duration, c cut, err error) {
	m, err := v.ask(ctx, b, name, dns.TypeDS)
	if err != nil {
		return nil, 0, c, err
	}
	sets := setsOf(m.Answer)
	if s := find(sets, name, dns.TypeDS); s != nil {
		sig, err := v.verify(b, above, s)
		if err != nil {
			return nil, 0, c, err
		}
		if _, wild := expanded(s, sig); wild {
			return nil, 0, c, bogus(dns.ExtendedErrorCodeDNSBogus, "a DS of %s comes of a wildcard", name)
		}
		for _, rr := range s.rrs {
			if ds, ok := rr.(*dns.DS); ok {
				trusted = append(trusted, ds)
			}
		}
		return trusted, seconds(s.ttl()), c, nil
	}
	// An alias cannot begin a zone (RFC 1034 section 3.6.2), nor can what a DNAME sends elsewhere.
	for _, s := range sets {
		if s.kind != dns.TypeCNAME && s.kind != dns.TypeDNAME || len(s.rrs) == 0 {
			continue
		}
		if s.name == name && s.kind == dns.TypeCNAME || s.kind == dns.TypeDNAME && s.name != name &&
			dns.IsSubDomain(s.name, name) {
			if _, err := v.verify(b, above, s); err == nil {
				return nil, seconds(s.ttl()), c, nil
			}
		}
	}
	d, err := v.denials(b, above, m)
	if err != nil {
		return nil, 0, c, err
	}
	what, err := d.delegation(b, name)
	c.insecure = what == insecureCut
	return nil, seconds(d.ttl), c, err
}
