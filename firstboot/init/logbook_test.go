package pid1

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
)

// writeLines is the log child of the test guest: it puts each line in a file, and dies at the word "die".
func writeLines(ctx context.Context, env *child.Env) error {
	f, err := os.OpenFile(filepath.Join(env.Root, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	env.Ready()
	for {
		select {
		case l := <-env.Lines:
			if _, err := fmt.Fprintf(f, "%d %s %s lost=%d %v\n", l.Severity, l.From, l.Text, l.Lost,
				l.Time > 0 && l.Uptime > 0); err != nil {
				return err
			}
			if strings.Contains(l.Text, "die") {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// TestLinesReachTheLog: also what was said before the log child was there, and after it died. Only what it had taken
// itself and not kept yet dies with it.
func TestLinesReachTheLog(t *testing.T) {
	g := startGuest(t, "", oneLink())
	g.wait(t, "READY", func(r contract.Report) bool { return r.Ready })
	log := g.log
	log.Warn("please die")
	g.wait(t, "another log child", func(r contract.Report) bool {
		for _, c := range r.Children {
			if c.Name == "log" {
				return c.Restarts == 1 && c.State == "ready"
			}
		}
		return false
	})
	const n = 300
	for i := range n {
		log.Info(fmt.Sprintf("after %d", i))
	}
	var text string
	for end := time.Now().Add(time.Minute); !strings.Contains(text, fmt.Sprintf("after %d ", n-1)); {
		b, err := os.ReadFile(filepath.Join(g.root, "log"))
		if text = string(b); time.Now().After(end) {
			t.Fatalf("the log never had the last line: %v, %s", err, text)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, want := range []string{"4 init please die lost=0 true\n", "6 liar ?]0;title? a line ",
		"4 init child told something PID 1 does not take"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	for i := range n {
		if got := strings.Count(text, fmt.Sprintf("6 init after %d lost=0 true\n", i)); got != 1 {
			t.Errorf("line %d is in the log %d times; want once", i, got)
		}
	}
}

// TestLogbookIsBounded: without a log child the newest lines wait, and what went is counted.
func TestLogbookIsBounded(t *testing.T) {
	b := newLogbook()
	for i := range maxWaiting + 10 {
		b.keep("init", fmt.Sprint(i))
	}
	r, w := io.Pipe()
	over, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); b.copyTo(w, over) }()
	buf := make([]byte, 1000)
	for i := range maxWaiting {
		n, err := r.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`"text":"%d"}`, i+10)
		if i == 0 {
			want = `"text":"10","lost":10}`
		}
		if !strings.HasSuffix(string(buf[:n]), want+"\n") {
			t.Fatalf("line %d = %s; want it to end with %s", i, buf[:n], want)
		}
	}
	close(over)
	<-ended
	if _, ok, _ := b.next(); ok || b.lost != 0 {
		t.Errorf("after all was taken: waiting %v, lost %d", ok, b.lost)
	}
}
