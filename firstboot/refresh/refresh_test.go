package refresh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rempart/firstboot/refresh/get"
)

// days is a clock that stands until somebody waits: then it is that much later at once.
type days struct {
	mu    sync.Mutex
	now   time.Time
	waits []time.Duration
	most  int // so many waits, and the last does not end
	over  context.CancelFunc
}

func (d *days) clock() Clock {
	return Clock{Random: func() float64 { return 0.5 },
		Now: func() time.Time { d.mu.Lock(); defer d.mu.Unlock(); return d.now },
		Wait: func(ctx context.Context, w time.Duration) error {
			d.mu.Lock()
			d.waits = append(d.waits, w.Round(time.Second))
			d.now = d.now.Add(max(w, 0))
			if len(d.waits) > d.most {
				d.over()
			}
			d.mu.Unlock()
			return ctx.Err()
		}}
}

// bench is a keeper of one source over a directory.
type bench struct {
	dir     string
	days    *days
	changed int
	said    []Status
}

// newBench is a bench at a time that files are not from the future at.
func newBench(t *testing.T) *bench {
	t.Helper()
	return &bench{dir: t.TempDir(), days: &days{now: time.Unix(1_900_000_000, 0)}}
}

// run looks at a source so many times.
func (b *bench) run(t *testing.T, s Source, times int) {
	t.Helper()
	store, err := OpenStore(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.days.most, b.days.over, b.days.waits, b.said, b.changed = times, cancel, nil, nil, 0
	k := &Keeper{Store: store, Clock: b.days.clock(), Log: slog.New(slog.DiscardHandler),
		Changed: func(string) { b.changed++ }, Told: func(s Status) { b.said = append(b.said, s) }}
	k.Run(ctx, []Source{s})
}

// kept is what the store has.
func (b *bench) kept(t *testing.T, name string) string {
	t.Helper()
	store, err := OpenStore(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	k, err := store.Open(name)
	if err != nil {
		return err.Error()
	}
	defer k.Close()
	content, err := io.ReadAll(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// copied keeps what does not say that it is bad.
func copied(fresh, _ io.Reader, keep io.Writer) error {
	b, err := io.ReadAll(fresh)
	if err == nil && strings.Contains(string(b), "bad") {
		err = errors.New("it says that it is bad")
	}
	if err == nil {
		_, err = keep.Write(b)
	}
	return err
}

func TestFile(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "list")
	s := Source{Name: "x", File: file, Every: time.Minute, Most: 100, Judge: copied}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing is there: tried again after longer and longer, never longer than it is looked at.
	b.run(t, s, 6)
	want := []time.Duration{0, 5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute,
		time.Minute}
	if !slices.Equal(b.days.waits, want) || b.changed != 0 {
		t.Errorf("waits for a file that is not there: %v, %d changes; want %v, 0", b.days.waits, b.changed, want)
	}
	if last := b.said[len(b.said)-1]; last.Fails != 6 || !strings.Contains(last.Error, "no such file") {
		t.Errorf("status %+v; want the sixth failure and why", last)
	}
	write("one")
	b.run(t, s, 3)
	if b.changed != 1 || b.kept(t, "x") != "one" || b.days.waits[2] != time.Minute {
		t.Errorf("%d changes, %q kept, waits %v; want 1, one, a minute", b.changed, b.kept(t, "x"), b.days.waits)
	}
	taken := b.said[len(b.said)-1].Taken
	write("bad")
	b.run(t, s, 2)
	if last := b.said[len(b.said)-1]; b.changed != 0 || b.kept(t, "x") != "one" || last.Error == "" ||
		!last.Taken.Equal(taken) {
		t.Errorf("after a bad list: %d changes, %q kept, %+v; want the good one with its time", b.changed, b.kept(t, "x"),
			last)
	}
	write(strings.Repeat("x", 101))
	if b.run(t, s, 1); b.kept(t, "x") != "one" {
		t.Error("a list that is too large was kept")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", file); err != nil {
		t.Fatal(err)
	}
	if b.run(t, s, 1); b.kept(t, "x") != "one" {
		t.Error("a link was followed")
	}
	write("two")
	if b.run(t, s, 1); b.changed != 1 || b.kept(t, "x") != "two" {
		t.Errorf("%d changes, %q kept; want two", b.changed, b.kept(t, "x"))
	}
	// What is kept is of this source.
	other := s
	other.File = file + "-of-another"
	if b.run(t, other, 1); b.said[0].Taken != (time.Time{}) {
		t.Errorf("what was kept of another source counts: %+v", b.said[0])
	}
}

func TestServer(t *testing.T) {
	var mu sync.Mutex
	text, asked, status := "one", []string{}, http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.Header.Get("If-None-Match"))
		tag := `"` + text + `"`
		switch {
		case status != http.StatusOK:
			http.Error(w, "no", status)
		case r.Header.Get("If-None-Match") == tag:
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Header().Set("ETag", tag)
			_, _ = io.WriteString(w, text)
		}
	}))
	defer server.Close()
	b := newBench(t)
	s := Source{Name: "x", URL: server.URL, Every: 6 * time.Hour, Most: 100, Judge: copied,
		Client: &get.Client{Dial: (&net.Dialer{}).DialContext, Insecure: true}}
	b.run(t, s, 3)
	if want := []string{"", `"one"`, `"one"`}; !slices.Equal(asked, want) || b.changed != 1 || b.kept(t, "x") != "one" {
		t.Errorf("asked with %q, %d changes, kept %q; want %q, 1, one", asked, b.changed, b.kept(t, "x"), want)
	}
	first := b.said[len(b.said)-1]
	// After a start it is asked again when it is due, with what was known, and not before.
	b.days.now = b.days.now.Add(-5 * time.Hour)
	asked = nil
	b.run(t, s, 1)
	if want := []time.Duration{5 * time.Hour, 6 * time.Hour}; !slices.Equal(b.days.waits, want) ||
		!slices.Equal(asked, []string{`"one"`}) || !b.said[0].Taken.Equal(first.Taken) {
		t.Errorf("after a start: waits %v, asked %q, first status %+v; want %v, the tag, taken %v", b.days.waits, asked,
			b.said[0], want, first.Taken)
	}
	// A clock that was wrong keeps nobody waiting.
	b.days.now = b.days.now.Add(-1000 * time.Hour)
	if b.run(t, s, 1); b.days.waits[0] != 0 {
		t.Errorf("with a list from the future the first wait is %v; want 0", b.days.waits[0])
	}
	mu.Lock()
	status = http.StatusBadGateway
	mu.Unlock()
	b.days.now = b.days.now.Add(1000 * time.Hour)
	b.run(t, s, 20)
	if longest := slices.Max(b.days.waits); longest != 6*time.Hour || b.kept(t, "x") != "one" {
		t.Errorf("a server that fails: waits %v, kept %q; want 6 h at most, one", b.days.waits, b.kept(t, "x"))
	}
	mu.Lock()
	status, text = http.StatusOK, "two"
	mu.Unlock()
	if b.run(t, s, 2); b.changed != 1 || b.kept(t, "x") != "two" || b.said[len(b.said)-1].Fails != 0 {
		t.Errorf("after that: %d changes, kept %q; want 1, two", b.changed, b.kept(t, "x"))
	}
	mu.Lock()
	text = "bad"
	mu.Unlock()
	if b.run(t, s, 3); b.changed != 0 || b.kept(t, "x") != "two" {
		t.Errorf("a bad list: %d changes, kept %q; want 0, two", b.changed, b.kept(t, "x"))
	}
}

