package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"rempart/builder/guest/running"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
	"rempart/profiles"
)

// answers is a guest that says what it is told to, by the first word of a command.
type answers map[string][]byte

// Run implements admin.
func (a answers) Run(_ context.Context, call ctl.Call, _ io.Reader, stdout, stderr io.Writer) (int, error) {
	if b, ok := a[call.Args[0]]; ok {
		_, err := stdout.Write(b)
		return ctl.Done, err
	}
	fmt.Fprintf(stderr, "no such command: %s", call.Args[0])
	return ctl.Failed, nil
}

// TestCommitOfWhat: only what is in force for good becomes a master, not what is undone while it is being asked for.
func TestCommitOfWhat(t *testing.T) {
	p, err := profiles.Load("home-firewall")
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		live contract.LiveReport
		want string // part of the error
	}{
		{"waits", contract.LiveReport{Profile: contract.ProfileDigest(b), UndoAt: 60}, "waits to be confirmed"},
		{"undone since", contract.LiveReport{Profile: "another"}, "changed meanwhile"},
		{"in force", contract.LiveReport{Profile: contract.ProfileDigest(b)}, "no/such/master"},
	} {
		status, err := json.Marshal(contract.Report{Live: tt.live})
		if err != nil {
			t.Fatal(err)
		}
		c := &console{out: io.Discard, err: io.Discard}
		r := &running.Guest{Info: running.Info{Name: "fw-1", Master: "no/such/master"}}
		err = commit(t.Context(), c, r, packageOptions{}, func(do func(admin) error) error {
			return do(answers{"profile": b, "status": status})
		})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: commit = %v; want %q", tt.name, err, tt.want)
		}
	}
}

// TestPrintsNoControls: a guest's profile is shown without what a terminal obeys.
func TestPrintsNoControls(t *testing.T) {
	var out bytes.Buffer
	difference{lines: []sectionLine{{'+', "policy", "\u009b2J"}}, flows: []string{"+ \u009bx"}}.print(&out)
	if got, want := out.String(), "+ policy: ?2J\n+ ?x\n"; got != want {
		t.Errorf("print = %q; want %q", got, want)
	}
}
