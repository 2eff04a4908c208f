package names

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func bound(addr, name string) Binding {
	return Binding{Name: name, Addr: netip.MustParseAddr(addr), Link: "lan", Client: "020000000001", Since: 1, Until: 2,
		Origin: DHCP4}
}

// watch follows the feed at path; each change comes out of the channel.
func watch(t *testing.T, path string) <-chan Change {
	t.Helper()
	changes := make(chan Change)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Follow(ctx, path, slog.New(slog.DiscardHandler), func(c Change) {
			select {
			case changes <- c:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return changes
}

// serve serves a feed at path until the function that is returned is called.
func serve(t *testing.T, feed *Feed, path string) func() {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		feed.Serve(ctx, l, slog.New(slog.DiscardHandler))
	}()
	stop := func() {
		if ctx.Err() == nil {
			cancel()
			<-done
		}
	}
	t.Cleanup(stop)
	return stop
}

func put(t *testing.T, f *Feed, b Binding) {
	t.Helper()
	if err := f.Put(b); err != nil {
		t.Fatal(err)
	}
}

func TestFollowersGetAllThenChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "names")
	feed := NewFeed()
	a, b, c := bound("10.0.0.9", "a"), bound("10.0.0.1", "b"), bound("fd00::1", "")
	put(t, feed, a)
	put(t, feed, b)
	serve(t, feed, path)
	changes := watch(t, path)
	want := func(want Change) {
		t.Helper()
		if got := <-changes; !reflect.DeepEqual(got, want) {
			t.Fatalf("change = %+v; want %+v", got, want)
		}
	}
	want(Change{Whole: true, Put: []Binding{a, b}})
	put(t, feed, c)
	want(Change{Put: []Binding{c}})
	put(t, feed, c) // says nothing new
	a.Name = "renamed"
	put(t, feed, a)
	want(Change{Put: []Binding{a}})
	feed.Remove(netip.MustParseAddr("10.0.0.77")) // nobody's
	feed.Remove(b.Addr)
	want(Change{Gone: []netip.Addr{b.Addr}})
}

func TestStateIsReplacedAfterAReconnect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "names")
	changes := watch(t, path) // before there is a feed
	first := NewFeed()
	stop := serve(t, first, path)
	if got := <-changes; !got.Whole || len(got.Put) != 0 {
		t.Fatalf("change = %+v; want an empty whole", got)
	}
	put(t, first, bound("10.0.0.1", "old"))
	if got := <-changes; len(got.Put) != 1 {
		t.Fatalf("change = %+v; want one binding", got)
	}
	stop()
	second := NewFeed()
	b := bound("10.0.0.2", "new")
	put(t, second, b)
	serve(t, second, path)
	if got, want := <-changes, (Change{Whole: true, Put: []Binding{b}}); !reflect.DeepEqual(got, want) {
		t.Fatalf("change = %+v; want %+v", got, want)
	}
}

// TestSlowFollower: one that does not read costs the feed nothing but one place for each address, and reads the newest.
func TestSlowFollower(t *testing.T) {
	feed := NewFeed()
	b := bound("10.0.0.1", "")
	put(t, feed, b)
	w := feed.join()
	for i := range 1000 {
		b.Name = fmt.Sprint("n", i)
		put(t, feed, b)
	}
	if len(w.waiting) != 1 {
		t.Errorf("%d addresses are waiting; want 1", len(w.waiting))
	}
	lines := feed.next(w)
	if len(lines) != 2 || lines[0].Put == nil || lines[0].Put.Name != "n999" || !lines[1].Whole {
		t.Errorf("next = %+v; want the newest binding, then the end of the whole", lines)
	}
	feed.Remove(b.Addr)
	put(t, feed, b)
	feed.Remove(b.Addr)
	if lines := feed.next(w); len(lines) != 1 || lines[0].Gone == nil {
		t.Errorf("next = %+v; want that the address is gone", lines)
	}
	if lines := feed.next(w); len(lines) != 0 {
		t.Errorf("next = %+v; want nothing", lines)
	}
}

// TestGoneBeforeTold: what went while the whole state was being told is no part of it.
func TestGoneBeforeTold(t *testing.T) {
	feed := NewFeed()
	put(t, feed, bound("10.0.0.1", "a"))
	put(t, feed, bound("10.0.0.2", "b"))
	w := feed.join()
	feed.Remove(netip.MustParseAddr("10.0.0.1"))
	var text bytes.Buffer
	for _, l := range feed.next(w) {
		b, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(append(b, '\n'))
	}
	var got []Change
	_ = read(&text, func(c Change) { got = append(got, c) })
	if want := []Change{{Whole: true, Put: []Binding{bound("10.0.0.2", "b")}}}; !reflect.DeepEqual(got, want) {
		t.Errorf("read = %+v; want %+v", got, want)
	}
}

