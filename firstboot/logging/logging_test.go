package logging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/logging/segment"
	"rempart/profiles"
)

// running is the child in a temporary root.
type running struct {
	root     string
	lines    chan child.Line
	reports  chan contract.Report
	warnings chan string
	stop     func()
}

func start(t *testing.T, root string) *running {
	t.Helper()
	return startWith(t, root, &profiles.Profile{})
}

func startWith(t *testing.T, root string, p *profiles.Profile) *running {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(root, contract.LogRunDir), 0o755); err != nil {
		t.Fatal(err)
	}
	r := &running{root: root, lines: make(chan child.Line), reports: make(chan contract.Report),
		warnings: make(chan string, 100)}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	env := &child.Env{Root: root, Profile: p, Log: slog.New(slog.DiscardHandler), Ready: func() { close(ready) },
		Lines: r.lines, Reports: r.reports, Tell: func(key string, value any) { r.warnings <- fmt.Sprint(key, " ", value) }}
	go func() { ended <- run(ctx, env) }()
	r.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		ended <- nil
	}
	t.Cleanup(r.stop)
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("run = %v", err)
	}
	return r
}

// errEnough ends a following.
var errEnough = errors.New("enough")

// follow returns n entries from a number on.
func (r *running) follow(t *testing.T, from uint64, n int) (all []segment.Entry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := Follow(ctx, filepath.Join(r.root, contract.LogSocket), Request{From: from, Follow: true},
		func(e segment.Entry) error {
			if all = append(all, e); len(all) == n {
				return errEnough
			}
			return nil
		})
	if !errors.Is(err, errEnough) {
		t.Fatalf("after %d of %d entries: %v", len(all), n, err)
	}
	return all
}

func TestLinesAreKeptAndFollowed(t *testing.T) {
	root := t.TempDir()
	r := start(t, root)
	r.lines <- child.Line{Time: 1e15, Uptime: 2e6, Severity: 4, From: "link", Text: "lan0 is gone\x1b[2J"}
	r.lines <- child.Line{From: "init", Text: "second", Severity: 6, Lost: 7}
	r.lines <- child.Line{Lost: 1}
	r.reports <- contract.Report{}
	r.reports <- contract.Report{Ready: true, Settled: true}
	r.reports <- contract.Report{Ready: true, Settled: true}
	r.reports <- contract.Report{Settled: true, Failures: []string{"link lan0: down"}}
	got := r.follow(t, 1, 6)
	for i, want := range []string{"link lan0 is gone?[2J", "log 7 lines were dropped before the log could take them",
		"init second", "log 1 lines were dropped before the log could take them", "health READY",
		"health FAILED: link lan0: down"} {
		if s := got[i].From + " " + got[i].Text; s != want || got[i].Number != uint64(i+1) {
			t.Errorf("entry %d = %s; want %s", i+1, got[i], want)
		}
	}
	if got[0].Severity != segment.Warning || got[0].Time.UnixMicro() != 1e15 || got[0].Uptime != 2*time.Second ||
		got[5].Severity != segment.Error {
		t.Errorf("entries %v: want the time, uptime and severity they were said with", got)
	}
	r.stop()
	// Over a restart the log goes on, and nothing is there twice.
	r = start(t, root)
	r.lines <- child.Line{From: "init", Text: "third"}
	if got := r.follow(t, 6, 2); got[1].Text != "third" || got[1].Number != 7 {
		t.Errorf("after a restart: %v; want third as number 7", got)
	}
	var last []segment.Entry
	err := Follow(t.Context(), filepath.Join(root, contract.LogSocket), Request{Last: 2},
		func(e segment.Entry) error { last = append(last, e); return nil })
	if err != nil || len(last) != 2 || last[1].Number != 7 {
		t.Errorf("the last two = %v, %v", last, err)
	}
}

