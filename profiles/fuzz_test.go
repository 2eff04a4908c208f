package profiles

import (
	"encoding/json"
	"errors"
	"reflect"
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
	f.Fuzz(func(t *testing.T, src []byte) {
		p, err := Parse("fuzz.yaml", src)
		if err != nil {
			var invalid Invalid
			if p != nil || !errors.As(err, &invalid) || len(invalid) == 0 {
				t.Fatalf("Parse = %v, %T %v; want nil and Invalid", p, err, err)
			}
			last := Pos{}
			for _, finding := range invalid {
				if finding.Line < 1 || finding.Column < 1 || finding.File != "fuzz.yaml" || finding.What == "" {
					t.Fatalf("finding %+v; want a file, a place and a text", finding)
				}
				if finding.Line < last.Line || finding.Line == last.Line && finding.Column < last.Column {
					t.Fatalf("finding at %v after one at %v; want them in order", finding.Pos, last)
				}
				last = finding.Pos
			}
			return
		}
		if err, readable := againstSchema(t, src); readable && err != nil {
			t.Fatalf("the schema refuses what Parse takes: %v", err)
		}
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(raw)
		if err != nil {
			t.Fatalf("Decode of what Parse took: %v", err)
		}
		p.Warnings = nil
		if !reflect.DeepEqual(again, p) {
			t.Fatalf("through JSON the profile became %+v; want %+v", again, p)
		}
	})
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
