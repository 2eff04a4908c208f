package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	if _, err := Open(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open before = %v; want %v", err, fs.ErrNotExist)
	}
	j, err := Create(path, Record{Step: "begun", Data: json.RawMessage(`{"to":"abc"}`)})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"stopped", "set aside"} {
		if err := j.Append(Record{Step: step}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Create(path, Record{Step: "begun"}); err == nil {
		t.Error("Create over a journal = nil; want an error")
	}
	if err := j.Append(Record{}); err == nil {
		t.Error("a record without a step was taken")
	}
	if err := j.Append(Record{Step: strings.Repeat("x", maxRecord)}); err == nil {
		t.Error("a record that is too long was taken")
	}
	j.Close()
	records, err := Read(path)
	if err != nil || len(records) != 3 || records[2].Step != "set aside" || string(records[0].Data) != `{"to":"abc"}` {
		t.Errorf("Read = %+v, %v; want the three", records, err)
	}
	if j, err = Open(path); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; err == nil; n++ {
		err = j.Append(Record{Step: strings.Repeat("y", 100)})
	}
	if !errors.Is(err, ErrFull) || n < 100 {
		t.Errorf("after %d records: %v; want %v after 100 and more", n, err, ErrFull)
	}
	old := path + ".old"
	if err := j.Retire(old); err != nil {
		t.Fatal(err)
	}
	if records, err := Read(old); err != nil || len(records) != 3+n-1 {
		t.Errorf("Read of the retired = %d records, %v; want %d", len(records), err, 3+n-1)
	}
}

// TestTorn cuts the power at every byte of the last record: what was on the disk before it is there, and the journal
// goes on.
func TestTorn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	j, err := Create(path, Record{Step: "begun"})
	if err != nil {
		t.Fatal(err)
	}
	before := j.at
	if err := j.Append(Record{Step: "stopped", Data: json.RawMessage(`{"was":"running"}`)}); err != nil {
		t.Fatal(err)
	}
	end := j.at
	j.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := before; cut < end; cut++ {
		torn := append(bytes.Clone(whole[:cut]), make([]byte, Size-cut)...)
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(path)
		if err != nil || len(j.Records()) != 1 {
			t.Fatalf("cut at %d: %v, %v; want the first record alone", cut, j, err)
		}
		if err := j.Append(Record{Step: "again"}); err != nil {
			t.Fatal(err)
		}
		j.Close()
		if records, err := Read(path); err != nil || len(records) != 2 || records[1].Step != "again" {
			t.Errorf("cut at %d, then Append: %+v, %v; want two records", cut, records, err)
		}
	}
	for _, at := range []int64{0, before - 1} {
		spoilt := bytes.Clone(whole)
		spoilt[at] ^= 1
		if err := os.WriteFile(path, spoilt, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); !errors.Is(err, ErrForeign) {
			t.Errorf("Open with byte %d changed = %v; want %v", at, err, ErrForeign)
		}
	}
}

func FuzzParse(f *testing.F) {
	line, err := encode(Record{Step: "begun", Data: json.RawMessage("{}")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add([]byte("0123456789abcdef {}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > Size {
			return
		}
		records, at, err := parse(append(bytes.Clone(b), make([]byte, Size-len(b))...))
		if err == nil && (len(records) == 0 || at > len(b)) {
			t.Errorf("parse(%q) = %+v, %d; want records, ending where they do", b, records, at)
		}
	})
}