func TestOneSourceCannotFillTheLog(t *testing.T) {
	clock := time.Duration(0)
	store, err := segment.Open(segment.Place{Dir: t.TempDir(), Bytes: 8 << 20},
		segment.Place{Dir: t.TempDir(), Bytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	k := &keeper{store: store, meters: map[string]*meter{}, now: func() time.Duration { return clock }}
	say := func(from string, n int) {
		for range n {
			k.line(child.Line{From: from, Text: "again"})
			k.write()
		}
	}
	say("kernel", 5000)
	say("link", 3)
	clock += time.Second
	say("kernel", 1)
	say("kernel", 100)
	clock += time.Minute
	k.settle(false)
	kept := map[string]int{}
	var confessed []string
	r := store.ReadFrom(1)
	for {
		entries, err := r.Read()
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			if kept[e.From]++; e.From == "log" {
				confessed = append(confessed, e.Text)
			}
		}
	}
	if kept["kernel"] != burst+perSecond || kept["link"] != 3 {
		t.Errorf("kept %v; want %d of the kernel's and 3 of link", kept, burst+perSecond)
	}
	want := fmt.Sprintf("%d lines of kernel were not kept: more than %d a second; %[3]d lines of kernel were not kept:"+
		" more than %[2]d a second", 5000-burst, perSecond, 101-perSecond)
	if got := strings.Join(confessed, "; "); got != want {
		t.Errorf("confessed %q; want %q", got, want)
	}
}

func TestUnusableStateDiskIsTold(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "var"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "var/log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, root)
	var said string
	for !strings.Contains(said, "in memory only") {
		said = <-r.warnings
	}
	r.lines <- child.Line{From: "init", Text: "kept all the same"}
	if got := r.follow(t, 1, 2); got[1].Text != "kept all the same" {
		t.Errorf("log = %v", got)
	}
}

func TestFollowersAreBounded(t *testing.T) {
	r := start(t, t.TempDir())
	socket := filepath.Join(r.root, contract.LogSocket)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.lines <- child.Line{From: "init", Text: "one"}
	following := make(chan struct{}, maxFollowers)
	for range maxFollowers {
		go func() {
			_ = Follow(ctx, socket, Request{From: 1, Follow: true}, func(segment.Entry) error {
				following <- struct{}{}
				return nil
			})
		}()
	}
	for range maxFollowers {
		<-following
	}
	err := Follow(ctx, socket, Request{From: 1, Follow: true}, func(segment.Entry) error { return nil })
	if err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("one follower more than %d is served: %v", maxFollowers, err)
	}
}

func TestParseRecord(t *testing.T) {
	for _, c := range []struct {
		in   string
		want record
	}{
		{"6,339,5140900,-;NET: Registered protocol family 10\n SUBSYSTEM=x\n",
			record{segment.Info, 339, 5140900 * time.Microsecond, "NET: Registered protocol family 10"}},
		{"30,1,0,c,caller=T1;a;b", record{segment.Info, 1, 0, "a;b"}},
		{"12,2,7,-;\n", record{segment.Warning, 2, 7 * time.Microsecond, ""}},
	} {
		if got, err := parseRecord(c.in); err != nil || got != c.want {
			t.Errorf("parseRecord(%q) = %+v, %v; want %+v", c.in, got, err, c.want)
		}
	}
	for _, in := range []string{"", "6,1,2,-", "6,1,2;x", "x,1,2,-;x", "6,-1,2,-;x", "6,1,99999999999999999,-;x"} {
		if got, err := parseRecord(in); err == nil {
			t.Errorf("parseRecord(%q) = %+v; want an error", in, got)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add("6,339,5140900,-;NET: Registered\n SUBSYSTEM=x\n")
	f.Fuzz(func(t *testing.T, in string) {
		r, err := parseRecord(in)
		if err == nil && (r.severity < 0 || r.severity > 7 || r.at < 0 || strings.Contains(r.text, "\n")) {
			t.Errorf("parseRecord(%q) = %+v", in, r)
		}
	})
}

// TestKernelsOwnLog reads this machine's kernel log twice, the second time from where the first ended.
func TestKernelsOwnLog(t *testing.T) {
	dir := t.TempDir()
	read := func() (all []segment.Entry) {
		f, err := os.OpenFile("/dev/kmsg", os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Skipf("SKIPPED, NOT PASSED: the kernel log cannot be read here: %v", err)
		}
		defer f.Close()
		if _, err := f.Seek(0, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		w, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
		if err != nil {
			t.Skipf("SKIPPED, NOT PASSED: the kernel log cannot be written here: %v", err)
		}
		defer w.Close()
		for range 2 {
			if _, err := w.WriteString("<6>rempart: a test of reading the kernel log\n"); err != nil {
				t.Fatal(err)
			}
		}
		out := make(chan segment.Entry)
		ended := make(chan error, 1)
		go func() { ended <- readKernel(f, filepath.Join(dir, "mark"), out) }()
		for range 2 {
			select {
			case e := <-out:
				all = append(all, e)
			case err := <-ended:
				t.Fatal(err)
			case <-time.After(time.Minute):
				t.Fatal("two messages were written and not read")
			}
		}
		return all
	}
	for range 2 {
		for _, e := range read() {
			if !strings.Contains(e.Text, "rempart: a test") && !strings.Contains(e.Text, "overwritten") &&
				e.From != "kernel" || time.Since(e.Time).Abs() > time.Hour {
				t.Errorf("entry %v", e)
			}
		}
	}
}
