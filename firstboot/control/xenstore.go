package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/xenstore"
)

// xenstoreDevice is there in a guest of Xen and nowhere else.
func xenstoreDevice(root string) (string, bool) {
	path := filepath.Join(root, xenstore.Device)
	_, err := os.Stat(path)
	return path, err == nil
}

// serveXenstore is what the control port is elsewhere: the report goes to the guest's part of xenstore each time it
// changes, and what the host writes to xenstore.OrderPath is carried out. An orderly end asked for by `xl shutdown`
// needs nothing of this: the kernel hears of it and calls /sbin/poweroff (drivers/xen/manage.c).
func serveXenstore(ctx context.Context, env *child.Env, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("xenstore: %w", err)
	}
	conn := xenstore.New(f)
	defer conn.Close()
	s := &stored{conn: conn, tell: env.Tell, log: env.Log}
	if err := conn.Watch(ctx, xenstore.OrderPath, "order"); err != nil {
		return err
	}
	env.Ready()
	return s.serve(ctx, env.Reports)
}

// stored is the guest's end of xenstore.
type stored struct {
	conn *xenstore.Conn
	tell func(key string, value any)
	log  *slog.Logger
	last *contract.Report // the newest; nil: none yet
}

// storeTime bounds one exchange with xenstore, a dozen requests for a report. A host that is busy with other guests has
// been seen to take seconds for each; beginning anew would not make it faster.
const storeTime = 5 * time.Minute

// serve runs until ctx is done, reports end or the connection breaks.
func (s *stored) serve(ctx context.Context, reports <-chan contract.Report) error {
	err := s.exchange(ctx, reports)
	if ctx.Err() != nil {
		return nil // whatever was under way
	}
	return err
}

func (s *stored) exchange(ctx context.Context, reports <-chan contract.Report) error {
	for {
		select {
		case r, ok := <-reports:
			if !ok {
				return nil
			}
			s.last = &r
			if err := s.publish(ctx); err != nil {
				return err
			}
		case _, ok := <-s.conn.Events():
			if !ok {
				return fmt.Errorf("orders of the host: %w", xenstore.ErrClosed)
			}
			if err := s.takeOrder(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// publish writes the newest report. While there is none, what an earlier process of this child left stays.
func (s *stored) publish(ctx context.Context) error {
	if s.last == nil {
		return nil
	}
	b, err := json.Marshal(s.last)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	return s.conn.Publish(ctx, status(*s.last), b)
}

// status is the verdict in one word.
func status(r contract.Report) string {
	switch {
	case r.Ready:
		return contract.ReadyPrefix
	case r.Settled:
		return contract.FailedPrefix
	}
	return xenstore.Starting
}

// takeOrder carries out what the host asks for, once, and says by an empty value that it was seen. Both are one
// transaction: an order that comes between them is not lost.
func (s *stored) takeOrder(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	var line []byte
	err := s.conn.Transact(ctx, func(t xenstore.Tx) (err error) {
		line, err = t.Read(ctx, xenstore.OrderPath)
		if errors.Is(err, xenstore.ErrAbsent) || err == nil && len(line) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		return t.Write(ctx, xenstore.OrderPath, nil)
	})
	if err != nil || len(line) == 0 {
		return err
	}
	r, err := ParseCommand(strings.TrimSpace(string(line)))
	switch {
	case err != nil:
		s.log.Warn("command refused", "error", err)
	case r.Verb == verbStatus:
		return s.publish(ctx)
	default:
		s.tell(child.KeyRequest, r)
	}
	return nil
}
