package logging

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/door"
	"rempart/firstboot/logging/segment"
)

// Request is what a follower wants, sent as one line of JSON.
type Request struct {
	Last uint64 `json:"last,omitempty"` // begin with the last so many entries
	From uint64 `json:"from,omitempty"` // or with this number
	// ThisStart begins with the first entry since the guest started; none of the three: with what comes next.
	ThisStart bool `json:"this_start,omitempty"`
	Follow    bool `json:"follow,omitempty"` // go on with what comes
}

// Bounds of followers.
const (
	maxRequest   = 256
	maxFollowers = 16
	patience     = 10 * time.Second // of the log with a follower that does not read or does not ask
	maxReply     = 4096             // bytes of one line as a follower reads it
)

// followers are the users that may read the log, besides root and this child's own.
var followers = []uint32{contract.UIDAdmin, contract.UIDSyslog}

// Follow reads the log at a socket and calls f for each entry until f returns an error, which it returns, the log ends
// or ctx is done. Without Follow in the request nil is returned after the last entry there is.
func Follow(ctx context.Context, socket string, q Request, f func(segment.Entry) error) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	b, err := json.Marshal(q)
	if err != nil {
		return err
	}
	if _, err := conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	in := bufio.NewReaderSize(conn, maxReply)
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF) && !q.Follow:
			return nil
		case err != nil:
			return fmt.Errorf("log: %w", err)
		}
		e, err := segment.Parse(string(line[:len(line)-1]))
		if err != nil {
			return err
		}
		if err := f(e); err != nil {
			return err
		}
	}
}

// entrance is the socket, and who may follow: root, this child itself and the followers.
func entrance(log *slog.Logger) door.Door {
	return door.Door{Name: "log socket", Allowed: append([]uint32{contract.UIDRoot, uint32(os.Getuid())}, followers...),
		Most: maxFollowers, Log: log}
}

// serve answers followers; first is the number of the first entry since the guest started.
func serve(ctx context.Context, l *net.UnixListener, store *segment.Store, first uint64, log *slog.Logger) {
	entrance(log).Serve(ctx, l, func(ctx context.Context, conn *net.UnixConn, _ uint32) {
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		if err := answer(ctx, conn, store, first); err != nil && ctx.Err() == nil && !gone(err) {
			log.Warn("follower of the log", "error", err)
		}
	})
}

// gone tells whether an error only says that the follower went away.
func gone(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, io.EOF) ||
		errors.Is(err, net.ErrClosed)
}

// answer serves one follower.
func answer(ctx context.Context, conn *net.UnixConn, store *segment.Store, first uint64) error {
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	line, err := bufio.NewReaderSize(conn, maxRequest).ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	var q Request
	if err := child.Strict(line, &q); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	var r *segment.Reader
	switch {
	case q.ThisStart:
		r = store.ReadFrom(first)
	case q.From > 0:
		r = store.ReadFrom(q.From)
	default:
		r = store.ReadLast(q.Last)
	}
	defer r.Close()
	// A follower that goes away while nothing is said is noticed by its end of file.
	left := make(chan struct{})
	_ = conn.SetReadDeadline(time.Time{})
	go func() {
		defer close(left)
		_, _ = conn.Read(make([]byte, 1))
	}()
	for {
		changed := store.Changed()
		entries, err := r.Read()
		if err != nil {
			return err
		}
		if len(entries) > 0 {
			var b []byte
			for _, e := range entries {
				b = append(append(b, e.String()...), '\n')
			}
			if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
				return err
			}
			if _, err := conn.Write(b); err != nil {
				return err
			}
			continue
		}
		if !q.Follow {
			return nil
		}
		select {
		case <-changed:
		case <-left:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}
