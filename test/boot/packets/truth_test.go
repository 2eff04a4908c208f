package packets

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"rempart/builder/virtualnet"
	"rempart/test/netns"
)

// verdict is what must become of a row.
type verdict int

const (
	drop  verdict = iota // goes to the guest; nothing of it comes out, and nothing answers
	reach                // goes to the guest, which answers: a reset or an error as well as a reply
	pass                 // comes out of the guest as the row says, and the answer gets back
)

func (v verdict) String() string { return [...]string{"drop", "reach", "pass"}[v] }

// row is one line of a truth table that a person wrote from the words of a profile, not from code.
type row struct {
	from string // the host
	src  string // its address
	flow string // "tcp", "udp" or "ping"
	to   string // address, with a port unless it is ping
	want verdict
	out  string // pass: how the flow leaves the guest: "LINK SOURCE DESTINATION"
}

func (r row) String() string {
	return fmt.Sprintf("%s (%s) %s %s: %s", r.from, r.src, r.flow, r.to, r.want)
}

// target is where the row knocks; port 0 for ping.
func (r row) target() netip.AddrPort {
	if r.flow == "ping" {
		return netip.AddrPortFrom(netip.MustParseAddr(r.to), 0)
	}
	return netip.MustParseAddrPort(r.to)
}

var protocols = map[string]virtualnet.Protocol{"tcp": virtualnet.TCP, "udp": virtualnet.UDP,
	"ping": virtualnet.EchoRequest}

// How long the programs wait, in seconds: where something must come long enough for the retransmission of a lost
// packet, where nothing may come until what is lost by the guest is lost. That nothing passed is read from the frames,
// after later flows have passed, and not concluded from this silence.
const (
	untilAnswer  = "6"
	untilSilence = "1"
)

// datagrams makes the payload of each datagram its own.
var datagrams atomic.Int64

// command is the program that tries the row.
func (r row) command(n *netns.Node) *exec.Cmd {
	wait := untilAnswer
	if r.want == drop {
		wait = untilSilence
	}
	host, port := r.target().Addr().String(), fmt.Sprint(r.target().Port())
	switch {
	case r.flow == "ping":
		return n.Command("ping", "-n", "-I", r.src, "-c", "1", "-W", wait, host)
	case r.flow == "udp":
		cmd := n.Command("nc", "-n", "-u", "-s", r.src, "-w", wait, "-W", "1", host, port)
		cmd.Stdin = strings.NewReader(fmt.Sprintf("datagram %d", datagrams.Add(1)))
		return cmd
	case r.want == pass:
		return n.Command("curl", "-sS", "-m", wait, "--interface", r.src, "http://"+r.to+"/")
	}
	return n.Command("nc", "-n", "-z", "-s", r.src, "-w", wait, host, port)
}

// result is what the program of a row said.
type result struct {
	out string
	err error
}

// run tries rows, several at a time, and returns what their programs said.
func (w *world) run(t *testing.T, rows []row) []result {
	t.Helper()
	const atOnce = 8 // two cores
	results := make([]result, len(rows))
	slots := make(chan struct{}, atOnce)
	var wait sync.WaitGroup
	for i, r := range rows {
		n := w.hosts[r.from]
		if n == nil {
			t.Fatalf("%s: there is no such host", r)
		}
		wait.Add(1)
		slots <- struct{}{}
		go func() {
			defer func() { <-slots; wait.Done() }()
			out, err := r.command(n).CombinedOutput()
			results[i] = result{string(out), err}
		}()
	}
	wait.Wait()
	return results
}

// truth tries every row and judges, with the flows that must pass before and after those that must not: what is queued
// in the guest comes out before what came later.
func (w *world) truth(t *testing.T, rows []row) {
	t.Helper()
	var open []row
	for _, r := range rows {
		if r.want == pass {
			open = append(open, r)
		}
	}
	if len(open) == 0 {
		t.Fatal("no row must pass: nothing shows that anything could")
	}
	before := w.run(t, open)
	results := w.run(t, rows)
	after := w.run(t, open)
	for i, r := range rows {
		r.judge(t, w.watch, results[i])
	}
	for i, r := range open {
		r.judge(t, w.watch, before[i])
		r.judge(t, w.watch, after[i])
	}
}

// judge holds what a program said, and what the taps saw of its flow, against the row.
func (r row) judge(t *testing.T, w *watch, said result) {
	t.Helper()
	traces := w.of(func(x *trace) bool {
		return x.knock == nil && x.protocol == protocols[r.flow] && x.src.Addr().String() == r.src && x.dst == r.target()
	})
	sent := 0
	var through, answers []sighting
	for _, trace := range traces {
		sent += trace.sent
		through = append(through, trace.through()...)
		answers = append(answers, trace.answers()...)
	}
	if sent == 0 {
		t.Errorf("%s: it never went to the guest, so nothing is shown\n%s", r, said.out)
		return
	}
	switch r.want {
	case drop:
		if len(through) > 0 {
			t.Errorf("%s: it LEAKED: %v", r, through)
		}
		if len(answers) > 0 {
			t.Errorf("%s: it was answered: %v", r, answers)
		}
		if said.err == nil && r.flow != "udp" { // nc cannot tell an unanswered datagram from one that arrived
			t.Errorf("%s: its program succeeded: %s", r, said.out)
		}
	case reach:
		if len(answers)+len(through) == 0 {
			t.Errorf("%s: the guest neither answered nor sent it on\n%s", r, said.out)
		}
	case pass:
		r.judgePass(t, through, len(answers) > 0, said)
	}
}

func (r row) judgePass(t *testing.T, through []sighting, answered bool, said result) {
	t.Helper()
	words := strings.Fields(r.out)
	if len(words) != 3 {
		t.Fatalf("%s: out = %q; want LINK SOURCE DESTINATION", r, r.out)
	}
	dst := netip.AddrPort{}
	if r.flow == "ping" {
		dst = netip.AddrPortFrom(netip.MustParseAddr(words[2]), 0)
	} else {
		dst = netip.MustParseAddrPort(words[2])
	}
	if len(through) == 0 {
		t.Errorf("%s: it did not come out of the guest; want it as %s\n%s", r, r.out, said.out)
	}
	for _, s := range through {
		if s.link != words[0] || s.src.String() != words[1] || s.dst != dst {
			t.Errorf("%s: it came out as %v; want %s", r, s, r.out)
		}
	}
	if !answered || said.err != nil {
		t.Errorf("%s: the answer did not get back: seen %v, program %v\n%s", r, answered, said.err, said.out)
	}
	if want := "seen from " + words[1]; r.flow != "ping" && !strings.Contains(strings.NewReplacer("[", "", "]", "").
		Replace(said.out), want) {
		t.Errorf("%s: the server answered %q; want %q in it", r, said.out, want)
	}
}
