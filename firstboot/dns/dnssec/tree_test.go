package dnssec

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
	zones "rempart/firstboot/dns/zone"
	"rempart/profiles/zonefile"
)

// leaf is a zone below test. in the tree: how it is signed and what is wrong with it.
type leaf struct {
	name string
	args []string // of dnssec-signzone; nil: unsigned
	ds   string   // at the parent: "", "wrong", "none", "sha1"
	// change is done to the records after signing.
	change func([]zonefile.Record) []zonefile.Record
}

const leafText = `$TTL 1h
@ SOA ns hostmaster 1 1h 15m 2w 30m
@ NS ns
ns A 192.0.2.1
www A 192.0.2.2
www AAAA 2001:db8::2
alias CNAME www
away CNAME www.nsec.test.
*.wild A 192.0.2.3
a.b.c TXT "below names that own nothing"
d DNAME c
x.c TXT "through a DNAME"
sub NS ns.sub
ns.sub A 192.0.2.4
`

// leaves are all zones below test.
func leaves() []leaf {
	nsec := []string{}
	hour := func(n int) string { return time.Now().Add(time.Duration(n) * time.Hour).UTC().Format("20060102150405") }
	return []leaf{
		{name: "nsec", args: nsec},
		{name: "nsec3", args: []string{"-3", "aabb"}},
		{name: "optout", args: []string{"-3", "-", "-A"}},
		{name: "insecure"},
		{name: "island", args: nsec, ds: "none"},
		{name: "sha1ds", args: nsec, ds: "sha1"},
		{name: "wrongds", args: nsec, ds: "wrong"},
		{name: "expired", args: []string{"-s", hour(-48), "-e", hour(-24)}},
		{name: "early", args: []string{"-s", hour(24), "-e", hour(48)}},
		{name: "iterations", args: []string{"-3", "aabb", "-H", "51"}},
		{name: "forged", args: nsec, change: forge},
		{name: "unsigned", args: nsec, change: without(func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeRRSIG })},
		{name: "nokeys", args: nsec, change: without(func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeDNSKEY })},
		{name: "hidden", args: nsec, change: without(func(rr dns.RR) bool { // www exists, and the zone is made to deny it
			return strings.HasPrefix(rr.Header().Name, "www.")
		})},
		{name: "hidden3", args: []string{"-3", "aabb"}, change: without(func(rr dns.RR) bool {
			return strings.HasPrefix(rr.Header().Name, "www.")
		})},
		{name: "badsig", args: nsec, change: badSignatures},
	}
}

func without(gone func(dns.RR) bool) func([]zonefile.Record) []zonefile.Record {
	return func(all []zonefile.Record) (kept []zonefile.Record) {
		for _, r := range all {
			if !gone(r.RR) {
				kept = append(kept, r)
			}
		}
		return kept
	}
}

// forge changes an address after it was signed.
func forge(all []zonefile.Record) []zonefile.Record {
	for _, r := range all {
		if a, ok := r.RR.(*dns.A); ok && strings.HasPrefix(a.Hdr.Name, "www.") {
			a.A = []byte{192, 0, 2, 66}
		}
	}
	return all
}

// badSignatures changes a bit of each signature of addresses.
func badSignatures(all []zonefile.Record) []zonefile.Record {
	for _, r := range all {
		if sig, ok := r.RR.(*dns.RRSIG); ok && sig.TypeCovered == dns.TypeA {
			b := []byte(sig.Signature)
			b[10] = map[bool]byte{true: 'B', false: 'A'}[b[10] == 'A']
			sig.Signature = string(b)
		}
	}
	return all
}

// tree is a signed world, with its own root.
type tree struct {
	zones   *zones.Zones
	anchors []dns.RR
}

var world struct {
	sync.Once
	tree
	err error
}

// theTree signs the world once.
func theTree(t testing.TB) tree {
	t.Helper()
	if _, err := exec.LookPath("dnssec-signzone"); err != nil {
		t.Skip("SKIPPED, NOT PASSED: dnssec-signzone (bind9-utils) is not installed; test/setup test installs it")
	}
	world.Do(func() {
		dir, err := os.MkdirTemp("", "dnssec")
		if err != nil {
			world.err = err
			return
		}
		defer os.RemoveAll(dir)
		world.tree, world.err = grow(dir)
	})
	if world.err != nil {
		t.Fatal(world.err)
	}
	return world.tree
}

