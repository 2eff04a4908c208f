package debian

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// withApt gives a store an apt configuration.
func withApt(t *testing.T, files map[string]string) *Store {
	t.Helper()
	s := newTestStore(t, "")
	s.options.AptDir = t.TempDir()
	for name, text := range files {
		path := filepath.Join(s.options.AptDir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return s
}

func getFrom(t *testing.T, s *Store, address string) (string, error) {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	text, err := s.get(context.Background(), u, 1000)
	return string(text), err
}

// echo answers every request with what was asked for, and the login that came with it.
func echo(t *testing.T) *testServer {
	server := serve(t, nil)
	server.hook = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		user, password, _ := r.BasicAuth()
		w.Write([]byte(r.URL.String() + " " + user + ":" + password))
		return true
	}
	return server
}

func TestProxyOfApt(t *testing.T) {
	proxy, other := echo(t), echo(t)
	s := withApt(t, map[string]string{"apt.conf.d/99proxy": `Acquire::http::Proxy "` + proxy.URL + `";
		Acquire::http::Proxy::other.invalid "` + other.URL + `"; Acquire::http::Proxy::127.0.0.1 "DIRECT";`})
	t.Setenv("no_proxy", "")
	const address = "http://archive.invalid/debian/x"
	if got, err := getFrom(t, s, address); err != nil || got != address+" :" {
		t.Errorf("get = %q, %v; want it through the proxy of apt", got, err)
	}
	const elsewhere = "http://other.invalid/x"
	if got, err := getFrom(t, s, elsewhere); err != nil || got != elsewhere+" :" || len(other.seen()) != 1 {
		t.Errorf("get = %q, %v; want it through the proxy of that host", got, err)
	}
	if got, err := getFrom(t, s, other.URL+"/direct"); err != nil || got != "/direct :" {
		t.Errorf("get = %q, %v; want it without a proxy", got, err)
	}
	for _, excepted := range []string{"*", "x, .invalid", "archive.invalid"} {
		t.Setenv("no_proxy", excepted)
		if got, err := getFrom(t, s, address); err == nil {
			t.Errorf("get with no_proxy=%s = %q; want no proxy, and so no such host", excepted, got)
		}
	}
	bad := withApt(t, map[string]string{"apt.conf": `Acquire::http::Proxy "gopher://u:secret@p";`})
	_, err := getFrom(t, bad, address)
	if err == nil || !strings.Contains(err.Error(), "Acquire::http::Proxy") || strings.Contains(err.Error(), "secret") {
		t.Errorf("get by a proxy that cannot be = %v; want an error that names the setting and shows no password", err)
	}
}

func TestLoginOfApt(t *testing.T) {
	server := echo(t)
	address := server.URL + "/debian/x"
	s := withApt(t, map[string]string{"auth.conf.d/mirror.conf": "machine " + server.URL + "/debian login me password it"})
	if got, err := getFrom(t, s, address); err != nil || got != "/debian/x me:it" {
		t.Errorf("get = %q, %v; want it with the login of auth.conf", got, err)
	}
	if got, err := getFrom(t, s, server.URL+"/other/x"); err != nil || got != "/other/x :" {
		t.Errorf("get of another path = %q, %v; want no login", got, err)
	}
	with := strings.Replace(address, "http://", "http://you:and@", 1)
	if got, err := getFrom(t, s, with); err != nil || got != "/debian/x you:and" {
		t.Errorf("get of an address with a login = %q, %v; want that one", got, err)
	}

	// Another host is not told the login of the one that redirects there, but its own.
	from := serve(t, nil)
	from.hook = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if _, _, ok := r.BasicAuth(); !ok {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		http.Redirect(w, r, server.URL+r.URL.Path, http.StatusFound)
		return true
	}
	s = withApt(t, map[string]string{"auth.conf": "machine " + from.URL + " login a password b\n" +
		"machine " + server.URL + "/own login c password d"})
	for path, want := range map[string]string{"/x": "/x :", "/own": "/own c:d"} {
		if got, err := getFrom(t, s, from.URL+path); err != nil || got != want {
			t.Errorf("get redirected to another host = %q, %v; want %q", got, err, want)
		}
	}
	_, err := getFrom(t, newTestStore(t, ""), from.URL+"/x")
	if err == nil || !strings.Contains(err.Error(), "auth.conf.d") {
		t.Errorf("get without a login = %v; want an error that says where one belongs", err)
	}
}
