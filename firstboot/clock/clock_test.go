package clock

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"rempart/firstboot/child"
	"rempart/profiles"
)

// TestServingEnds: when clients cannot be served any more the child ends with the reason, so that it is started again,
// whether it has servers to ask or none.
func TestServingEnds(t *testing.T) {
	for name, servers := range map[string][]string{"asking": {"127.0.0.1"}, "asking nobody": nil} {
		root := t.TempDir()
		for _, dir := range []string{runDir, keepDir} {
			if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		ready := make(chan struct{}, 10)
		env := &child.Env{Root: root, Log: slog.New(slog.DiscardHandler), Ready: func() { ready <- struct{}{} },
			Profile: &profiles.Profile{NTP: &profiles.NTP{Servers: servers, Serve: []string{"lan"}}},
			Tell:    func(string, any) {}}
		a := newAsker()
		a.port = freePort(t)
		k := newKeeper(env, machine{make(chan string, 100)}, a)
		gone, lost := make(chan struct{}), errors.New("the kernel tells nothing of links any more")
		k.serve = func(_ context.Context, links []string) error {
			if len(links) != 1 || links[0] != "lan" {
				t.Errorf("%s: links %q are served; want lan", name, links)
			}
			<-gone
			return lost
		}
		ended := make(chan error, 1)
		go func() { ended <- k.run(t.Context()) }()
		if servers == nil {
			<-ready
		}
		close(gone)
		if err := <-ended; !errors.Is(err, lost) {
			t.Errorf("%s: run = %v; want the end of serving", name, err)
		}
	}
}
