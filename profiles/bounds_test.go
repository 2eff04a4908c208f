package profiles

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUnusable holds the inputs that are no profile at all: each must be one finding with a place.
func TestUnusable(t *testing.T) {
	large := "rempart: 1\n" + strings.Repeat("# a comment of some length\n", 10<<20/27)
	for _, c := range []struct{ name, src, want string }{
		{"10 MB", large, "fw.yaml:1:1: the profile is larger than 1024 KiB; is this the right file?"},
		{"ELF", "\x7fELF\x02\x01\x01\x00",
			"fw.yaml:1:1: control character 0x7f: this is not a text file; is this the right file?"},
		{"gzip", "\x1f\x8b\x08\x00", "fw.yaml:1:1: control character 0x1f: this is not a text file; is this the right file?"},
		{"NUL", "name: fw\n\tx: \x00",
			"fw.yaml:2:5: control character 0x00: this is not a text file; is this the right file?"},
		{"Latin-1", "# caf\u00e9s\nname: b\xe4r\n", "fw.yaml:2:8: byte 0xe4 is not UTF-8 text; save the file as UTF-8"},
		{"UTF-16", "\xff\xfer\x00", "fw.yaml:1:1: byte 0xff is not UTF-8 text; save the file as UTF-8"},
		{"empty", "", "fw.yaml:1:1: the profile is empty; `rempart new home-firewall` prints one to start from"},
		{"blank", "\n \n", "fw.yaml:1:1: the profile is empty; `rempart new home-firewall` prints one to start from"},
		{"byte order mark and CRLF", "\ufeffrempart: 1\r\nname: [fw\r\n",
			"fw.yaml:2:1: not YAML: did not find expected ',' or ']'; a bracket, brace or quote is opened and not closed"},
		{"deep", strings.Repeat("[", 100000), ""},
		{"deep and closed", strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
			"fw.yaml:1:17: nested deeper than 16 levels; no part of a profile needs that"},
		{"bomb", "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			p, err := Parse("fw.yaml", []byte(c.src))
			var invalid Invalid
			if p != nil || !errors.As(err, &invalid) || len(invalid) == 0 {
				t.Fatalf("Parse(%s) = %v, %v; want Invalid", c.name, p, err)
			}
			if c.want != "" && err.Error() != c.want {
				t.Errorf("Parse(%s) says %q; want %q", c.name, err, c.want)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("Parse(%s) took %v; want less than 5 s", c.name, took)
			}
		})
	}
}

// TestManyFindings shows that a file full of errors is told in bounds.
func TestManyFindings(t *testing.T) {
	src := "rempart: 1\npolicy:\n" + strings.Repeat("  - home -> self: pong\n", 500)
	_, err := Parse("fw.yaml", []byte(src))
	var invalid Invalid
	if !errors.As(err, &invalid) || len(invalid) != maxFindings+1 {
		t.Fatalf("Parse finds %d things; want %d and one that says there are more", len(invalid), maxFindings)
	}
	if last := invalid[maxFindings].What; last != "more findings follow" {
		t.Errorf("the last finding is %q; want it to say that more follow", last)
	}
}

// TestBounds shows that every list of the language has a bound, and that Decode keeps the same ones.
func TestBounds(t *testing.T) {
	base := "rempart: 1\nname: fw\nadmin: none\n"
	one := base + "links: {a: {address: 10.0.0.1/24}}\nzones: {home: a}\n"
	many := func(n int, f func(i int) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(f(i))
		}
		return b.String()
	}
	for _, c := range []struct{ name, src, want string }{
		{"links", base + "zones: {home: a0}\nlinks:\n" + many(maxLinks+1, func(i int) string {
			return fmt.Sprintf("  a%d: {address: 10.0.%d.1/24}\n", i, i)
		}), "links: 65 entries, expected at most 64"},
		{"NICs of Xen", base + "zones: {home: a0}\nlinks:\n" + many(MaxXenNICs+1, func(i int) string {
			return fmt.Sprintf("  a%d: {address: 10.0.%d.1/24, match: {xen: %d}}\n", i, i, i)
		}), "links: 58 NICs, and match.xen says that Xen makes them: it gives a guest 57 at most"},
		{"zones", base + "links: {a: {address: 10.0.0.1/24}}\nzones:\n" + many(maxZones+1, func(i int) string {
			return fmt.Sprintf("  z%d: {link: a, prefix: 10.0.0.%d}\n", i, i+1)
		}), "zones: 65 entries, expected at most 64"},
		{"policy", one + "policy:\n" + strings.Repeat("  - home -> self: ping\n", maxPolicy+1),
			"policy: 20001 elements, expected at most 20000"},
		{"services", one + "policy:\n  - home -> self: [" + strings.Repeat("ping, ", maxServices+1) + "]\n",
			"policy: home -> self: 65 elements, expected at most 64"},
		{"matches", one + "policy:\n" +
			strings.Repeat("  - home -> self: ["+strings.Repeat("ping, ", maxServices)+"]\n", 630),
			"policy: more than 20000 rules, or 40000 services and addresses, or 262144 services for each pair"},
		{"forwards", one + "forwards:\n" + strings.Repeat("  - {from: home, tcp: 1, to: 10.0.0.2}\n", maxForwards+1),
			"forwards: 1025 elements, expected at most 1024"},
		{"ports", one + "forwards: [{from: home, to: 10.0.0.2, snat: self, tcp: [" +
			many(maxPorts+1, func(i int) string { return fmt.Sprintf("%d,", i+1) }) + "]}]\n",
			"forwards.tcp: 257 elements, expected at most 256"},
		{"ports in all", one + "forwards:\n" + many(64, func(i int) string {
			ports := many(129, func(j int) string { return fmt.Sprintf("%d,", i*129+j+1) })
			return "  - {from: home, to: 10.0.0.2, snat: self, tcp: [" + ports + "]}\n"
		}), "forwards: more than 4096, or 8192 ports or 8192 sources, in all"},
		{"prefixes in all", base + "links: {a: {address: 10.0.0.1/8}}\nzones:\n" + many(5, func(i int) string {
			prefixes := many(1000, func(j int) string { return fmt.Sprintf("10.%d.%d.%d,", i, j/256, j%256) })
			return fmt.Sprintf("  z%d: {link: a, prefix: [%s]}\n", i, prefixes)
		}) + "admin: {from: 10.0.0.5}\npolicy: [z0 -> self: {ssh: {from: 10.0.0.1}}]\n" +
			"forwards: [{from: z0, tcp: 22, to: 10.0.0.9}]\n",
			"zones: more than 4096 prefixes in all"},
		{"hosts", one + "hosts:\n" + many(maxHosts+1, func(i int) string {
			return fmt.Sprintf("  h%d: 10.0.0.2\n", i)
		}), "hosts: 4097 entries, expected at most 4096"},
		{"masquerade", one + "masquerade: [" + strings.Repeat("home -> home,", maxPairs+1) + "]\n",
			"masquerade: 1025 elements, expected at most 1024"},
		{"addresses", base + "zones: {home: a}\nlinks: {a: {address: [" + many(maxAddresses+1, func(i int) string {
			return fmt.Sprintf("10.0.0.%d/24,", i+1)
		}) + "]}}\n", "links.a.address: 65 elements, expected at most 64"},
		{"prefixes", base + "links: {a: {address: 10.0.0.1/8}}\nzones: {home: {link: a, prefix: [" +
			many(maxPrefixes+1, func(i int) string { return fmt.Sprintf("10.1.%d.%d,", i/256, i%256) }) + "]}}\n",
			"zones.home.prefix: 1025 elements, expected at most 1024"},
	} {
		_, err := Parse("fw.yaml", []byte(c.src))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Parse of too many %s: %v; want it to say %q", c.name, err, c.want)
		}
	}
}

