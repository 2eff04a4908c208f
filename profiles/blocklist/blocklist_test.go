package blocklist

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// wire is a name in the form of a message.
func wire(name string) []byte {
	var out []byte
	for label := range strings.SplitSeq(name, ".") {
		out = append(append(out, byte(len(label))), label...)
	}
	return append(out, 0)
}

func table(t testing.TB, list string) Table {
	t.Helper()
	var b Builder
	if _, err := b.Read(strings.NewReader(list)); err != nil {
		t.Fatal(err)
	}
	raw, _, err := b.Table()
	if err != nil {
		t.Fatal(err)
	}
	out, err := Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBlocks(t *testing.T) {
	list := "# comment\n127.0.0.1 localhost\n0.0.0.0 only.example two.example # both\n::1 ip6-localhost\n" +
		"ads.example\n*.wild.example\n||Adblock.Example^\naddress=/masq.example/0.0.0.0\n! comment\n[Adblock Plus 2.0]\n"
	tab := table(t, list)
	for name, want := range map[string]bool{
		"only.example": true, "below.only.example": false, "two.example": true, "example": false,
		"ads.example": true, "a.b.ads.example": true, "bads.example": false, "wild.example": true, "x.wild.example": true,
		"adblock.example": true, "masq.example": true, "x.masq.example": true, "localhost": false,
		"ads.example.org": false,
	} {
		if got := tab.Blocks(wire(name)); got != want {
			t.Errorf("Blocks(%s) = %v; want %v", name, got, want)
		}
	}
	for _, bad := range [][]byte{nil, {0}, {3, 'a', 'd'}, {64}, {0xc0, 0}, bytes.Repeat([]byte{1, 'a'}, 200)} {
		if tab.Blocks(bad) {
			t.Errorf("Blocks(% x) = true; it is no name", bad)
		}
	}
	if (Table{}).Blocks(wire("ads.example")) {
		t.Error("the zero value blocks")
	}
}

func TestRead(t *testing.T) {
	var b Builder
	said, err := b.Read(strings.NewReader("a.example\n10.0.0.7 printer\nexample.com##.banner\n@@||ok.example^\n" +
		"0.0.0.0 b.example bad_/name\n" + strings.Repeat("x", 2*maxLine) + "\n1.2.3.4\nlast.example"))
	if want := (Said{Names: 3, Foreign: 6, First: 2}); err != nil || said != want {
		t.Errorf("Read = %+v, %v; want %+v: a rule for parts of pages blocks no site", said, err, want)
	}
}

func TestCanonical(t *testing.T) {
	for name, want := range map[string]string{"A.Example.": "a.example", "_dmarc.x-y.z": "_dmarc.x-y.z",
		"": "", ".": "", "a..b": "", "1.2.3.4": "", "a b": "", strings.Repeat("a", 64): "", "ä.de": "",
		strings.Repeat("a.", 127) + "a": "", ".a": "", "a.b..": ""} {
		if got, ok := Canonical(name); got != want || ok != (want != "") {
			t.Errorf("Canonical(%q) = %q, %v; want %q", name, got, ok, want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	var b Builder
	b.Add("a.example", true)
	good, _, err := b.Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, good[:5], good[:len(good)-1], append(bytes.Clone(good), 0),
		[]byte("RMPBLK1\n\xff\xff\xff\xff\xff\xff\xff\xff")} {
		if _, err := Open(bad); !errors.Is(err, ErrTable) {
			t.Errorf("Open(%d bytes) = %v; want ErrTable", len(bad), err)
		}
	}
}

// TestSize: the bytes of half a million names, and that each is found and others are not.
func TestSize(t *testing.T) {
	const names = 500_000
	var list strings.Builder
	for i := range names {
		fmt.Fprintf(&list, "0.0.0.0 host%d.tracker%d.example\n", i, i%977)
	}
	var b Builder
	if _, err := b.Read(strings.NewReader(list.String())); err != nil {
		t.Fatal(err)
	}
	raw, n, err := b.Table()
	if err != nil || n != names || len(raw) != headerSize+names*hashSize {
		t.Fatalf("Table = %d bytes, %d names, %v; want %d bytes", len(raw), n, err, headerSize+names*hashSize)
	}
	tab, err := Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		i := random.IntN(names)
		if name := fmt.Sprintf("host%d.tracker%d.example", i, i%977); !tab.Blocks(wire(name)) {
			t.Fatalf("Blocks(%s) = false", name)
		}
		if name := fmt.Sprintf("host%d.tracker%d.example", i, (i+1)%977); tab.Blocks(wire(name)) {
			t.Fatalf("Blocks(%s) = true", name)
		}
	}
	name := wire("host4711.tracker803.example")
	if got := testing.AllocsPerRun(100, func() { tab.Blocks(name) }); got != 0 {
		t.Errorf("a look takes %v allocations; want none", got)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("0.0.0.0 a.example b\n||c.example^\n*.d\n#x\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		var b Builder
		said, err := b.Read(bytes.NewReader(src))
		if err != nil || said.Names != len(b.hashes) {
			t.Fatalf("Read = %+v, %v with %d names", said, err, len(b.hashes))
		}
		raw, n, err := b.Table()
		if err != nil || n > said.Names {
			t.Fatal(n, err)
		}
		if tab, err := Open(raw); err != nil || tab.Len() != n {
			t.Fatal(err)
		}
	})
}

// FuzzBlocks: neither a hostile name nor a hostile table makes it do more than answer.
func FuzzBlocks(f *testing.F) {
	var b Builder
	b.Add("a.example", true)
	good, _, err := b.Table()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, wire("a.example"))
	f.Fuzz(func(t *testing.T, raw, name []byte) {
		if tab, err := Open(raw); err == nil {
			tab.Blocks(name)
		}
	})
}

func BenchmarkBlocks(b *testing.B) {
	var list Builder
	for i := range 500_000 {
		list.Add(fmt.Sprintf("host%d.tracker%d.example", i, i%977), true)
	}
	raw, _, err := list.Table()
	if err != nil {
		b.Fatal(err)
	}
	tab, err := Open(raw)
	if err != nil {
		b.Fatal(err)
	}
	name := wire("www.some.where.example.org")
	for b.Loop() {
		tab.Blocks(name)
	}
}
