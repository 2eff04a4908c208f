package progress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// heard is what a follower was told.
type heard struct {
	work  Work
	lasts bool
	said  []string
	first chan struct{} // closed with the first line
}

func (h *heard) listener() Listener {
	h.first = make(chan struct{})
	return Listener{Began: func(w Work, lasts bool) { h.work, h.lasts = w, lasts },
		Said: func(_ time.Time, text string) {
			if h.said = append(h.said, text); len(h.said) == 1 {
				close(h.first)
			}
		}}
}

func begin(t *testing.T, folder string) *Log {
	t.Helper()
	l, err := Begin(folder, "rempart upgrade")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestFollow has two follow what a command says from its middle to its end, and one after that.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := Follow(t.Context(), dir, Listener{}); !errors.Is(err, ErrNone) {
		t.Errorf("Follow before = %v; want %v", err, ErrNone)
	}
	if now, err := Now(dir); now != nil || err != nil {
		t.Errorf("Now before = %+v, %v; want nobody", now, err)
	}
	l := begin(t, dir)
	l.Say("one")
	now, err := Now(dir)
	if err != nil || now == nil || now.Command != "rempart upgrade" || now.PID != os.Getpid() {
		t.Errorf("Now = %+v, %v; want this process", now, err)
	}
	type result struct {
		heard
		end End
		at  time.Time
		err error
	}
	results := make(chan *result, 2)
	for range 2 {
		r := &result{}
		listener := r.listener()
		go func() {
			r.end, r.at, r.err = Follow(t.Context(), dir, listener)
			results <- r
		}()
		<-r.first
	}
	out, errs := l.Lines(), l.Lines()
	for _, part := range []struct {
		to   *Lines
		text string
	}{{out, "tw"}, {errs, "1 %\r2 %\rthree\n\n"}, {out, "o\nfour\nno end"}} {
		if n, err := part.to.Write([]byte(part.text)); n != len(part.text) || err != nil {
			t.Errorf("Write(%q) = %d, %v; want all of it", part.text, n, err)
		}
	}
	l.End(1, "it broke")
	for range 2 {
		r := <-results
		if r.err != nil || r.end != (End{1, "it broke"}) || !r.lasts || r.work.PID != os.Getpid() ||
			time.Since(r.at) > time.Hour || !slices.Equal(r.said, []string{"one", "three", "two", "four"}) {
			t.Errorf("a follower was told %+v; want all four lines of a command that lasts, and the end", r)
		}
	}
	var later heard
	end, _, err := Follow(t.Context(), dir, later.listener())
	if err != nil || end.Status != 1 || later.lasts || len(later.said) != 4 {
		t.Errorf("afterwards = %+v, %v, %+v; want the same, of one that is over", end, err, later)
	}
	if now, err := Now(dir); now != nil || err != nil {
		t.Errorf("Now afterwards = %+v, %v; want nobody", now, err)
	}
	if info, err := os.Stat(filepath.Join(dir, File)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v; want it for its owner only", info, err)
	}
	// The words of the next take the place of these, also where one was ended before it had said who it is.
	if err := os.WriteFile(filepath.Join(dir, newFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	begin(t, dir).End(0, "")
	later = heard{}
	if end, _, err := Follow(t.Context(), dir, later.listener()); err != nil || end.Status != 0 || len(later.said) != 0 {
		t.Errorf("the next = %+v, %v, %+v; want done, and no words", end, err, later)
	}
}

// TestDies: a follower learns that the process was killed, and one that has had enough of it ends.
func TestDies(t *testing.T) {
	if dir := os.Getenv("REMPART_TEST_PROGRESS"); dir != "" {
		begin(t, dir).Say("at work")
		select {} // until it is killed
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^TestDies$")
	cmd.Env = append(os.Environ(), "REMPART_TEST_PROGRESS="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for { // there is a file as soon as it is whole; the test's own time bounds this
		now, err := Now(dir)
		if err != nil {
			t.Fatal(err)
		}
		if now != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	ctx, enough := context.WithCancel(t.Context())
	var h heard
	listener := h.listener()
	ended := make(chan error, 1)
	go func() {
		_, _, err := Follow(ctx, dir, listener)
		ended <- err
	}()
	<-h.first
	enough()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Follow of one who has had enough = %v; want %v", err, context.Canceled)
	}
	h = heard{}
	listener = h.listener()
	go func() {
		_, _, err := Follow(t.Context(), dir, listener)
		ended <- err
	}()
	<-h.first
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrDied) || h.work.PID != cmd.Process.Pid || !h.lasts {
		t.Errorf("Follow = %v of %+v; want %v of process %d", err, h, ErrDied, cmd.Process.Pid)
	}
	if now, err := Now(dir); now != nil || err != nil {
		t.Errorf("Now = %+v, %v; want nobody", now, err)
	}
}

// TestBounds: however much is said, it is read again, with its end.
func TestBounds(t *testing.T) {
	for name, text := range map[string]string{"short": "x", "long": strings.Repeat("y", 3*maxWords),
		"costly": strings.Repeat("\x01", maxWords), "no text": strings.Repeat("\xffz", maxWords)} {
		dir := t.TempDir()
		l := begin(t, dir)
		for range maxSaid/(around+min(len(text), maxWords)) + 1 {
			fmt.Fprintln(l.Lines(), text)
		}
		l.End(1, text)
		var h heard
		end, _, err := Follow(t.Context(), dir, h.listener())
		if err != nil || end.Status != 1 || len(h.said) < 10 || !strings.Contains(h.said[len(h.said)-1], "more is said") {
			t.Errorf("%s: Follow = %+v, %v after %d lines; want the end, and that more was said", name, end, err, len(h.said))
		}
	}
}

// TestFull: where the room ends within a line only that is lost, and how the command ended is told all the same.
func TestFull(t *testing.T) {
	dir := t.TempDir()
	l := begin(t, dir)
	l.Say("one")
	info, err := l.f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(info.Size()) + 20, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	l.Say("two")
	l.Say("three")
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if now, err := l.f.Stat(); err != nil || now.Size() != info.Size()+20 {
		t.Fatalf("the file is %v, %v; want it to end within a line", now, err)
	}
	l.Say("four")
	l.End(0, "")
	var h heard
	end, _, err := Follow(t.Context(), dir, h.listener())
	if err != nil || end.Status != 0 || !slices.Equal(h.said, []string{"one", "four"}) {
		t.Errorf("Follow = %+v, %v of %q; want the lines that there was room for, and the end", end, err, h.said)
	}
}

// FuzzFollow: whatever a file holds that no process has locked, it is followed to an end.
func FuzzFollow(f *testing.F) {
	dir := f.TempDir()
	l, err := Begin(dir, "rempart backup")
	if err != nil {
		f.Fatal(err)
	}
	l.Say("on the way")
	l.End(0, "")
	whole, err := os.ReadFile(filepath.Join(dir, File))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(bytes.Repeat(whole, 2))
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"end":{}}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h heard
		r := reader{l: h.listener()}
		end, _, err := r.read(bytes.NewReader(b), true)
		switch {
		case err != nil && !errors.Is(err, ErrDamaged):
			t.Errorf("%q: %v; want %v", b, err, ErrDamaged)
		case (end != nil || len(h.said) > 0) && h.work == (Work{}) && !bytes.Contains(b, []byte(`"work"`)):
			t.Errorf("%q: it was told of without a word of whose it is", b)
		}
	})
}
