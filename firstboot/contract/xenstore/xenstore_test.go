package xenstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"rempart/firstboot/contract/xenstore"
	"rempart/firstboot/contract/xenstore/storetest"
)

func TestNodes(t *testing.T) {
	store, wire := storetest.New(t)
	c := xenstore.New(wire)
	ctx := t.Context()
	if _, err := c.Now().Read(ctx, "data/x"); !errors.Is(err, xenstore.ErrAbsent) {
		t.Errorf("Read of nothing = %v; want ErrAbsent", err)
	}
	if err := c.Now().Remove(ctx, "data/x"); !errors.Is(err, xenstore.ErrAbsent) {
		t.Errorf("Remove of nothing = %v; want ErrAbsent", err)
	}
	for path, value := range map[string]string{"data/a": "1", "data/b/c": "", "data/d": "\x00\xff\n"} {
		if err := c.Now().Write(ctx, path, []byte(value)); err != nil {
			t.Fatal(err)
		}
		got, err := c.Now().Read(ctx, path)
		if stored, ok := store.Get(path); err != nil || string(got) != value || !ok || stored != value {
			t.Errorf("%s = %q, %v; want %q", path, got, err, value)
		}
	}
	names, err := c.Now().List(ctx, "data")
	slices.Sort(names)
	if want := []string{"a", "b", "d"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("List(data) = %q, %v; want %q", names, err, want)
	}
	for _, path := range []string{"", "a\x00b", strings.Repeat("x", 2048), "/" + strings.Repeat("x", 3072)} {
		if err := c.Now().Write(ctx, path, nil); err == nil {
			t.Errorf("Write(%.20q) of %d bytes = nil; want an error", path, len(path))
		}
	}
	// The kernel's buffer is for a message with its header of 16 bytes, the path and the NUL after it.
	most := xenstore.MaxPayload - 16 - len("data/a") - 1
	for size, want := range map[int]string{most: "E2BIG", most + 1: "bytes; xenstore takes"} {
		if err := c.Now().Write(ctx, "data/a", make([]byte, size)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Write of %d bytes = %v; want an error with %q", size, err, want)
		}
	}
	if err := c.Now().Write(ctx, "data/a", make([]byte, 3000)); err == nil || !strings.Contains(err.Error(), "E2BIG") {
		t.Errorf("Write beyond the store's bounds = %v; want what the store says", err)
	}
}

func TestTransactions(t *testing.T) {
	store, wire := storetest.New(t)
	c := xenstore.New(wire)
	store.Again(3)
	tries := 0
	err := c.Transact(t.Context(), func(tx xenstore.Tx) error {
		tries++
		if _, ok := store.Get("data/a"); ok {
			t.Error("what a transaction writes is seen before its end")
		}
		return tx.Write(t.Context(), "data/a", []byte("1"))
	})
	if got, _ := store.Get("data/a"); err != nil || tries != 4 || got != "1" {
		t.Errorf("Transact = %v after %d tries, data/a = %q; want 4 tries and 1", err, tries, got)
	}
	failure := errors.New("of the caller")
	if err := c.Transact(t.Context(), func(tx xenstore.Tx) error {
		return errors.Join(tx.Write(t.Context(), "data/b", nil), failure)
	}); !errors.Is(err, failure) {
		t.Errorf("Transact = %v; want the caller's error", err)
	}
	if _, ok := store.Get("data/b"); ok {
		t.Error("a transaction that failed was carried out")
	}
	store.Again(1000)
	if err := c.Transact(t.Context(), func(xenstore.Tx) error { return nil }); err == nil {
		t.Error("a transaction that is never the fastest ended well")
	}
}

