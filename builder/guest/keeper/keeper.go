// Package keeper is how a guest runs on after the command that started it: a process of its own keeps it, reads its
// console, and serves other commands at a socket: how it is, its console, its end.
//
// A caller writes one request, a line of JSON, and reads one answer. After that to "console" the connection is the
// guest's serial port; after all others it ends.
//
// What it deliberately does not do: start the guest, or decide when it should end.
package keeper

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"rempart/builder/hypervisor/qemu"
	"rempart/firstboot/contract"
)

// What may be asked for.
const (
	DoStatus  = "status"  // how the guest is
	DoReady   = "ready"   // the same, once it is ready, has failed, or has ended
	DoStop    = "stop"    // the same, once it has ended: by its power button, and when that took Patience at once
	DoConsole = "console" // its serial port
)

// Request is what a caller asks for.
type Request struct {
	Do       string        `json:"do"`
	Patience time.Duration `json:"patience,omitempty"` // nanoseconds
}

// Phases of a guest.
const (
	Starting = "starting" // it has said nothing yet that counts
	Ready    = "ready"    // everything its profile declares works
	Failed   = "failed"   // it is closed or degraded, and says so
	Ended    = "ended"
)

// Answer tells how the guest is. All a guest says is a claim: it may be compromised.
type Answer struct {
	Error  string           `json:"error,omitempty"` // why the request was refused
	Phase  string           `json:"phase,omitempty"`
	Why    string           `json:"why,omitempty"` // of failed and ended
	PID    int              `json:"pid,omitempty"` // of the hypervisor process
	Accel  string           `json:"accel,omitempty"`
	Since  time.Time        `json:"since,omitzero"`
	Report *contract.Report `json:"report,omitempty"`
}

// Guest is what is kept: a *guest.Guest, or in a test something simpler.
type Guest interface {
	AwaitReady(ctx context.Context) error
	Report() contract.Report
	Stop(ctx context.Context, patience time.Duration) qemu.End
	Done() <-chan struct{}
	PID() int
}

// Keeper serves the commands for one guest.
type Keeper struct {
	guest    Guest
	keyboard io.Writer
	screen   *Screen
	accel    string
	since    time.Time

	ready   chan struct{} // closed when verdict is there
	verdict error         // of AwaitReady
	serving sync.WaitGroup
}

// New makes the keeper of a guest that runs: keyboard is what its console reads, and screen is given what it says.
func New(ctx context.Context, g Guest, keyboard io.Writer, screen *Screen, accel string) *Keeper {
	k := &Keeper{guest: g, keyboard: keyboard, screen: screen, accel: accel, since: time.Now(),
		ready: make(chan struct{})}
	go func() {
		k.verdict = g.AwaitReady(ctx)
		close(k.ready)
	}()
	return k
}

// maxCallers bounds those served at a time, requestTime how long one may take to say what it wants, and readTime how
// long it may leave unread what it is told: one that is stopped must not keep the keeper from its end.
const (
	maxCallers  = 32
	requestTime = 10 * time.Second
	readTime    = 5 * time.Second
)

// Serve answers callers until the guest has ended and they have been told so.
func (k *Keeper) Serve(listener net.Listener) {
	stop := make(chan struct{})
	go func() {
		<-k.guest.Done()
		<-k.ready
		k.screen.Close() // all seats may be those of viewers
		listener.Close()
		close(stop)
	}()
	seats := make(chan struct{}, maxCallers)
	for {
		conn, err := listener.Accept()
		if err != nil {
			select {
			case <-stop:
				k.serving.Wait()
				return
			case <-time.After(100 * time.Millisecond): // out of descriptors, say: it may pass
				continue
			}
		}
		seats <- struct{}{}
		k.serving.Go(func() {
			defer func() { <-seats }()
			defer conn.Close()
			k.serve(conn)
		})
	}
}

// maxRequest bounds a request in bytes.
const maxRequest = 4096

func (k *Keeper) serve(conn net.Conn) {
	in := bufio.NewReaderSize(conn, maxRequest)
	if conn.SetDeadline(time.Now().Add(requestTime)) != nil {
		return
	}
	var r Request
	line, err := in.ReadSlice('\n')
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		answer(conn, Answer{Error: fmt.Sprintf("not a request: %v", err)})
		return
	}
	switch r.Do {
	case DoStatus:
		answer(conn, k.status())
	case DoReady:
		gone := hungUp(in)
		select {
		case <-k.ready:
			answer(conn, k.status())
		case <-gone:
		}
	case DoStop:
		k.guest.Stop(context.Background(), r.Patience) // whether or not the caller waits for it
		<-k.ready
		answer(conn, k.status())
	case DoConsole:
		if answer(conn, k.status()) == nil {
			k.console(conn, in)
		}
	default:
		answer(conn, Answer{Error: fmt.Sprintf("there is no request %.40q", r.Do)})
	}
}

func answer(conn net.Conn, a Answer) error {
	b, err := json.Marshal(a)
	if err == nil {
		err = tell(conn, append(b, '\n'))
	}
	return err
}

// tell writes to a caller, which must read it in time.
func tell(conn net.Conn, b []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(readTime)); err != nil {
		return err
	}
	_, err := conn.Write(b)
	return err
}

// hungUp is closed when the other side has.
func hungUp(r io.Reader) <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, r)
		close(gone)
	}()
	return gone
}

// status is how the guest is now.
func (k *Keeper) status() Answer {
	report := k.guest.Report()
	a := Answer{Phase: Starting, PID: k.guest.PID(), Accel: k.accel, Since: k.since, Report: &report}
	select {
	case <-k.ready:
		a.Phase = Ready
		if k.verdict != nil {
			a.Phase, a.Why = Failed, k.verdict.Error()
		}
		if report.Settled && !report.Ready && len(report.Failures) > 0 { // what it became since
			a.Phase, a.Why = Failed, report.Failures[0]
		} else if report.Ready {
			a.Phase, a.Why = Ready, ""
		}
	default:
	}
	select {
	case <-k.guest.Done():
		a.Phase = Ended
		if !errors.Is(k.verdict, context.Canceled) && k.verdict != nil {
			a.Why = k.verdict.Error()
		}
	default:
	}
	a.Why = strings.ToValidUTF8(a.Why[:min(len(a.Why), maxWhy)], "")
	return a
}

// maxWhy bounds what an answer gives as a reason, in bytes: the report has all that the guest says.
const maxWhy = 16 << 10

// console passes on what is typed and what the guest says until either side ends.
func (k *Keeper) console(conn net.Conn, typed io.Reader) {
	said, leave := k.screen.Watch()
	defer leave()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(k.keyboard, typed)
	}()
	for {
		select {
		case piece, ok := <-said:
			if !ok { // the guest has ended, or this viewer did not keep up
				return
			}
			if err := tell(conn, piece); err != nil {
				return
			}
		case <-gone:
			return
		}
	}
}
