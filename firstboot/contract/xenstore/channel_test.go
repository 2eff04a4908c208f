package xenstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rempart/firstboot/contract/xenstore/storetest"
)

// dial opens an end, the guest's or its host's.
func dial(t *testing.T, conn net.Conn, domain string) *Channel {
	t.Helper()
	c, err := Dial(t.Context(), New(conn), domain)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestChannel: both ends say much at once, bytes of every value, and each hears it all, whole and in order.
func TestChannel(t *testing.T) {
	store, guestConn := storetest.New(t)
	guest, host := dial(t, guestConn, ""), dial(t, store.Connect(), storetest.Domain)
	random := rand.NewChaCha8([32]byte{1})
	said := map[*Channel][]byte{}
	failed := make(chan error, 4)
	for _, c := range []*Channel{guest, host} {
		b := make([]byte, 20*maxChunk+7)
		_, _ = random.Read(b)
		said[c] = b
	}
	for from, to := range map[*Channel]*Channel{guest: host, host: guest} {
		go func() {
			_, err := from.Write(said[from])
			failed <- err
		}()
		go func() {
			got := make([]byte, len(said[from]))
			_, err := io.ReadFull(to, got)
			if err == nil && !bytes.Equal(got, said[from]) {
				err = errors.New("other bytes were heard than said")
			}
			failed <- err
		}()
	}
	for range 4 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

// TestChannelBeginsAnew: an end that begins anew neither hears again what it took, nor is held up by what it had said
// and nobody took.
func TestChannelBeginsAnew(t *testing.T) {
	store, guestConn := storetest.New(t)
	guest, host := dial(t, guestConn, ""), dial(t, store.Connect(), storetest.Domain)
	go func() { _, _ = host.Write([]byte("first")) }()
	got := make([]byte, 64)
	if n, err := guest.Read(got); err != nil || string(got[:n]) != "first" {
		t.Fatalf("Read = %q, %v; want first", got[:n], err)
	}
	stuck := make(chan error, 1)
	go func() {
		_, err := host.Write([]byte("never taken"))
		stuck <- err
	}()
	for value, _ := store.Get(fromHost); !bytes.HasSuffix([]byte(value), []byte("never taken")); {
		value, _ = store.Get(fromHost)
	}
	host.Close()
	if err := <-stuck; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Write of an end that is closed = %v; want %v", err, io.ErrClosedPipe)
	}
	guest.Close()

	again, host2 := dial(t, store.Connect(), ""), dial(t, store.Connect(), storetest.Domain)
	go func() { _, _ = host2.Write([]byte("second")) }()
	var heard []byte
	for !bytes.HasSuffix(heard, []byte("second")) {
		n, err := again.Read(got)
		if err != nil {
			t.Fatal(err)
		}
		heard = append(heard, got[:n]...)
	}
	// What nobody took may still be heard, once, or be lost; what was taken is not heard again.
	if s := string(heard); s != "second" && s != "never takensecond" {
		t.Errorf("heard %q; want second, perhaps after what nobody took", s)
	}
}

// brittle is a connection that ends after so many messages were written.
type brittle struct {
	net.Conn
	left atomic.Int32
}

func (b *brittle) Write(p []byte) (int, error) {
	if b.left.Add(-1) == 0 {
		defer b.Conn.Close() // the message is taken; nobody hears what became of it
	}
	return b.Conn.Write(p)
}

// TestChannelOutlivesConnections: what breaks is replaced, in whatever moment it breaks, and neither end hears anything
// twice or misses it.
func TestChannelOutlivesConnections(t *testing.T) {
	store, guestConn := storetest.New(t)
	guest := dial(t, guestConn, "")
	var dials atomic.Int32
	host, err := Connect(t.Context(), func(context.Context) (*Conn, error) {
		b := &brittle{Conn: store.Connect()}
		b.left.Store(8 + dials.Add(1)%9) // no round number, so that each kind of request is the last one once
		return New(b), nil
	}, storetest.Domain)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	want := make([]byte, 30*maxChunk+7)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(want)
	failed := make(chan error, 4)
	for from, to := range map[*Channel]*Channel{guest: host, host: guest} {
		go func() {
			_, err := from.Write(want)
			failed <- err
		}()
		go func() {
			got := make([]byte, len(want))
			_, err := io.ReadFull(to, got)
			if err == nil && !bytes.Equal(got, want) {
				err = errors.New("other bytes were heard than said")
			}
			failed <- err
		}()
	}
	for range 4 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	if n := dials.Load(); n < 10 {
		t.Errorf("it took %d connections; want so many breaks that they show something", n)
	}
}

// TestChannelAwaitsAnother: a store that takes nobody while it is replaced by another is waited for, and not hurried.
func TestChannelAwaitsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, guestConn := storetest.New(t)
		dial(t, guestConn, "")
		began := time.Now()
		host, err := Connect(t.Context(), func(context.Context) (*Conn, error) {
			b := &brittle{Conn: store.Connect()}
			if time.Since(began) == 0 {
				b.left.Store(3)
			} else if time.Since(began) < time.Second {
				return nil, errors.New("nobody listens")
			}
			return New(b), nil
		}, storetest.Domain)
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		store.Set(fromGuest, "1 words")
		words := make([]byte, 8)
		if n, err := host.Read(words); err != nil || string(words[:n]) != "words" {
			t.Errorf("Read = %q, %v; want words", words[:n], err)
		}
	})
}

// TestChannelGivesUp: on a store that takes nobody any more, or closes every connection, at once or after a request.
func TestChannelGivesUp(t *testing.T) {
	gone := errors.New("of the dial")
	for name, c := range map[string]struct {
		messages int32 // that a connection takes; 0: there is none
		want     error
		dials    int32 // at most
	}{
		"gone":           {0, gone, maxBreaks + 1},
		"closed at once": {1, ErrClosed, maxBreaks + 1},
		"closed soon":    {2, ErrClosed, maxBreaks + 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, guestConn := storetest.New(t)
				dial(t, guestConn, "")
				var dials atomic.Int32
				host, err := Connect(t.Context(), func(context.Context) (*Conn, error) {
					b := &brittle{Conn: store.Connect()}
					switch dials.Add(1) {
					case 1:
						b.left.Store(3)
					default:
						if b.left.Store(c.messages); c.messages == 0 {
							return nil, gone
						}
					}
					return New(b), nil
				}, storetest.Domain)
				if err != nil {
					t.Fatal(err)
				}
				defer host.Close()
				if _, err := host.Read(make([]byte, 8)); !errors.Is(err, ErrClosed) || !errors.Is(err, c.want) {
					t.Errorf("Read = %v; want %v and %v", err, ErrClosed, c.want)
				}
				if n := dials.Load(); n > c.dials {
					t.Errorf("%d connections; want %d at most", n, c.dials)
				}
			})
		})
	}
}

// TestChannelOfAStranger: a guest may write anything to its nodes.
func TestChannelOfAStranger(t *testing.T) {
	store, conn := storetest.New(t)
	host := dial(t, conn, storetest.Domain)
	store.Set(fromGuest, string(bytes.Repeat([]byte("x"), 2*maxID))+" bytes")
	if _, err := host.Read(make([]byte, 8)); !errors.Is(err, ErrProtocol) {
		t.Errorf("Read of an ID that is too long = %v; want %v", err, ErrProtocol)
	}
}