// TestHostileSizes reads the largest inputs of the kinds that make a parser or a comparison of all with all slow.
func TestHostileSizes(t *testing.T) {
	// Of processors, whatever else the machine does. The slowest takes 2 s, under the race detector 20; without bounds
	// some take hours then.
	const bearable = time.Minute
	worked := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	const size = MaxSource - 100
	fill := func(s string) string { return strings.Repeat(s, size/len(s)) }
	grow := func(f func(i int) string) string {
		var b strings.Builder
		for i := 0; ; i++ {
			s := f(i)
			if b.Len()+len(s) > size {
				return b.String()
			}
			b.WriteString(s)
		}
	}
	head := "rempart: 1\nname: a\nadmin: none\nlinks: {a: {address: 10.0.0.1/8}}\n"
	for name, src := range map[string]string{
		"lists in lists": fill("- "),
		"brackets":       fill("["),
		"braces":         fill("{"),
		"complex keys":   fill("? "),
		"keys":           grow(func(i int) string { return fmt.Sprintf("k%d: 1\n", i) }),
		"one key":        fill("a: 1\n"),
		"indentation":    grow(func(i int) string { return strings.Repeat(" ", i) + "a:\n" }),
		"anchors":        grow(func(i int) string { return fmt.Sprintf("k%d: &a%d 1\n", i, i) }),
		"late error":     fill("k: [1]\n") + "a: ]\n",
		"long word":      "a: *" + fill("x"),
		"policy":         "rempart: 1\npolicy:\n" + fill("  - a -> b: [tcp/1, tcp/2]\n"),
		"prefixes":       head + "zones: {z: {link: a, prefix: [" + fill("10.0.0.0/8, ") + "]}}\n",
		"ports":          head + "zones: {z: a}\nforwards: [{from: z, to: 10.0.0.2, tcp: [" + fill("1-9,") + "]}]\n",
		"hosts": head + "zones: {z: a}\nhosts:\n" + grow(func(i int) string {
			return fmt.Sprintf("  h%d: 10.0.0.2\n", i)
		}),
		"addresses of a host": head + "zones: {z: a}\nhosts: {h: [" + fill("10.0.0.2,") + "]}\n",
		"prefixes of zones": head + "zones:\n" + grow(func(i int) string {
			return fmt.Sprintf("  z%d: {link: a, prefix: [%s]}\n", i, strings.Repeat(fmt.Sprintf("10.%d.0.0/16,", i), 1000))
		}),
	} {
		start := worked()
		if _, err := Parse("fw.yaml", []byte(src)); err == nil {
			t.Errorf("Parse(1 MiB of %s): no error", name)
		} else if n := len(err.Error()); n > 64<<10 {
			t.Errorf("Parse(1 MiB of %s) says %d bytes; want at most 64 KiB", name, n)
		}
		if took := worked() - start; took > bearable {
			t.Errorf("Parse(1 MiB of %s) took %v; want at most %v", name, took, bearable)
		}
	}
}

// TestControlCharacters: no name that is written to terminals, logs and paths has any.
func TestControlCharacters(t *testing.T) {
	const good = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-"
	for c := range rune(0x100) {
		if got := isLinkByte(byte(c)); got != strings.ContainsRune(good, c) {
			t.Errorf("isLinkByte(%q) = %v", c, got)
		}
	}
	for _, name := range []string{"lan\r", "lan\x11", "lan\x19x"} {
		if problem, _ := checkLinkName(name); problem == "" {
			t.Errorf("checkLinkName(%q) finds nothing", name)
		}
	}
}
