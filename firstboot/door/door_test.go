package door

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// said is a log that several may write and read.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) has(part string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.text.String(), part)
}

// faulty is a listener whose first connections the kernel has no descriptor for.
type faulty struct {
	*net.UnixListener
	faults int
}

func (f *faulty) AcceptUnix() (*net.UnixConn, error) {
	if f.faults > 0 {
		f.faults--
		return nil, os.NewSyscallError("accept4", unix.EMFILE)
	}
	return f.UnixListener.AcceptUnix()
}

// TestServe: who may comes in, above the bound and as a stranger nobody does, a shortage is waited out, and at the end
// those inside are told and waited for.
func TestServe(t *testing.T) {
	me := uint32(os.Getuid())
	for _, c := range []struct {
		name    string
		allowed []uint32
		inside  int // of three who knock
		says    string
	}{
		{"everybody", nil, 2, "too many connections"},
		{"this user", []uint32{me + 1, me}, 2, "too many connections"},
		{"another user", []uint32{me + 1}, 0, "may not come in"},
		{"nobody", []uint32{}, 0, "may not come in"},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := &said{}
			d := Door{Name: "test socket", Allowed: c.allowed, Most: 2, Log: slog.New(slog.NewTextHandler(log, nil))}
			path := filepath.Join(t.TempDir(), "socket")
			if err := os.WriteFile(path, nil, 0o600); err != nil { // what a predecessor left
				t.Fatal(err)
			}
			l, err := d.Listen(path)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				d.Serve(ctx, &faulty{l, 1}, func(ctx context.Context, conn *net.UnixConn, uid uint32) {
					if uid != me {
						t.Errorf("user %d came in; want %d", uid, me)
					}
					_, _ = conn.Write([]byte("in"))
					<-ctx.Done()
				})
			}()
			inside := 0
			for range 3 {
				conn, err := net.Dial("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := io.ReadFull(conn, make([]byte, 2)); err == nil {
					inside++
				}
			}
			if inside != c.inside || !log.has(c.says) || !log.has("could not be taken") {
				t.Errorf("%d came in, and the log says\n%s\nwant %d, %q and the shortage", inside, log.text.String(), c.inside,
					c.says)
			}
			cancel()
			<-ended
		})
	}
}
