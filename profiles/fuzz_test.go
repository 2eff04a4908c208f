package profiles

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// FuzzParse shows that no input makes Parse panic, that its error is always Invalid with places in the file, and that
// what it takes the schema takes, and survives JSON.
func FuzzParse(f *testing.F) {
	_, base, cases := readFindingCases(f)
	for _, c := range cases {
		f.Add([]byte(c.applied(base)))
	}
	for _, name := range Builtin() {
		src, err := BuiltinSource(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src []byte) { checkParse(t, src) })
}

// TestPairsOfCases reads every case of the findings with a third of the others edited into it: what the fuzzer would
// have to be very lucky to write.
func TestPairsOfCases(t *testing.T) {
	_, base, cases := readFindingCases(t)
	taken := 0
	for i, a := range cases {
		src := a.applied(base)
		for j, b := range cases {
			if (i+j)%3 != 0 || strings.HasPrefix(b.edit, "!") {
				continue
			}
			if checkParse(t, []byte(edited(src, b.edit))) {
				taken++
			}
			if t.Failed() {
				t.Fatalf("case %q edited by case %q", a.name, b.name)
			}
		}
	}
	if taken < len(cases) {
		t.Errorf("%d of the pairs were taken; want more than %d for the test to mean something", taken, len(cases))
	}
}

// checkParse shows that one input is treated as every input must be, and tells whether it was taken.
func checkParse(t testing.TB, src []byte) bool {
	t.Helper()
	p, err := Parse("fuzz.yaml", src)
	if err != nil {
		var invalid Invalid
		if p != nil || !errors.As(err, &invalid) || len(invalid) == 0 {
			t.Errorf("Parse = %v, %T %v; want nil and Invalid", p, err, err)
		}
		last := Pos{}
		for _, finding := range invalid {
			if finding.Line < 1 || finding.Column < 1 || finding.File != "fuzz.yaml" || finding.What == "" {
				t.Errorf("finding %+v; want a file, a place and a text", finding)
			}
			if strings.ContainsAny(finding.String(), "\n\r") {
				t.Errorf("finding %q; want one line", finding)
			}
			if finding.Line < last.Line || finding.Line == last.Line && finding.Column < last.Column {
				t.Errorf("finding at %v after one at %v; want them in order", finding.Pos, last)
			}
			last = finding.Pos
		}
		return false
	}
	if err, readable := againstSchema(t, src); readable && err != nil {
		t.Errorf("the schema refuses what Parse takes: %v", err)
	}
	for _, w := range p.Warnings {
		if w.Line < 1 || w.Column < 1 || strings.ContainsAny(w.String(), "\n\r") {
			t.Errorf("warning %+v; want a place and one line", w)
		}
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(raw)
	if err != nil {
		t.Errorf("Decode of what Parse took: %v", err)
		return true
	}
	p.Warnings = nil
	if p.DNS != nil && p.DNS.Block != nil {
		p.DNS.Block.Compiled = nil // travels in a file beside the JSON
	}
	if !reflect.DeepEqual(again, p) {
		t.Errorf("through JSON the profile became %+v; want %+v", again, p)
	}
	return true
}

// FuzzDecode shows that no JSON makes Decode panic, and that what it takes it takes again.
func FuzzDecode(f *testing.F) {
	f.Add(builtinJSON(f))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, src []byte) {
		p, err := Decode(src)
		if err != nil {
			return
		}
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(raw); err != nil {
			t.Fatalf("Decode of what Decode took: %v", err)
		}
	})
}
