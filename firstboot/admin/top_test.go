package admin

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
)

// kernelFiles lays what the kernel says below a root.
func kernelFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// topFiles are those of a guest with two children, one of which never ran.
func topFiles() map[string]string {
	link := groupsDir + "/link/"
	return map[string]string{
		memoryFile:              "MemTotal:       91000 kB\nMemFree: 1 kB\nMemAvailable:   40000 kB\n",
		loadFile:                "0.50 0.25 0.10 1/80 300\n",
		conntrackCount:          "50\n",
		conntrackMax:            "200\n",
		link + "cpu.stat":       "usage_usec 1500000\nuser_usec 1\n",
		link + "memory.stat":    "anon 2097152\nfile 9\nfile_mapped 1048576\n",
		link + "memory.current": "4194304\n",
		link + "memory.peak":    "5242880\n",
		link + "memory.max":     "max\n",
	}
}

func topDesk(root string) *desk {
	d := &desk{root: root, log: slog.New(slog.DiscardHandler), news: newNews()}
	d.news.report = contract.Report{Children: []contract.ChildState{{Name: "link", State: "ready", PID: 7, Restarts: 2},
		{Name: "syslog", State: "done"}}}
	return d
}

func TestTop(t *testing.T) {
	root := kernelFiles(t, topFiles())
	var out strings.Builder
	r := ctl.Request{Call: ctl.Call{Args: []string{"top", "--json"}}, Stdout: &out}
	if err := runTop(context.Background(), topDesk(root), r); err != nil {
		t.Fatal(err)
	}
	var got topReport
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatal(err)
	}
	if got.Uptime <= 0 || got.Load != [3]float64{0.5, 0.25, 0.1} || got.Conntrack != (fill{50, 200}) ||
		got.Memory != (contract.Memory{Total: 91000 << 10, Available: 40000 << 10}) {
		t.Errorf("top = %+v; want what the files say", got)
	}
	want := topChild{Name: "link", State: "ready", PID: 7, Restarts: 2, Seconds: 1.5, RSS: 3 << 20, Charged: 4 << 20,
		Peak: 5 << 20}
	if len(got.Children) != 2 || got.Children[0] != want || got.Children[1].Name != "syslog" {
		t.Errorf("children = %+v; want %+v and syslog", got.Children, want)
	}
	var words strings.Builder
	if err := got.print(&words); err != nil || !strings.Contains(words.String(), "connections 50 of 200 (25 %)") ||
		!strings.Contains(words.String(), "link") {
		t.Errorf("in words: %q, %v", words.String(), err)
	}
}

// TestTopFollows: -f goes on until the client goes, says each time what the processor did since the last, and a kernel
// that tracks nothing is no failure.
func TestTopFollows(t *testing.T) {
	files := topFiles()
	delete(files, conntrackCount)
	root := kernelFiles(t, files)
	before := map[string]used{}
	d := topDesk(root)
	if _, err := d.look(before); err != nil {
		t.Fatal(err)
	}
	busy := filepath.Join(root, groupsDir, "link/cpu.stat")
	if err := os.WriteFile(busy, []byte("usage_usec 601500000\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := d.look(before); err != nil || got.Children[0].CPU <= 0 || got.Conntrack != (fill{}) {
		t.Errorf("the second look = %+v, %v; want a processor that was used, and no connections", got, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	lines := 0
	r := ctl.Request{Call: ctl.Call{Args: []string{"top", "-f", "--json", "--every", "1"}},
		Stdout: writer(func(p []byte) (int, error) {
			if lines++; lines == 2 {
				cancel()
			}
			return len(p), nil
		})}
	if err := runTop(ctx, d, r); err != nil || lines != 2 {
		t.Errorf("top -f = %v after %d lines; want nil after 2", err, lines)
	}
	var usage usageError
	r.Args = []string{"top", "--every", "0"}
	if err := runTop(ctx, d, r); !errors.As(err, &usage) {
		t.Errorf("top --every 0 = %v; want it refused", err)
	}
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
