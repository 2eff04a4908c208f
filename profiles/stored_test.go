package profiles

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// ofBoth are ranges of both families, more of each than stay in the JSON.
func ofBoth(t *testing.T) Ranges {
	t.Helper()
	list := make([]string, 0, 4*maxInline)
	for i := range 2 * maxInline {
		list = append(list, fmt.Sprintf("10.%d.0.1-10.%d.0.9", i, i), fmt.Sprintf("2001:db8:%x::/48", 2*i))
	}
	return someRanges(t, list...)
}

// kept reads what files has.
func kept(files map[string][]byte) func(StoredPart) ([]byte, error) {
	return func(part StoredPart) ([]byte, error) {
		b, ok := files[part.Digest]
		if !ok {
			return nil, errors.New("no such file")
		}
		return b, nil
	}
}

func TestStored(t *testing.T) {
	want := ofBoth(t)
	s := Set{Name: "many", Ranges: want}
	s.store()
	files := map[string][]byte{}
	for digest, b := range s.Files() {
		files[digest] = b
	}
	b, err := json.Marshal(s)
	if err != nil || len(files) != 2 || s.Len() != len(want) || s.Absent() {
		t.Fatalf("%d files of %d ranges, %v; want one for each family", len(files), s.Len(), err)
	}
	var back Set
	if err := json.Unmarshal(b, &back); err != nil || !back.Absent() || back.Which() != s.Which() ||
		back.Count(true) != 2*maxInline || len(back.Parts()) != 2 {
		t.Fatalf("%s is read as %+v, %v; want the set without its ranges", b, back, err)
	}
	if again, err := json.Marshal(back); err != nil || string(again) != string(b) {
		t.Errorf("written again it is %s, %v; want %s", again, err, b)
	}
	if err := back.Restore(kept(files)); err != nil || !slices.Equal(back.Ranges, want) {
		t.Errorf("Restore = %v, %d ranges; want the %d of the set", err, len(back.Ranges), len(want))
	}
	if back.Forget(); !back.Absent() || back.Which() != s.Which() {
		t.Error("a set that forgot its ranges does not know which they are")
	}
	few := Set{Name: "few", Ranges: want[:maxInline]}
	if few.store(); few.Stored != nil || few.Absent() || few.Which().V4.Count != maxInline {
		t.Error("a set of few ranges is stored")
	}

	// What is not what the profile names is not taken.
	for name, change := range map[string]func(map[string][]byte, *Set){
		"a file is missing":  func(f map[string][]byte, s *Set) { delete(f, s.Stored.V6.Digest) },
		"another content":    func(f map[string][]byte, s *Set) { f[s.Stored.V4.Digest] = want[:3].Binary() },
		"another count":      func(_ map[string][]byte, s *Set) { s.Stored.V4.Count++ },
		"the other family's": func(_ map[string][]byte, s *Set) { s.Stored.V4, s.Stored.V6 = s.Stored.V6, s.Stored.V4 },
		"out of order": func(f map[string][]byte, s *Set) {
			upside := Ranges{want[1], want[0]}
			s.Stored.V4, s.Stored.V6 = StoredPart{2, upside.Digest()}, StoredPart{}
			f[upside.Digest()] = upside.Binary()
		},
		"rubbish": func(f map[string][]byte, s *Set) {
			s.Stored.V4 = StoredPart{1, digestOf([]byte("rubbish"))}
			f[s.Stored.V4.Digest] = []byte("rubbish")
		},
	} {
		bad, some := s, map[string][]byte{}
		which := s.Which()
		bad.Ranges, bad.Stored = nil, &which
		for digest, b := range files {
			some[digest] = b
		}
		change(some, &bad)
		if err := bad.Restore(kept(some)); err == nil || len(bad.Ranges) != 0 {
			t.Errorf("%s: Restore = %v, %d ranges; want an error and none", name, err, len(bad.Ranges))
		}
	}
}

// TestStoredValid: a profile that says nonsense of what it stores is refused, whatever wrote it.
func TestStoredValid(t *testing.T) {
	digest := ofBoth(t).Digest()
	for name, tt := range map[string]struct {
		stored StoredRanges
		want   string
	}{
		"good":          {StoredRanges{V4: StoredPart{70, digest}}, ""},
		"none":          {StoredRanges{}, "stores no ranges"},
		"negative":      {StoredRanges{V4: StoredPart{-1, digest}}, "not what is stored"},
		"no digest":     {StoredRanges{V4: StoredPart{70, ""}}, "not what is stored"},
		"a path":        {StoredRanges{V6: StoredPart{70, "../../../proc/self/mem"}}, "not what is stored"},
		"capitals":      {StoredRanges{V6: StoredPart{70, strings.ToUpper(digest)}}, "not what is stored"},
		"too many":      {StoredRanges{V4: StoredPart{1<<62 + 1, digest}, V6: StoredPart{1 << 62, digest}}, "not what is"},
		"many together": {StoredRanges{V4: StoredPart{maxSetRanges, digest}, V6: StoredPart{1, digest}}, "ranges in all"},
	} {
		p, err := Load("home-firewall")
		if err != nil {
			t.Fatal(err)
		}
		p.Sets = []Set{{Name: "many", Stored: &tt.stored}}
		err = p.Validate("p.json")
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: Validate = %v; want %q", name, err, tt.want)
		}
	}
}

// FuzzDecodeRanges: whatever the bytes, what is read is written again as the same ranges.
func FuzzDecodeRanges(f *testing.F) {
	f.Add(Ranges(nil).Binary())
	f.Add(many(20).Binary())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRanges(b)
		if err != nil || !r.Ordered() {
			return
		}
		again, err := DecodeRanges(r.Binary())
		if err != nil || !slices.Equal(again, r) {
			t.Fatalf("%v is read again as %v, %v", r, again, err)
		}
	})
}

// TestRoomForSets: a guest whose memory is too small for its sets is refused with what would do, which then does.
func TestRoomForSets(t *testing.T) {
	digest := ofBoth(t).Digest()
	for _, tt := range []struct {
		memory int64 // MiB
		ranges int
		hint   string // empty: they fit
	}{
		{96, 16 << 10, ""}, {96, 20_000, "memory: 112M"}, {128, 100_000, ""}, {128, 150_000, "memory: 144M"},
		{128, maxSetRanges, "memory: 176M"}, {176, maxSetRanges, ""}, {1024, maxSetRanges, ""},
	} {
		p, err := Load("home-firewall")
		if err != nil {
			t.Fatal(err)
		}
		p.Memory = tt.memory * mebibyte
		p.Sets = []Set{{Name: "few", Ranges: Ranges{}}, {Name: "many", At: Pos{7, 3},
			Stored: &StoredRanges{V4: StoredPart{tt.ranges, digest}}}}
		err = p.Validate("p.json")
		if tt.hint == "" && err != nil || tt.hint != "" && (err == nil || !strings.Contains(err.Error(), tt.hint) ||
			!strings.Contains(err.Error(), "p.json:7:3")) {
			t.Errorf("%d ranges in %d MiB: %v; want %q", tt.ranges, tt.memory, err, tt.hint)
		}
	}
}
