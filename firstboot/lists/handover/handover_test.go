package handover

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"rempart/firstboot/contract"
	"rempart/profiles"
)

func room(t *testing.T) (root, dir string) {
	t.Helper()
	root = t.TempDir()
	dir = filepath.Join(root, contract.ListsDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return root, dir
}

// What was handed over is read as it was; what somebody else laid there is refused.
func TestRead(t *testing.T) {
	root, dir := room(t)
	p := &profiles.Profile{}
	list, _, err := profiles.ReadList(strings.NewReader("198.51.100.0/24\n203.0.113.1-203.0.113.9\n2001:db8::/32\n"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Encode(&b, list); err != nil {
		t.Fatal(err)
	}
	if err := Write(root, "x", bytes.NewReader(b.Bytes())); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(root, p, "x"); err != nil || !reflect.DeepEqual(got, list) {
		t.Errorf("Read = %v, %v; want %v", got, err, list)
	}
	if n, err := Count(&b); err != nil || n != 3 {
		t.Errorf("Count = %d, %v; want 3", n, err)
	}
	for bad, want := range map[string]string{
		"": "no list", "3\n": "no list", "x\n\x00": "no list", "1\n\x00": "where 1 were announced",
		"0\n\x00": "no address", "-1\n\x00": "no list", "999999999\n\x00": "no list", "1\n\x01\x00": "no list",
		"1\n\x01\x00\x00\x05": "no list", "1\n\x09\x00\x00": "no list",
	} {
		if err := os.WriteFile(filepath.Join(dir, "x"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(root, p, "x"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Read of %q = %v; want an error with %q", bad, err, want)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(root, p, "pipe"); err == nil {
		t.Error("a pipe was read")
	}
	if err := Prune(root, []string{"x"}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "x" {
		t.Errorf("after Prune: %v, %v; want x", entries, err)
	}
}

func TestSane(t *testing.T) {
	p := &profiles.Profile{Links: []profiles.Link{{Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8::1/64")}}}}
	for text, sane := range map[string]bool{
		"0.0.0.0/1": true, "0.0.0.0/1 \n 128.0.0.0/32": false, "224.0.0.0/3\n10.0.0.0/8": true,
		"::/3\n4000::/2\n8000::/1": true, // all that is not given out
		"2000::/4":                 false /* the guest is in it */, "3000::/4": true, "3000::/4\n2fff::/64": false,
		"2001:db8::1": false, "2001:db8::2": true, "2001:db8::/32": false,
	} {
		list, _, err := profiles.ReadList(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := Sane(p, list); (err == nil) != sane {
			t.Errorf("Sane(%q) = %v; want %v", text, err, sane)
		}
	}
}

// FuzzDecode: whatever a child in a stranger's hands lays there, what is taken is in order.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("1\n\x01\x00\x00"))
	f.Add([]byte("3\n\x02\x0a\x00\x80\x02\x05\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x20"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := decode(b)
		if err == nil && !list.Ordered() {
			t.Errorf("decode(%q) = %v, out of order", b, list)
		}
		if _, err := Count(bytes.NewReader(b)); err == nil && len(b) == 0 {
			t.Error("nothing has a count")
		}
	})
}

// TestStatusOfMany: how lists stand is read as it was laid down, of as many as a profile has, and with what JSON
// writes long.
func TestStatusOfMany(t *testing.T) {
	root, _ := room(t)
	var all []Status
	for i := range 48 {
		all = append(all, Status{Name: fmt.Sprintf("list-%d", i), From: "https://x.example/" + strings.Repeat("&", 2000),
			Entries: 1 << 18, Strange: 1 << 18, Taken: 1 << 40, Seen: 1 << 40, Tried: 1 << 40, Next: 1 << 40,
			Error: strings.Repeat("<", 303)})
	}
	if err := WriteStatus(root, all); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadStatus(root); err != nil || !reflect.DeepEqual(got, all) {
		t.Errorf("ReadStatus = %d lists, %v; want %d", len(got), err, len(all))
	}
}