func TestFeedIsBounded(t *testing.T) {
	feed := NewFeed()
	addr := netip.MustParseAddr("10.0.0.0")
	b := bound("10.0.0.0", "x")
	for range MaxBindings {
		b.Addr = addr
		put(t, feed, b)
		addr = addr.Next()
	}
	b.Addr = addr
	if err := feed.Put(b); !errors.Is(err, ErrBinding) {
		t.Errorf("Put of one too many = %v; want ErrBinding", err)
	}
	b.Addr, b.Name = netip.MustParseAddr("10.0.0.0"), "y"
	put(t, feed, b) // one that is there may change
}

func TestPutHoldsToTheBounds(t *testing.T) {
	feed := NewFeed()
	for what, change := range map[string]func(*Binding){
		"no address":      func(b *Binding) { b.Addr = netip.Addr{} },
		"IPv4 in IPv6":    func(b *Binding) { b.Addr = netip.MustParseAddr("::ffff:10.0.0.1") },
		"a zone":          func(b *Binding) { b.Addr = netip.MustParseAddr("fe80::1%lan") },
		"no link":         func(b *Binding) { b.Link = "" },
		"a long link":     func(b *Binding) { b.Link = strings.Repeat("l", 16) },
		"no client":       func(b *Binding) { b.Client = "" },
		"no hex":          func(b *Binding) { b.Client = "02:00" },
		"a long client":   func(b *Binding) { b.Client = strings.Repeat("00", 256) },
		"another origin":  func(b *Binding) { b.Origin = "me" },
		"before the time": func(b *Binding) { b.Until = -1 },
	} {
		b := bound("10.0.0.1", "a")
		change(&b)
		if err := feed.Put(b); !errors.Is(err, ErrBinding) {
			t.Errorf("Put with %s = %v; want ErrBinding", what, err)
		}
	}
	if len(feed.bindings) != 0 {
		t.Errorf("%d bindings were put", len(feed.bindings))
	}
}

// TestNamesTravel: whatever a client said its name was, the line about it can be read again.
func TestNamesTravel(t *testing.T) {
	for _, name := range []string{"", "pc", "\x00\x01\xff", strings.Repeat("\xff", 300), strings.Repeat("\x00", 300),
		strings.Repeat("\u00e9", 200), "a\nb", `"}`, "<script>"} {
		feed := NewFeed()
		b := bound("10.0.0.1", name)
		b.Client = strings.Repeat("ff", 255)
		b.Link = strings.Repeat("l", MaxLink)
		put(t, feed, b)
		lines := feed.next(feed.join())
		text, err := json.Marshal(lines[0])
		if err != nil {
			t.Fatal(err)
		}
		if len(text) >= maxLine {
			t.Errorf("the line about %q has %d bytes; want fewer than %d", name, len(text), maxLine)
		}
		l, err := parse(text)
		if err != nil || *l.Put != *lines[0].Put {
			t.Errorf("parse(%s) = %+v, %v; want %+v", text, l.Put, err, lines[0].Put)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for _, text := range []string{"", "{}\n", "nonsense\n", `{"whole":true}`, `{"whole":true,"gone":"10.0.0.1"}` + "\n",
		`{"gone":""}` + "\n", `{"put":{"addr":"10.0.0.1","link":"lan","client":"zz","origin":"dhcp4"}}` + "\n",
		`{"surprise":1}` + "\n", strings.Repeat("x", maxLine+1) + "\n", "{\"whole\":true} {\"whole\":true}\n"} {
		if err := read(strings.NewReader(text), func(c Change) { t.Errorf("%q became %+v", text, c) }); !errors.Is(err,
			ErrFeed) {
			t.Errorf("read(%.50q) = %v; want ErrFeed", text, err)
		}
	}
	twice := strings.NewReader("{\"whole\":true}\n{\"whole\":true}\n")
	if err := read(twice, func(Change) {}); !errors.Is(err, ErrFeed) {
		t.Errorf("read of two whole states = %v; want ErrFeed", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("{\"put\":{\"addr\":\"10.0.0.1\",\"link\":\"lan\",\"client\":\"00\",\"origin\":\"dhcp4\"}}\n" +
		"{\"whole\":true}\n{\"gone\":\"10.0.0.1\"}\n"))
	f.Add([]byte("{\"whole\":true}\n{\"put\":{\"name\":\"\\u0000\",\"addr\":\"::1\",\"link\":\"l\",\"client\":\"ff\"," +
		"\"origin\":\"dhcp6\",\"since\":1,\"until\":2}}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		first := true
		err := read(bytes.NewReader(b), func(c Change) {
			if c.Whole != first {
				t.Errorf("change %+v; want the whole state first and once", c)
			}
			first = false
			for _, binding := range c.Put {
				if err := binding.Check(); err != nil {
					t.Error(err)
				}
			}
		})
		if !errors.Is(err, ErrFeed) {
			t.Errorf("read = %v; want ErrFeed", err)
		}
	})
}