// Whatever became of the file, it is what was kept or nothing.
func TestDamage(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(file, []byte("one two three"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := Source{Name: "x", File: file, Every: time.Minute, Most: 100, Judge: copied}
	b.run(t, s, 1)
	path := filepath.Join(b.dir, "x")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		changed := slices.Clone(good)
		changed[i] ^= 0x20
		for _, bad := range [][]byte{good[:i], changed} {
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			// A changed place or time says nothing of the content; a changed length or digest does not fit it.
			if got := b.kept(t, "x"); got != "one two three" && !strings.Contains(got, ErrDamaged.Error()) {
				t.Errorf("after a change at byte %d of %q the store has %q; want the content or ErrDamaged", i, bad, got)
			}
		}
	}
	if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b.run(t, s, 1); b.kept(t, "x") != "one two three" {
		t.Errorf("a damaged file was not replaced: %s", b.kept(t, "x"))
	}
}

// A store whose file system is full, or gone, keeps what it has.
func TestFull(t *testing.T) {
	b := newBench(t)
	store, err := OpenStore(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	put := func(text string, fail error) error {
		_, err := store.put("x", Meta{From: "file:y", Taken: time.Unix(1, 0)}, nil, func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return errors.Join(err, fail)
		})
		return err
	}
	if err := put("one", nil); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left")
	if err := put("two", full); !errors.Is(err, full) || b.kept(t, "x") != "one" {
		t.Errorf("put = %v, and %q is kept; want the error and one", err, b.kept(t, "x"))
	}
	// What a power cut left is replaced.
	if err := os.Mkdir(filepath.Join(b.dir, newName), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := put("three", nil); err != nil || b.kept(t, "x") != "three" {
		t.Errorf("put over what was left = %v, and %q is kept; want three", err, b.kept(t, "x"))
	}
	if err := store.Prune([]string{"y"}); err != nil || !strings.Contains(b.kept(t, "x"), "no such file") {
		t.Errorf("Prune = %v, and %q is kept; want nothing", err, b.kept(t, "x"))
	}
}

// Many sources are looked at one after the other.
func TestOneAtATime(t *testing.T) {
	dir := t.TempDir()
	store, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	inside, done := 0, map[string]bool{}
	var sources []Source
	for i := range 8 {
		s := Source{Name: fmt.Sprint("s", i), File: filepath.Join(t.TempDir(), "f"), Every: time.Hour, Most: 10}
		if err := os.WriteFile(s.File, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Judge = func(fresh, kept io.Reader, keep io.Writer) error {
			mu.Lock()
			if inside++; inside > 1 {
				t.Error("two lists are judged at a time")
			}
			mu.Unlock()
			err := copied(fresh, kept, keep)
			mu.Lock()
			inside--
			mu.Unlock()
			return err
		}
		sources = append(sources, s)
	}
	k := &Keeper{Store: store, Clock: SystemClock(), Log: slog.New(slog.DiscardHandler), Told: func(Status) {},
		Changed: func(name string) {
			if done[name] = true; len(done) == len(sources) {
				cancel()
			}
		}}
	k.Run(ctx, sources)
	if len(done) != len(sources) {
		t.Errorf("%d of %d sources were taken", len(done), len(sources))
	}
}
