package profiles

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func someRanges(t *testing.T, list ...string) Ranges {
	t.Helper()
	var out []AddrRange
	for _, text := range list {
		s, problem, _ := parseRange(text)
		if problem != "" {
			t.Fatal(problem)
		}
		out = append(out, s)
	}
	return mergeRanges(out)
}

// many are n IPv4 prefixes and ranges that neither overlap nor touch.
func many(n int) Ranges {
	random := rand.New(rand.NewPCG(1, 2))
	var list []AddrRange
	for len(list) < n {
		first := uint32(random.IntN(1<<31)) &^ 0xff
		list = append(list, AddrRange{addr4(first), addr4(first + uint32(random.IntN(250)))})
	}
	return mergeRanges(list)
}

func TestRangesJSON(t *testing.T) {
	for _, r := range []Ranges{nil, someRanges(t, "0.0.0.0/0", "::/0"), someRanges(t, "0.0.0.0", "255.255.255.255"),
		someRanges(t, "10.0.0.0/8", "10.0.0.1-10.0.0.3", "11.0.0.0", "fd00::1-fd00::9", "fd00::a",
			"2001:db8::/32"), many(1000)} {
		if !r.Ordered() {
			t.Errorf("merged ranges %v are not in order", r)
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back Ranges
		if err := json.Unmarshal(b, &back); err != nil || !slices.Equal(back, r) {
			t.Errorf("%s is read as %v, %v; want %v", b, back, err, r)
		}
	}
	for _, bad := range []string{`5`, `"!"`, `""`, `"AQ=="`, `"AQAA/w=="`, `"Af////8fAA=="`, `"AAA="`, `"//////////8B"`} {
		var r Ranges
		if err := json.Unmarshal([]byte(bad), &r); err == nil {
			t.Errorf("Unmarshal(%s) = %v; want an error", bad, r)
		}
	}
}

func TestRangesMerge(t *testing.T) {
	got := someRanges(t, "10.0.0.4", "10.0.0.0/30", "10.0.0.2-10.0.0.9", "10.0.0.11", "255.255.255.255", "::", "::1")
	want := "[{10.0.0.0 10.0.0.9} {10.0.0.11 10.0.0.11} {255.255.255.255 255.255.255.255} {:: ::1}]"
	if fmt.Sprint(got) != want {
		t.Errorf("merged = %v; want %v", got, want)
	}
	for a, in := range map[string]bool{"10.0.0.9": true, "10.0.0.10": false, "10.0.0.11": true, "9.9.9.9": false,
		"::1": true,
		"::2": false, "255.255.255.255": true} {
		if got.Contains(netip.MustParseAddr(a)) != in {
			t.Errorf("Contains(%s) = %v; want %v", a, !in, in)
		}
	}
	for _, r := range []Ranges{{got[1], got[0]}, {got[0], got[0]}, {{}}, {got[3], got[0]}, {{got[0].Last, got[0].First}},
		{{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::1")}}} {
		if r.Ordered() {
			t.Errorf("%v counts as in order", r)
		}
	}
}

// A hundred thousand ranges from a file: all there, small in the JSON, and read back.
func TestLargeSet(t *testing.T) {
	dir := t.TempDir()
	want := many(100_000)
	var text strings.Builder
	for _, s := range want {
		fmt.Fprintf(&text, "%s-%s\n", s.First, s.Last)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("list.txt", text.String())
	source := `rempart: 1
name: fw
links: {wan: {address: dhcp}, lan: {address: 10.0.0.1/24}}
zones: {internet: wan, home: lan}
admin: {from: home}
sets: {list: {file: FILE}}
policy: [{internet -> home: {any: {from: list, action: drop}}}]
`
	parse := func(file string) (*Profile, error) {
		return Parse(filepath.Join(dir, "fw.yaml"), []byte(strings.Replace(source, "FILE", file, 1)))
	}
	p, err := parse("list.txt")
	if err != nil || !slices.Equal(p.Sets[0].Ranges, want) {
		t.Fatalf("Parse = %v; want a set of %d ranges", err, len(want))
	}
	b, err := json.Marshal(p)
	if err != nil || len(b) > 2048 {
		t.Errorf("the JSON has %d bytes, %v; want the ranges not to be in it", len(b), err)
	}
	back, err := Decode(b)
	if err != nil || len(back.Absent()) != 1 || back.Sets[0].Len() != len(want) {
		t.Fatalf("Decode = %v; want a set of %d ranges that are not here", err, len(want))
	}
	if back.TakeStored(p); !slices.Equal(back.Sets[0].Ranges, want) {
		t.Error("TakeStored did not give it its ranges")
	}
	t.Logf("%d ranges: %d bytes of text, %d of JSON, %d beside it", len(want), text.Len(), len(b), len(want.Binary()))

	// Files that are none, and those elsewhere.
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	write("large", strings.Repeat("# "+strings.Repeat("x", 62)+"\n", MaxList/64))
	for file, want := range map[string]string{"pipe": "no regular file", "link": "escapes", "/etc/passwd": "escapes",
		"../x": "escapes", "large": "larger than 16 MiB"} {
		if _, err := parse(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a set from %s: %v; want an error with %q", file, err, want)
		}
	}
}
