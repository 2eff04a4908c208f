package control

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
	"rempart/firstboot/contract/xenstore"
	"rempart/firstboot/contract/xenstore/storetest"
)

// TestCommandsByXenstore: what a client of the host asks for reaches the admin child and its answer comes back, for one
// client after the other, the first of which hangs up in the middle of its words.
func TestCommandsByXenstore(t *testing.T) {
	store, wire := storetest.New(t)
	env := &child.Env{Root: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	socket := filepath.Join(env.Root, contract.AdminSocket)
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answer := bytes.Repeat([]byte("0123456789abcdef"), 1<<10)
	go func() { // the admin child
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = ctl.Serve(t.Context(), conn, ctl.NewBudget(1<<20), func(_ context.Context, r ctl.Request) int {
					_, _ = r.Stdout.Write(answer)
					return len(r.Args)
				})
				conn.Close()
			}()
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serveStoreCommands(ctx, env, xenstore.New(wire)) }()

	for n := range 3 {
		host, err := xenstore.Dial(t.Context(), xenstore.New(store.Connect()), storetest.Domain)
		if err != nil {
			t.Fatal(err)
		}
		if err := ctl.Greet(host); err != nil {
			t.Fatalf("client %d: %v", n, err)
		}
		if n == 0 {
			if _, err := host.Write([]byte{0}); err != nil { // the beginning of a frame, and no more
				t.Fatal(err)
			}
			host.Close()
			continue
		}
		client := ctl.NewClient(host)
		var out bytes.Buffer
		status, err := client.Run(t.Context(), ctl.Call{Args: []string{"links"}}, nil, &out, nil)
		if err != nil || status != 1 || !bytes.Equal(out.Bytes(), answer) {
			t.Errorf("client %d: Run = %d, %v, %d bytes; want 1 and %d bytes", n, status, err, out.Len(), len(answer))
		}
		client.Close()
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("it ended with %v; want no error", err)
	}
}
