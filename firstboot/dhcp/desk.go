package dhcp

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"rempart/firstboot/contract"
	"rempart/firstboot/dhcp/lease"
	v4 "rempart/firstboot/dhcp/v4"
	v6 "rempart/firstboot/dhcp/v6"
	"rempart/firstboot/door"
)

// desk answers administrators on a unix socket: one question, a line of JSON, a connection.
type desk struct {
	store   *lease.Store // of DHCPv4
	server  *v4.Server
	server6 *v6.Server
	log     *slog.Logger
}

// Bounds of a question: its size in bytes, how long it may take, and how many are answered at once.
const (
	maxQuestion  = 4096
	deskPatience = 30 * time.Second
	maxAsking    = 8
)

// serve answers root, administrators, and the child itself.
func (d *desk) serve(ctx context.Context, path string) error {
	entrance := door.Door{Name: "socket of leases", Most: maxAsking, Log: d.log,
		Allowed: []uint32{contract.UIDRoot, contract.UIDAdmin, uint32(os.Getuid())}}
	l, err := entrance.Listen(path)
	if err != nil {
		return err
	}
	entrance.Serve(ctx, l, func(ctx context.Context, conn *net.UnixConn, _ uint32) {
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		if err := d.answer(conn); err != nil {
			d.log.Debug("a question about leases was not answered", "error", err)
		}
	})
	return nil
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
	all := append(d.store.All(), d.server6.Leases()...)
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
	p, err := contract.ParseLeased(text)
	if err != nil {
		return err.Error()
	}
	done := make(chan error, 1)
	tell := func(err error) { done <- err }
	had := false
	switch {
	case p.Addr().Is6():
		had = d.server6.Release(p, tell)
	case p.IsSingleIP(): // nobody is given an IPv4 prefix
		had = d.server.Release(p.Addr(), tell)
	}
	if !had {
		return fmt.Sprintf("nobody has a lease of %s", text)
	}
	if err := <-done; err != nil {
		return err.Error()
	}
	d.log.Info("an administrator ended a lease", "address", text)
	return ""
}
