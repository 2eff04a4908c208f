package main

import (
	"context"
	"io"
	"strings"
	"testing"

	"rempart/builder/hypervisor/xen"
	"rempart/firstboot/contract/ctl"
	"rempart/firstboot/contract/xenstore"
	"rempart/firstboot/contract/xenstore/storetest"
)

// TestWithXenGuest: a guest of Xen is asked through xenstore, by the number xl has for its name.
func TestWithXenGuest(t *testing.T) {
	store, guestConn := storetest.New(t)
	tools := xen.Toolstack{
		Run:   func(context.Context, ...string) ([]byte, error) { return []byte("7\n"), nil }, // storetest.Domain
		Store: func() (io.ReadWriteCloser, error) { return store.Connect(), nil },
	}
	guest, err := xenstore.Dial(t.Context(), xenstore.New(guestConn), "")
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	go func() { // the guest: it answers the greeting, then serves
		greeting := make([]byte, ctl.GreetingBytes)
		if _, err := io.ReadFull(guest, greeting); err != nil {
			return
		}
		if _, err := guest.Write(greeting); err != nil {
			return
		}
		_ = ctl.Serve(t.Context(), guest, ctl.NewBudget(1<<20), func(_ context.Context, r ctl.Request) int {
			_, _ = io.WriteString(r.Stdout, "asked for "+strings.Join(r.Args, " "))
			return ctl.Done
		})
	}()
	var out strings.Builder
	err = withXenGuest(t.Context(), tools, "fw-1", func(g admin) error {
		_, err := g.Run(t.Context(), ctl.Call{Args: []string{"links"}}, nil, &out, io.Discard)
		return err
	})
	if err != nil || out.String() != "asked for links" {
		t.Errorf("withXenGuest = %v, the guest said %q; want what it was asked for", err, out.String())
	}
}
