package debian

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"testing"
)

// The proxy of the environment is used, as net/http does; it reads the environment once, hence the second process.
func TestProxyOfEnvironment(t *testing.T) {
	const marker = "REMPART_TEST_BEHIND_PROXY"
	const address = "http://archive.invalid/debian/dists/x/InRelease"
	if os.Getenv(marker) != "" {
		u, err := url.Parse(address)
		must(t, err)
		got, err := newTestStore(t, "").get(context.Background(), u, 100)
		if err != nil || string(got) != "by proxy" {
			t.Errorf("get through the proxy = %q, %v", got, err)
		}
		return
	}
	var asked []string
	proxy := serve(t, nil)
	proxy.mu.Lock() // the requests come from another process: nothing else orders them after this
	proxy.hook = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		proxy.mu.Lock()
		asked = append(asked, r.URL.String())
		proxy.mu.Unlock()
		w.Write([]byte("by proxy"))
		return true
	}
	proxy.mu.Unlock()
	again := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	again.Env = append(os.Environ(), marker+"=1", "http_proxy="+proxy.URL, "no_proxy=")
	out, err := again.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("behind a proxy: %v\n%s", err, out)
	}
	proxy.mu.Lock()
	defer proxy.mu.Unlock()
	if !slices.Equal(asked, []string{address}) {
		t.Errorf("the proxy was asked for %q; want %s", asked, address)
	}
}

// What is larger than expected is not read to its end.
func TestGetIsBounded(t *testing.T) {
	server := serve(t, map[string][]byte{"a": make([]byte, 101)})
	u, err := url.Parse(server.URL + "/a")
	must(t, err)
	if got, err := newTestStore(t, "").get(context.Background(), u, 100); err == nil {
		t.Errorf("get of 101 bytes = %d bytes; want an error", len(got))
	}
	if got, err := newTestStore(t, "").get(context.Background(), u, 101); err != nil || len(got) != 101 {
		t.Errorf("get = %d bytes, %v; want 101", len(got), err)
	}
}
