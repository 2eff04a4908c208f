package profiles

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestReadList(t *testing.T) {
	for _, c := range []struct {
		text    string
		want    string
		strange int
	}{
		{"", "[]", 0},
		{"\ufeff# none\n;\n//\n\r\n", "[]", 0},
		{"192.0.2.1\r\n192.0.2.2 # two\n2001:db8::1\n", "[{192.0.2.1 192.0.2.2} {2001:db8::1 2001:db8::1}]", 0},
		{"192.0.2.0/25 ; SBL1\n192.0.2.128/25;SBL2\n", "[{192.0.2.0 192.0.2.255}]", 0},
		{"192.0.2.1/24\n", "[{192.0.2.0 192.0.2.255}]", 0},
		{"192.0.2.1-192.0.2.9\n192.0.2.20 - 192.0.2.30 , text\n", "[{192.0.2.1 192.0.2.9} {192.0.2.20 192.0.2.30}]", 0},
		{"192.0.2.0\t192.0.2.255\t24\t99\tX\tY\n", "[{192.0.2.0 192.0.2.255}]", 0},
		{"192.0.2.1,malware,2024\n", "[{192.0.2.1 192.0.2.1}]", 0},
		{"create x hash:net family inet\nadd x 192.0.2.0/24 timeout 5\nflush y\n", "[{192.0.2.0 192.0.2.255}]", 0},
		{"{\"cidr\":\"192.0.2.0/24\",\"rir\":\"x\"}\n{\"type\":\"metadata\",\"size\":1}\n", "[{192.0.2.0 192.0.2.255}]", 0},
		{strings.Repeat("192.0.2.1\n", 100) + "oops\n", "[{192.0.2.1 192.0.2.1}]", 1},
	} {
		list, strange, err := ReadList(strings.NewReader(c.text))
		if got := fmt.Sprint(list); err != nil || got != c.want || strange != c.strange {
			t.Errorf("ReadList(%.60q) = %s, %d, %v; want %s, %d", c.text, got, strange, err, c.want, c.strange)
		}
	}
	for text, want := range map[string]string{
		"<html>\n": "1 of 1 lines are none, the first is line 1", "{\n": "are none",
		"192.0.2.9-192.0.2.1\n": "upside down", "::ffff:192.0.2.1\n": "are none", "fe80::1%eth0\n": "are none",
		strings.Repeat("192.0.2.1\n", 98) + "oops\noops\n": "2 of 100 lines",
		"# " + strings.Repeat("x", maxListLine) + "\n":     "too long",
		strings.Repeat("# 34567890\n", MaxList/10):         "more than 16 MiB",
	} {
		if _, _, err := ReadList(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ReadList(%.40q...) = %v; want an error with %q", text, err, want)
		}
	}
}

// A list that repeats itself is no larger than what it says; one with too many ranges is refused.
func TestReadLargeList(t *testing.T) {
	var b strings.Builder
	for i := range MaxListRanges + 1000 {
		fmt.Fprintf(&b, "10.%d.%d.%d\n", i>>14&0xff, i>>6&0xff, i<<2&0xff)
	}
	if list, _, err := ReadList(strings.NewReader(b.String())); !errors.Is(err, ErrNotAList) {
		t.Errorf("ReadList of %d ranges = %d, %v; want it refused", MaxListRanges+1000, len(list), err)
	}
	once := b.String()[:MaxList/8]
	once = once[:strings.LastIndexByte(once, '\n')+1]
	list, _, err := ReadList(strings.NewReader(strings.Repeat(once, 7)))
	if lines := strings.Count(once, "\n"); err != nil || len(list) != lines {
		t.Errorf("ReadList of a list seven times = %d ranges, %v; want %d", len(list), err, lines)
	}
}

// FuzzReadList: whatever a server says, what is taken is in order, and reading it again says the same.
func FuzzReadList(f *testing.F) {
	for _, seed := range []string{"192.0.2.1\n", "192.0.2.0/24 ; x\n", "1.1.1.1 - 1.1.1.9\n", "add x ::/0\n",
		"{\"cidr\":\"::1/128\"}\n", "255.255.255.255\nffff::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, _, err := ReadList(strings.NewReader(text))
		if err != nil {
			return
		}
		if !list.Ordered() {
			t.Fatalf("ReadList(%q) = %v, out of order", text, list)
		}
		var b strings.Builder
		for _, r := range list {
			fmt.Fprintf(&b, "%s-%s\n", r.First, r.Last)
		}
		again, strange, err := ReadList(strings.NewReader(b.String()))
		if err != nil || strange > 0 || fmt.Sprint(again) != fmt.Sprint(list) {
			t.Errorf("read again: %v, %d, %v; want %v", again, strange, err, list)
		}
	})
}
