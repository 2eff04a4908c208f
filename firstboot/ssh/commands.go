package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
	shells "rempart/firstboot/session"
)

// status is the guest's newest report.
type status struct {
	mu     sync.Mutex
	report contract.Report
}

// keep takes reports until there are no more.
func (s *status) keep(reports <-chan contract.Report) {
	for r := range reports {
		s.mu.Lock()
		s.report = r
		s.mu.Unlock()
	}
}

func (s *status) newest() contract.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report
}

// desk has commands carried out by the admin child, which has the rights they need.
type desk struct {
	socket string
	status *status
	shell  string       // socket of the child that starts shells
	shells *atomic.Bool // whether the profile allows any
}

// Prompt is the guest's name, and whether its root can be written.
func (d *desk) Prompt() string {
	r := d.status.newest()
	word := "read-only"
	if !r.Root.ReadOnlyDisk {
		word = "WRITABLE"
	}
	return r.Name + " [" + word + "]"
}

// Shell implements Commands.
func (d *desk) Shell(ctx context.Context, kind string, columns, rows int) (Shell, error) {
	if !d.shells.Load() {
		return nil, nil
	}
	s, err := shells.Open(ctx, d.shell, kind, columns, rows)
	if err != nil {
		return nil, err // not s: a nil pointer is no nil Shell
	}
	return s, nil
}

// Run implements Commands.
func (d *desk) Run(ctx context.Context, c Call) int {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
	if err != nil {
		fmt.Fprintf(c.Stderr, "nobody in the guest carries out commands now: %v\n", err)
		return ctl.Failed
	}
	client := ctl.NewClient(conn)
	defer client.Close()
	status, err := client.Run(ctx, ctl.Call{Args: c.Args, Since: c.Since}, c.Stdin, c.Stdout, c.Stderr)
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(c.Stderr, err)
	}
	return status
}
