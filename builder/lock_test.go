package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A lock that cannot be renewed stays as it was, and the exit status says whose fault it is.
func TestLockCommandFails(t *testing.T) {
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("Origin: Debian\nLabel: Debian\nCodename: bookworm\n")) // signed by nobody
	}))
	defer mirror.Close()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	file := filepath.Join(t.TempDir(), "a.lock")
	text, err := os.ReadFile("debian/bookworm-amd64.lock")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"-o FILE --mirror URL", exitFailed, "no valid signature by a Debian archive key"},
		{"-o FILE --mirror URL --suite stable", exitUsage, "code name"},
		{"-o FILE --mirror URL --arch sparc", exitUsage, "the lock there is for amd64, not sparc"},
		{"-o FILE --mirror URL --arch arm64", exitUsage, "the lock there is for amd64, not arm64"},
		{"-o FILE --mirror ftp://a/debian", exitFailed, "expected http://"},
		{"-o FILE --mirror URL extra", exitUsage, `unexpected argument "extra"`},
		{"--lock DIR/none --mirror URL", exitFailed, "no such file"},
		{"--nonsense", exitUsage, "nonsense"},
	} {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		names := strings.NewReplacer("FILE", file, "URL", mirror.URL, "DIR", filepath.Dir(file))
		args := append([]string{"lock"}, strings.Fields(names.Replace(c.args))...)
		var out, errs bytes.Buffer
		code := run(context.Background(), &console{in: strings.NewReader(""), out: &out, err: &errs}, args)
		if code != c.code || !strings.Contains(errs.String(), c.want) || out.Len() > 0 {
			t.Errorf("rempart lock %s = %d, %q, %q; want %d with %q", c.args, code, out.String(), errs.String(), c.code, c.want)
		}
		if after, err := os.ReadFile(file); err != nil || !bytes.Equal(after, text) {
			t.Errorf("rempart lock %s changed the lock: %v", c.args, err)
		}
		if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 1 {
			t.Errorf("rempart lock %s leaves %d files beside the lock", c.args, len(left)-1)
		}
	}
}
