package ssh

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
)

// TestDesk has commands carried out over a socket as the admin child has it.
func TestDesk(t *testing.T) {
	d := &desk{socket: filepath.Join(t.TempDir(), "socket"), status: &status{}}
	d.status.report = contract.Report{Name: "gw", Root: contract.RootReport{ReadOnlyDisk: true}}
	if got := d.Prompt(); got != "gw [read-only]" {
		t.Errorf("Prompt = %q", got)
	}
	d.status.report.Root.ReadOnlyDisk = false
	if got := d.Prompt(); got != "gw [WRITABLE]" {
		t.Errorf("Prompt = %q", got)
	}
	var out, errOut bytes.Buffer
	call := Call{Args: []string{"status", "a b"}, Since: 1.5, Stdin: strings.NewReader("input"), Stdout: &out,
		Stderr: &errOut}
	if got := d.Run(t.Context(), call); got != ctl.Failed || !strings.Contains(errOut.String(), "nobody in the guest") {
		t.Errorf("without an admin child: %d, %q", got, errOut.String())
	}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	given := make(chan struct{})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				budget := ctl.NewBudget(ctl.MaxInput)
				_ = ctl.Serve(context.Background(), conn, budget, func(ctx context.Context, r ctl.Request) int {
					if r.Args[0] == "wait" {
						close(given)
						<-ctx.Done()
						return ctl.Failed
					}
					in, _ := io.ReadAll(r.Stdin)
					fmt.Fprintf(r.Stdout, "%q %v %s", r.Args, r.Since, in)
					fmt.Fprint(r.Stderr, "beware")
					return 7
				})
			}()
		}
	}()
	out.Reset()
	errOut.Reset()
	got := d.Run(t.Context(), call)
	if want := `["status" "a b"] 1.5 input`; got != 7 || out.String() != want || errOut.String() != "beware" {
		t.Errorf("Run = %d, %q, %q; want 7, %q", got, out.String(), errOut.String(), want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-given; cancel() }()
	errOut.Reset()
	if got := d.Run(ctx, Call{Args: []string{"wait"}, Stdout: &out, Stderr: &errOut}); got != ctl.Failed ||
		errOut.Len() > 0 {
		t.Errorf("a command given up = %d, %q", got, errOut.String())
	}
}
