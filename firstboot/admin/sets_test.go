package admin

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"rempart/firstboot/contract"
	"rempart/firstboot/lists/handover"
	"rempart/profiles"
)

// What is shown of a set is what is in use, and how old it is.
func TestSets(t *testing.T) {
	root := t.TempDir()
	p, err := profiles.Parse("p.yaml", []byte("rempart: 1\nname: gw\nadmin: none\nlinks: {lan0: {address: 10.0.0.1/24}}\n"+
		"zones: {lan: lan0}\nsets:\n  fixed: [10.0.0.7, 10.0.0.9]\n  here: {file: /var/lib/lists/here}\n"+
		"  drop: {url: \"https://10.0.0.8/l\"}\n  gone: {url: \"https://10.0.0.8/g\"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{contract.ProfilePath: b, contract.ListsDir + "/x": nil} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := &desk{root: root}
	now := time.Unix(2_000_000_000, 0)
	rows, err := d.sets(now)
	if err != nil || len(rows) != 4 || rows[0] != (setRow{Set: "fixed", Ranges: 2, From: fromProfile}) {
		t.Fatalf("sets before any list = %+v, %v; want four, the first from the profile", rows, err)
	}
	if err := handover.WriteStatus(root, []handover.Status{
		{Name: "drop", Entries: 9, Taken: now.Unix() - 7200, Seen: now.Unix() - 60, Next: now.Unix() + 30, Strange: 1},
		{Name: "gone", Tried: now.Unix(), Next: now.Unix() - 5, Error: "the server answers 404"},
		{Name: "of an older profile", Entries: 5},
	}); err != nil {
		t.Fatal(err)
	}
	rows, err = d.sets(now)
	want := []setRow{
		{Set: "fixed", Ranges: 2, From: fromProfile},
		{Set: "here", From: "/var/lib/lists/here"},
		{Set: "drop", Ranges: 9, From: "https://10.0.0.8/l", Age: 60, Taken: now.Unix() - 7200, Next: 30, Strange: 1},
		{Set: "gone", From: "https://10.0.0.8/g", Error: "the server answers 404"},
	}
	if err != nil || !reflect.DeepEqual(rows, want) {
		t.Errorf("sets = %+v, %v; want %+v", rows, err, want)
	}
}