func TestWatches(t *testing.T) {
	store, wire := storetest.New(t)
	c := xenstore.New(wire)
	if err := c.Watch(t.Context(), "data/order", "mine"); err != nil {
		t.Fatal(err)
	}
	want := xenstore.Event{Path: "data/order", Token: "mine"}
	if got := <-c.Events(); got != want {
		t.Errorf("the first event is %+v; want %+v", got, want)
	}
	store.Set("data/order", "poweroff")
	if got := <-c.Events(); got != want {
		t.Errorf("the second event is %+v; want %+v", got, want)
	}
	// A reader that is slow loses events and nothing else.
	for range 1000 {
		store.Set("data/order", "poweroff")
	}
	if got, err := c.Now().Read(t.Context(), "data/order"); err != nil || string(got) != "poweroff" {
		t.Errorf("Read = %q, %v", got, err)
	}
	c.Close()
	for range c.Events() {
	}
	if _, err := c.Now().Read(t.Context(), "data/order"); !errors.Is(err, xenstore.ErrClosed) {
		t.Errorf("Read of a closed connection = %v; want ErrClosed", err)
	}
}

// TestPublish: a report of any size comes back whole, and a shorter one leaves nothing of a longer one.
func TestPublish(t *testing.T) {
	store, wire := storetest.New(t)
	c := xenstore.New(wire)
	read := storetest.All(func(path string) ([]byte, error) { return c.Now().Read(t.Context(), path) })
	if _, err := xenstore.LoadReport(read); !errors.Is(err, xenstore.ErrAbsent) {
		t.Errorf("LoadReport of nothing = %v; want ErrAbsent", err)
	}
	for _, size := range []int{1, 1023, 1024, 1025, xenstore.MaxReport, 7} {
		want := bytes.Repeat([]byte("r"), size)
		if err := c.Publish(t.Context(), "READY", want); err != nil {
			t.Fatal(err)
		}
		got, err := xenstore.LoadReport(read)
		if status, _ := store.Get(xenstore.StatusPath); err != nil || !bytes.Equal(got, want) || status != "READY" {
			t.Errorf("LoadReport = %d bytes, %v, status %q; want %d bytes", len(got), err, status, size)
		}
	}
	if names, err := c.Now().List(t.Context(), xenstore.ReportPath); err != nil || len(names) != 1 {
		t.Errorf("pieces of a short report: %q, %v; want one", names, err)
	}
	if err := c.Publish(t.Context(), "READY", make([]byte, xenstore.MaxReport+1)); err == nil {
		t.Error("a report that is too large was published")
	}
}

// TestLoadReportOfLiars: whatever a guest leaves is bounded and no report.
func TestLoadReportOfLiars(t *testing.T) {
	digest := strings.Repeat("0", 64)
	for name, nodes := range map[string]map[string]string{
		"empty":       {xenstore.ReportPath: ""},
		"no number":   {xenstore.ReportPath: "x " + digest},
		"none":        {xenstore.ReportPath: "0 " + digest},
		"many":        {xenstore.ReportPath: "100000000 " + digest},
		"no digest":   {xenstore.ReportPath: "1"},
		"wrong":       {xenstore.ReportPath: "1 " + digest, xenstore.ReportPath + "/0": "x"},
		"not there":   {xenstore.ReportPath: "2 " + digest},
		"large piece": {xenstore.ReportPath: "1 " + digest, xenstore.ReportPath + "/0": strings.Repeat("x", 5000)},
	} {
		got, err := xenstore.LoadReport(storetest.All(func(path string) ([]byte, error) {
			value, ok := nodes[path]
			if !ok {
				return nil, xenstore.ErrAbsent
			}
			return []byte(value), nil
		}))
		if !errors.Is(err, xenstore.ErrProtocol) {
			t.Errorf("%s: LoadReport = %d bytes, %v; want ErrProtocol", name, len(got), err)
		}
	}
}

// stream is a connection whose other end says what it says, whatever it is asked.
type stream struct{ io.Reader }

func (stream) Write(p []byte) (int, error) { return len(p), nil }
func (stream) Close() error                { return nil }

// FuzzConn: nothing that comes in makes it panic, wait for ever or take more memory than a message.
func FuzzConn(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00x"))
	f.Add([]byte("\x0f\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00a\x00b\x00"))
	f.Add([]byte("\x10\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00ENOENT\x00"))
	f.Add([]byte("\x02\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, said []byte) {
		c := xenstore.New(stream{bytes.NewReader(said)})
		value, err := c.Now().Read(context.Background(), "data/x")
		if err == nil && len(value) > xenstore.MaxPayload {
			t.Errorf("Read = %d bytes", len(value))
		}
		for range c.Events() {
		}
	})
}
