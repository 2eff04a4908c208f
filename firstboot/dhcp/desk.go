package dhcp

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/contract"
	"rempart/firstboot/dhcp/lease"
	"rempart/firstboot/dhcp/v4"
)

// desk answers administrators on a unix socket: one question, a line of JSON, a connection.
type desk struct {
	store  *lease.Store
	server *v4.Server
	log    *slog.Logger
}

// Bounds of a question: its size in bytes, how long it may take, and how many are answered at once.
const (
	maxQuestion  = 4096
	deskPatience = 30 * time.Second
	maxAsking    = 8
)

func (d *desk) serve(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the socket of the leases: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("the socket of the leases: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil { // who connects is judged by who it is: see allowed
		return errors.Join(fmt.Errorf("the socket of the leases: %w", err), l.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	slots := make(chan struct{}, maxAsking)
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the socket of the leases: %w", err)
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			defer conn.Close()
			if !allowed(conn) {
				return
			}
			if err := d.answer(conn); err != nil {
				d.log.Debug("a question about leases was not answered", "error", err)
			}
		}()
	}
}

// allowed tells whether somebody may ask: root, administrators, and the child itself.
func allowed(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if cerr != nil || err != nil {
		return false
	}
	return peer.Uid == contract.UIDRoot || peer.Uid == contract.UIDAdmin || int(peer.Uid) == os.Getuid()
}

func (d *desk) answer(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(deskPatience)); err != nil {
		return err
	}
	in := bufio.NewReaderSize(conn, maxQuestion)
	line, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	var q contract.LeaseQuestion
	if err := json.Unmarshal(line, &q); err != nil {
		return err
	}
	out := bufio.NewWriter(conn)
	say := json.NewEncoder(out)
	switch {
	case q.Release == "":
		err = d.list(say)
	default:
		err = say.Encode(contract.ServedLease{Error: d.release(q.Release)})
	}
	return errors.Join(err, out.Flush())
}

// list says all leases, by address.
func (d *desk) list(say *json.Encoder) error {
	all := d.store.All()
	slices.SortFunc(all, func(a, b lease.Lease) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Bits, b.Bits)) })
	now := d.store.Now()
	for _, l := range all {
		s := contract.ServedLease{Address: l.Addr.String(), Name: l.Name, State: "free",
			Hardware: net.HardwareAddr(l.Hardware).String()}
		if l.Bits > 0 {
			s.Address = netip.PrefixFrom(l.Addr, l.Bits).String()
		}
		if l.Expires != lease.Forever {
			s.Ends = l.Expires
		}
		switch {
		case l.Active(now) && l.State == lease.Bound:
			s.State = "leased"
		case l.Active(now):
			s.State = "in use by somebody else"
		}
		if err := say.Encode(s); err != nil {
			return err
		}
	}
	return nil
}

// release ends a lease; what it returns says why not, or nothing.
func (d *desk) release(text string) string {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return fmt.Sprintf("%.64q is no address", text)
	}
	done := make(chan error, 1)
	if !d.server.Release(a, func(err error) { done <- err }) {
		return fmt.Sprintf("nobody has a lease of %v", a)
	}
	if err := <-done; err != nil {
		return err.Error()
	}
	d.log.Info("an administrator ended a lease", "address", a)
	return ""
}