func grow(dir string) (tree, error) {
	const top = "$TTL 1h\n@ SOA ns.root. host.root. 1 1h 15m 2w 30m\n@ NS ns.root.\nns.root. A 192.0.2.53\n"
	var configs []zones.Config
	parent := top
	for _, l := range leaves() {
		origin := l.name + ".test."
		records, ds, err := signed(dir, origin, leafText, l.args)
		if err != nil {
			return tree{}, err
		}
		if l.change != nil {
			records = l.change(records)
		}
		configs = append(configs, zones.Config{Origin: origin, Records: records})
		parent += fmt.Sprintf("%s NS ns.%[1]s\nns.%[1]s A 192.0.2.1\n", l.name)
		for _, d := range ds {
			switch l.ds {
			case "none":
				continue
			case "wrong":
				d.Digest = strings.Repeat("00", len(d.Digest)/2)
			case "sha1":
				d.DigestType, d.Digest = dns.SHA1, d.Digest[:40]
			}
			parent += d.String() + "\n"
		}
	}
	parent = strings.ReplaceAll(parent, "@ NS ns.root.\nns.root. A 192.0.2.53\n", "@ NS ns.root.\n")
	records, ds, err := signed(dir, "test.", parent, []string{"-3", "cc"})
	if err != nil {
		return tree{}, err
	}
	configs = append(configs, zones.Config{Origin: "test.", Records: records})
	root := top + "test. NS ns.root.\nunsigned. NS ns.root.\n"
	for _, d := range ds {
		root += d.String() + "\n"
	}
	records, anchors, err := signed(dir, ".", root, []string{})
	if err != nil {
		return tree{}, err
	}
	configs = append(configs, zones.Config{Origin: ".", Records: records})
	var w tree
	for _, d := range anchors {
		w.anchors = append(w.anchors, d)
	}
	w.zones, err = zones.New(configs)
	return w, err
}

// signed signs a zone with BIND's tools and returns its records, and the DS of its key.
func signed(dir, origin, text string, args []string) (records []zonefile.Record, anchors []*dns.DS, err error) {
	file := filepath.Join(dir, "zone")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, nil, err
	}
	name := "zone"
	if args != nil {
		for _, command := range [][]string{
			{"dnssec-keygen", "-K", dir, "-a", "ECDSAP256SHA256", "-f", "KSK", origin},
			{"dnssec-keygen", "-K", dir, "-a", "ECDSAP256SHA256", origin},
			append(append([]string{"dnssec-signzone"}, args...), "-S", "-P", "-K", dir, "-d", dir, "-o", origin, "-f",
				"signed", file),
		} {
			cmd := exec.Command(command[0], command[1:]...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				return nil, nil, fmt.Errorf("%v: %w\n%s", command, err, out)
			}
		}
		name = "signed"
	}
	read, findings := zonefile.Read(os.DirFS(dir), name, origin)
	records, more := zonefile.Check(origin, read)
	for _, f := range append(findings, more...) {
		if !f.Warning {
			return nil, nil, fmt.Errorf("%s: %v", origin, f)
		}
	}
	for _, r := range records {
		if key, ok := r.RR.(*dns.DNSKEY); ok && key.Flags&dns.SEP != 0 {
			anchors = append(anchors, key.ToDS(dns.SHA256))
		}
	}
	return records, anchors, nil
}

// upstream answers all questions, as a forwarder does, and counts them.
type upstream struct {
	tree
	mu     sync.Mutex
	asked  []string
	change func(*dns.Msg)
}

func (u *upstream) Exchange(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	u.mu.Lock()
	u.asked = append(u.asked, query.Question[0].Name+" "+dns.Type(query.Question[0].Qtype).String())
	u.mu.Unlock()
	m, ok := u.zones.Answer(ctx, &answer.Query{Msg: query, From: netip.MustParseAddr("192.0.2.99"), Link: "lan", TCP: true,
		Recurse: false})
	if !ok {
		return nil, fmt.Errorf("%v is in no zone", query.Question)
	}
	if u.change != nil {
		u.change(m)
	}
	return m, nil
}
