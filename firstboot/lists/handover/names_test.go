package handover

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/profiles"
	"rempart/profiles/blocklist"
)

// What was handed over is read as it was; what somebody else laid there is refused, and so is more than there is room
// for.
func TestReadNames(t *testing.T) {
	root, dir := room(t)
	var b blocklist.Builder
	b.Add("ads.example", true)
	b.Add("b.example", false)
	raw, _, err := b.Table()
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(root, NamesList("x"), bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	if table, err := ReadNames(root, "x", 2); err != nil || !table.BlocksName("www.ads.example") ||
		table.BlocksName("www.b.example") {
		t.Errorf("ReadNames = %d names, %v; want both", table.Len(), err)
	}
	if _, err := ReadNames(root, "x", 1); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("ReadNames with room for one = %v; want it refused", err)
	}
	if n, err := CountNames(bytes.NewReader(raw)); err != nil || n != 2 {
		t.Errorf("CountNames = %d, %v; want 2", n, err)
	}
	huge := bytes.Clone(raw)
	copy(huge[len(huge)-len(raw)+8:], bytes.Repeat([]byte{0xff}, 8))
	for name, bad := range map[string][]byte{"nothing": {}, "the head": raw[:16], "cut": raw[:len(raw)-1],
		"longer": append(bytes.Clone(raw), 0), "rubbish": bytes.Repeat([]byte("x"), 32), "a huge number": huge} {
		if err := os.WriteFile(filepath.Join(dir, NamesList("x")), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadNames(root, "x", 100); err == nil {
			t.Errorf("%s is taken for a list", name)
		}
	}
	if err := os.Remove(filepath.Join(dir, NamesList("x"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, NamesList("x"))); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadNames(root, "x", 100); err == nil {
		t.Error("a link is followed")
	}
}

// TestSaneNames: a name that the guest itself needs makes a list absurd, unless the profile allows it anyway.
func TestSaneNames(t *testing.T) {
	var b blocklist.Builder
	b.Add("time.example", true)
	raw, _, err := b.Table()
	if err != nil {
		t.Fatal(err)
	}
	table, err := blocklist.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	for allow, sane := range map[string]bool{"": false, "other.example": false, "ool.time.example": false,
		"x.pool.time.example": false, "pool.time.example": true, "time.example": true} {
		p := &profiles.Profile{NTP: &profiles.NTP{Servers: []string{"pool.time.example"}},
			DNS: &profiles.DNS{Block: &profiles.Block{Allow: []string{allow}}}}
		if err := SaneNames(p, table); (err == nil) != sane {
			t.Errorf("with %q allowed: %v; want it sane: %v", allow, err, sane)
		}
	}
	if err := SaneNames(&profiles.Profile{}, table); err != nil {
		t.Errorf("where nobody needs it: %v", err)
	}
}
