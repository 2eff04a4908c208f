package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"

	"rempart/profiles"
)

// escapeKey ends a guest: Ctrl-], as in telnet and `virsh console`.
const escapeKey = 0x1d

// terminal is the person's terminal while it belongs to a guest.
type terminal struct {
	c     *console
	in    io.Reader
	raw   *term.State // nil: standard input is no terminal, or it is restored
	fd    int
	mutex sync.Mutex
}

// openTerminal hands standard input over to the guest, key by key when it is a terminal.
func openTerminal(c *console) (*terminal, error) {
	t := &terminal{c: c, in: c.in}
	f, ok := c.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return t, nil
	}
	t.fd = int(f.Fd())
	var err error
	if t.raw, err = term.MakeRaw(t.fd); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	return t, nil
}

// restore gives the terminal back as it was. It may be called more than once.
func (t *terminal) restore() {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.raw != nil {
		// Nothing better can be done than trying.
		_ = term.Restore(t.fd, t.raw)
		t.raw = nil
	}
}

// say prints a line of ours between those of the guest.
func (t *terminal) say(format string, args ...any) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	end := "\n"
	if t.raw != nil {
		end = "\r\n"
	}
	fmt.Fprint(t.c.err, "rempart: ", fmt.Sprintf(format, args...), end)
}

// forward passes what is typed on to the guest and reports each escapeKey. It ends with the input; a read that is
// under way when ctx ends is left behind, for there is no way to end it.
func (t *terminal) forward(ctx context.Context, guest io.Writer) <-chan struct{} {
	escapes := make(chan struct{})
	go func() {
		buf := make([]byte, 256)
		for ctx.Err() == nil {
			n, err := t.in.Read(buf)
			typed := buf[:n]
			for {
				i := bytes.IndexByte(typed, escapeKey)
				if i < 0 {
					break
				}
				typed = append(typed[:i:i], typed[i+1:]...)
				select {
				case escapes <- struct{}{}:
				case <-ctx.Done():
					return
				}
			}
			if len(typed) > 0 {
				if _, err := guest.Write(typed); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return escapes
}

// userNetwork is what QEMU's user-mode network must look like for a link with an address of its own: the link's
// subnet and its gateway in it. Zero values: the link asks by DHCP, or has no gateway.
func userNetwork(l profiles.Link) (subnet netip.Prefix, gateway netip.Addr) {
	for _, a := range l.Addresses {
		for _, g := range l.Gateways {
			// QEMU keeps the third address for its name server and from the fifteenth on for DHCP.
			if a.Addr().Is4() && a.Masked().Contains(g.Addr) && !strings.HasSuffix(g.Addr.String(), ".3") {
				return a.Masked(), g.Addr
			}
		}
	}
	return netip.Prefix{}, netip.Addr{}
}
