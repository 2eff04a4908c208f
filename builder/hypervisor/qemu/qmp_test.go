package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/contract"
)

// fakeQEMU speaks QMP as docs/interop/qmp-spec.txt has it: it greets, then answers each command with reply.
func fakeQEMU(t *testing.T, reply func(command string, id uint64) string) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	go func() {
		defer theirs.Close()
		fmt.Fprint(theirs, `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}`+"\r\n")
		lines := bufio.NewScanner(theirs)
		for lines.Scan() {
			var c struct {
				Execute string
				ID      uint64
			}
			if json.Unmarshal(lines.Bytes(), &c) != nil {
				return
			}
			answer := fmt.Sprintf(`{"return": {}, "id": %d}`, c.ID)
			if c.Execute != "qmp_capabilities" {
				answer = reply(c.Execute, c.ID)
			}
			if answer == "" {
				return
			}
			fmt.Fprint(theirs, answer+"\r\n")
		}
	}()
	return ours
}

func TestMonitor(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	events := make(chan Event, 1)
	conn := fakeQEMU(t, func(command string, id uint64) string {
		switch command {
		case "query-status":
			return fmt.Sprintf(`{"event": "POWERDOWN", "data": {}}`+"\r\n"+`{"return": {"status": "running"}, "id": %d}`, id)
		case "bad":
			return fmt.Sprintf(`{"error": {"class": "CommandNotFound", "desc": "no"}, "id": %d}`, id)
		}
		return "" // hangs up
	})
	m, err := NewMonitor(ctx, conn, func(e Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	var status struct{ Status string }
	if err := m.Execute(ctx, "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("Execute(query-status) = %v, %v; want running", status, err)
	}
	if e := <-events; e.Name != "POWERDOWN" {
		t.Errorf("event = %v; want POWERDOWN", e)
	}
	var refused *CommandError
	if err := m.Execute(ctx, "bad", nil, nil); !errors.As(err, &refused) || refused.Class != "CommandNotFound" {
		t.Errorf("Execute(bad) = %v; want CommandNotFound", err)
	}
	if err := m.Execute(ctx, "quit", nil, nil); !errors.Is(err, ErrMonitorClosed) {
		t.Errorf("Execute(quit) with QEMU hanging up = %v; want ErrMonitorClosed", err)
	}
	<-m.Done()
	if err := m.Execute(ctx, "query-status", nil, nil); !errors.Is(err, ErrMonitorClosed) {
		t.Errorf("Execute after the end = %v; want ErrMonitorClosed", err)
	}
}

func TestMonitorRefusesJunk(t *testing.T) {
	for _, said := range []string{"SSH-2.0-OpenSSH\r\n", "{}\n", strings.Repeat("x", maxMessage+1)} {
		ours, theirs := net.Pipe()
		go func() {
			theirs.Write([]byte(said))
			theirs.Close()
		}()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if _, err := NewMonitor(ctx, ours, nil); !errors.Is(err, ErrMonitorClosed) {
			t.Errorf("NewMonitor of %.20q = %v; want ErrMonitorClosed", said, err)
		}
		cancel()
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte(`{"QMP": {"version": {}}}`))
	f.Add([]byte(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-panic"}}`))
	f.Add([]byte(`{"return": {}, "id": 1}`))
	f.Add([]byte(`{"error": {"class": "x", "desc": "y"}, "id": 18446744073709551615}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parseMessage(line)
		if err == nil && m.Greeting == nil && m.Event == "" && m.Return == nil && m.Error == nil {
			t.Errorf("parseMessage(%q) = nothing, nil; want an error", line)
		}
	})
}

func TestReadReports(t *testing.T) {
	in := `{"name":"fw\u001b[2J","ready":true,"failures":["a\nb"],"links":[{"name":"w","addresses":["1\r"]}],` +
		`"disks":[{"name":"a\t","mount":"/srv/\u001b","device":"v\u0007","action":"x\n","error":"\u202e"}]}` + "\n\n" +
		`{"name":"second"}` + "\n"
	var got []contract.Report
	if err := ReadReports(strings.NewReader(in), func(r contract.Report) { got = append(got, r) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Name != "fw\ufffd[2J" || got[0].Failures[0] != "a\ufffdb" ||
		got[0].Links[0].Addresses[0] != "1\ufffd" {
		t.Errorf("ReadReports = %+v; want two reports with their control characters replaced", got)
	}
	disk := contract.DiskReport{Name: "a\ufffd", Mount: "/srv/\ufffd", Device: "v\ufffd", Action: "x\ufffd",
		Error: "\ufffd"}
	if len(got) > 0 && !slices.Equal(got[0].Disks, []contract.DiskReport{disk}) {
		t.Errorf("ReadReports = %+v; want the data disk %+v", got[0].Disks, disk)
	}
	many := `{"warnings":["` + strings.Repeat(`","`, maxEntries) + `"]}`
	disks := `{"disks":[{}` + strings.Repeat(",{}", maxEntries) + "]}"
	for _, bad := range []string{"hello\n", `{"name":3}` + "\n", many + "\n", disks + "\n",
		strings.Repeat(" ", maxReport+1)} {
		if err := ReadReports(strings.NewReader(bad), func(contract.Report) {}); err == nil {
			t.Errorf("ReadReports(%.20q) = nil; want an error", bad)
		}
	}
}

func FuzzParseReport(f *testing.F) {
	f.Add([]byte(`{"name":"fw","ready":true,"links":[{"name":"wan","addresses":["192.0.2.1/24"]}]}`))
	f.Add([]byte(`{"failures":["\u0000\u202e"],"children":[{"name":"x","last":"\u001b[31m"}]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseReport(line)
		if err != nil {
			return
		}
		for _, s := range append(append([]string{r.Name, r.Policy}, r.Failures...), r.Warnings...) {
			if strings.ContainsAny(s, "\x00\x1b\n\r\u202e") {
				t.Errorf("parseReport(%q) lets %q through", line, s)
			}
		}
	})
}
