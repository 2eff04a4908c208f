package net

import (
	"bufio"
	"encoding/json"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

// underLoad is what goes on in one family while policies change.
type underLoad struct {
	allowed    filter.Probe
	stream     stream
	sent, lost func() int
	leaks      func() (tried, passed int)
	measured   chan struct{} // closed when iperf3 has ended, or is not asked
	iperf      []byte        // what it said
	iperfErr   error
}

// underLoad begins it for the family of a host. Where there are several, iperf3 runs in each.
func (l *lab) underLoad(t *testing.T, p *profiles.Profile, src netip.Addr, stop chan struct{},
	background *sync.WaitGroup) *underLoad {
	t.Helper()
	f := &underLoad{measured: make(chan struct{})}
	f.allowed = l.fill(pick(t, p, "dmz -> internet tcp", func(x filter.Probe) bool {
		return x.Pass && x.From == "dmz" && x.To == "internet" && x.Protocol == profiles.TCP && x.Src == src
	}))
	denied := l.fill(pick(t, p, "internet -> dmz udp", func(x filter.Probe) bool {
		return !x.Pass && x.From == "internet" && x.To == "dmz" && x.Protocol == profiles.UDP && x.Src.Is4() == src.Is4()
	}))
	datagram := f.allowed
	datagram.Protocol = profiles.UDP
	l.listen(t, []filter.Probe{f.allowed, datagram, denied})
	f.stream = l.openStream(t, f.allowed)
	l.iperf3(t, f, background)
	f.sent, f.lost = l.datagrams(t, datagram, stop, background)
	f.leaks = l.knockUnanswered(t, denied, stop, background)
	return f
}

// iperf3 has a TCP stream of so many seconds measured, at a pace that leaves the machine to the others.
func (l *lab) iperf3(t *testing.T, f *underLoad, background *sync.WaitGroup) {
	t.Helper()
	const seconds, pace, port = "8", "20M", "5201"
	server := l.receiver(t, f.allowed).Command("iperf3", "--server", "--one-off", "--port", port,
		"--bind", f.allowed.SeenDst.String(), "--forceflush")
	said, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	for lines := bufio.NewScanner(said); ; {
		if !lines.Scan() {
			t.Fatalf("iperf3 --server ended before it listened: %v", lines.Err())
		}
		if strings.Contains(lines.Text(), "listening on") {
			break
		}
	}
	client := l.host(t, f.allowed.Link, f.allowed.Src).Command("iperf3", "--client", f.allowed.Dst.String(),
		"--port", port, "--bind", f.allowed.Src.String(), "--time", seconds, "--bitrate", pace, "--json")
	background.Go(func() {
		defer close(f.measured)
		f.iperf, f.iperfErr = client.CombinedOutput()
	})
}

// judge demands that every flow that may be there lived, and that none passed that may not.
func (f *underLoad) judge(t *testing.T, reloads int) {
	t.Helper()
	if err := f.stream.roundTrip(); err != nil {
		t.Errorf("the stream from %v did not survive %d reloads: %v", f.allowed.Src, reloads, err)
	}
	if f.lost() != 0 || f.sent() == 0 {
		t.Errorf("%d of %d datagrams from %v that may pass were lost during %d reloads; want 0 of many", f.lost(),
			f.sent(), f.allowed.Src, reloads)
	}
	tried, passed := f.leaks()
	if tried == 0 || passed != 0 {
		t.Errorf("%d of %d forbidden datagrams passed during %d reloads; want 0 of many", passed, tried, reloads)
	}
	var report struct {
		End struct {
			Received struct {
				Seconds float64 `json:"seconds"`
				Bits    float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
		Intervals []struct {
			Sum struct {
				Bytes float64 `json:"bytes"`
			} `json:"sum"`
		} `json:"intervals"`
	}
	if err := json.Unmarshal(f.iperf, &report); err != nil || f.iperfErr != nil || len(report.Intervals) == 0 ||
		report.Intervals[len(report.Intervals)-1].Sum.Bytes == 0 || report.End.Received.Bits == 0 {
		t.Errorf("iperf3 from %v: %v, %v; want a stream that flows to its end\n%s", f.allowed.Src, f.iperfErr, err, f.iperf)
	}
	t.Logf("from %v: iperf3 %.1f Mbit/s for %.1f s; %d datagrams, %d lost; %d forbidden ones, %d passed", f.allowed.Src,
		report.End.Received.Bits/1e6, report.End.Received.Seconds, f.sent(), f.lost(), tried, passed)
}
