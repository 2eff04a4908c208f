package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
	"rempart/firstboot/contract/live"
	"rempart/profiles"
)

// office is a desk in a temporary directory, with a PID 1 that answers as told.
type office struct {
	root    string
	reports chan contract.Report
	asked   chan child.Request
	report  contract.Report
}

// digestOfStored names what the profile of the office stores beside its JSON, as far as anybody looks.
const digestOfStored = "0123456789abcdef"

// open starts the desk for clients of some user ids and returns it with a client.
func open(t *testing.T, allowed []uint32, answer func(o *office, r child.Request)) (*office, *ctl.Client) {
	t.Helper()
	o := &office{root: t.TempDir(), reports: make(chan contract.Report, 1), asked: make(chan child.Request, 8)}
	p, err := profiles.Parse("p.yaml", []byte("rempart: 1\nname: gw\nadmin: none\nlinks: {lan0: {address: 10.0.0.1/24}}\n"+
		"zones: {lan: lan0}\n"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{contract.ProfilePath: b, contract.AdminDir + "/x": nil,
		contract.SetsDir + "/" + digestOfStored: []byte("ranges")} {
		path = filepath.Join(o.root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o.report = contract.Report{Name: "gw", Ready: true, Settled: true, Policy: "loaded",
		Live: contract.LiveReport{Profile: "p", Master: "p", Since: 100}}
	o.reports <- o.report
	d := &desk{root: o.root, log: slog.New(slog.DiscardHandler), news: newNews(), input: ctl.NewBudget(ctl.MaxInput)}
	d.tell = func(key string, value any) {
		if r, ok := value.(child.Request); ok && key == child.KeyRequest {
			o.asked <- r
			o.report.Live.Answer, o.report.Live.Error = r.Number, ""
			answer(o, r)
			o.reports <- o.report
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	go d.news.keep(ctx, o.reports)
	if _, err := d.news.await(ctx, func(r contract.Report) bool { return r.Ready }); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(o.root, contract.AdminSocket)
	l, err := (&desk{}).door(nil).Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { d.serve(ctx, l, allowed); ended <- nil }()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	c := ctl.NewClient(conn)
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve = %v", err)
		}
	})
	return o, c
}

func me() []uint32 { return []uint32{uint32(os.Getuid())} }

func nothing(*office, child.Request) {}

// say runs a command and returns all it says.
func say(t *testing.T, c *ctl.Client, since float64, stdin string, args ...string) (status int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	status, err := c.Run(context.Background(), ctl.Call{Args: args, Since: since}, strings.NewReader(stdin), &o, &e)
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return status, o.String(), e.String()
}

func TestCommands(t *testing.T) {
	_, c := open(t, me(), nothing)
	for _, tt := range []struct {
		args   string
		status int
		want   string
	}{
		{"status", ctl.Done, "READY gw"},
		{"status --json", ctl.Done, `"policy": "loaded"`},
		{"status now", ctl.Usage, `unexpected "now"`},
		{"status --nonsense", ctl.Usage, "nonsense"},
		{"profile", ctl.Done, `"name":"gw"`},
		{"profile --stored " + digestOfStored, ctl.Done, "ranges"},
		{"profile --stored 0000", ctl.Failed, "stores nothing with the digest"},
		{"profile --stored ../profile.json", ctl.Failed, "stores nothing with the digest"},
		{"profile --stored ..", ctl.Failed, "stores nothing with the digest"},
		{"links --json", ctl.Done, `"name": "lo"`},
		{"links", ctl.Done, "LINK"},
		{"links lo", ctl.Usage, `unexpected "lo"`},
		{"routes --json", ctl.Done, "["},
		{"neigh --json", ctl.Done, "["},
		{"leases --json", ctl.Done, "[]"},
		{"help", ctl.Done, "confirm"},
		{"nonsense", ctl.Usage, "there is no command"},
		{"apply --undo-after 1", ctl.Usage, "want 5 to 3600"},
		{"apply", ctl.Failed, "there is no change on standard input"},
	} {
		status, out, errs := say(t, c, 0, "", strings.Fields(tt.args)...)
		if status != tt.status || !strings.Contains(out+errs, tt.want) {
			t.Errorf("%s = %d, %q, %q; want %d and %q", tt.args, status, out, errs, tt.status, tt.want)
		}
	}
}

func TestApply(t *testing.T) {
	change, err := json.Marshal(live.Change{Base: "p", Modules: []string{"8021q"}, Profile: []byte(`{}`)})
	if err != nil {
		t.Fatal(err)
	}
	refuse := ""
	o, c := open(t, me(), func(o *office, r child.Request) {
		b, err := os.ReadFile(filepath.Join(o.root, contract.ProposalPath))
		if r.Verb == "apply" && (err != nil || !bytes.Equal(b, change)) {
			o.report.Live.Error = "the proposal is not what was sent"
		}
		if refuse != "" {
			o.report.Live.Error = refuse
		}
	})
	status, out, errs := say(t, c, 0, string(change), "apply", "--undo-after", "90")
	if r := <-o.asked; status != ctl.Done || r.Verb != "apply" || r.Seconds != 90 || !strings.Contains(out, "90 s") {
		t.Errorf("apply = %d, %q, %q; PID 1 was asked %+v", status, out, errs, r)
	}
	if _, err := os.Stat(filepath.Join(o.root, contract.ProposalPath)); !os.IsNotExist(err) {
		t.Errorf("the proposal is left: %v", err)
	}
	// A connection from before the change proves nothing; one from after, or one no policy cuts, does.
	if status, _, errs := say(t, c, 99, "", "confirm"); status != ctl.Failed || !strings.Contains(errs, "connect anew") {
		t.Errorf("confirm by an old connection = %d, %q; want it refused", status, errs)
	}
	for _, since := range []float64{101, 0} {
		if status, _, errs := say(t, c, since, "", "confirm"); status != ctl.Done || (<-o.asked).Verb != "confirm" {
			t.Errorf("confirm by a connection of %v = %d, %q; want it done", since, status, errs)
		}
	}
	if status, _, errs := say(t, c, 0, "", "undo"); status != ctl.Done || (<-o.asked).Verb != "undo" {
		t.Errorf("undo = %d, %q", status, errs)
	}
	refuse = "the kernel does not like it"
	if status, _, errs := say(t, c, 0, string(change), "apply"); status != ctl.Failed || !strings.Contains(errs, refuse) {
		t.Errorf("an apply that PID 1 refuses = %d, %q; want why", status, errs)
	}
}

func TestStrangersAreTurnedAway(t *testing.T) {
	_, c := open(t, []uint32{4242}, nothing)
	_, err := c.Run(context.Background(), ctl.Call{Args: []string{"status"}}, nil, io.Discard, io.Discard)
	if err == nil {
		t.Error("a stranger's command was carried out")
	}
}

// faulty is a listener whose first connections the kernel has no descriptor for.
type faulty struct {
	*net.UnixListener
	faults int
}

func (f *faulty) AcceptUnix() (*net.UnixConn, error) {
	if f.faults > 0 {
		f.faults--
		return nil, os.NewSyscallError("accept4", unix.EMFILE)
	}
	return f.UnixListener.AcceptUnix()
}

// TestAcceptFails: a shortage ends neither the desk nor its way in.
func TestAcceptFails(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := (&desk{}).door(nil).Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{log: slog.New(slog.DiscardHandler), news: newNews(), input: ctl.NewBudget(ctl.MaxInput)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { d.serve(ctx, &faulty{l, 3}, me()); ended <- nil }()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	c := ctl.NewClient(conn)
	if status, out, _ := say(t, c, 0, "", "help"); status != ctl.Done || !strings.Contains(out, "reboot") {
		t.Errorf("a command after faults of accept = %d, %q", status, out)
	}
	c.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("serve = %v", err)
	}
}
