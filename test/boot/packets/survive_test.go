package packets

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"rempart/firstboot/contract"
	"rempart/test/rig"
)

func restarts(r contract.Report, child string) int {
	for _, c := range r.Children {
		if c.Name == child {
			return c.Restarts
		}
	}
	return -1
}

func childRestarts(g *rig.Guest, child string) int {
	r, _ := g.Report()
	return restarts(r, child)
}

// talk is one established connection that asks and is answered without end.
type talk struct {
	name string
	mu   sync.Mutex
	said int
	err  error
	news chan struct{} // closed and replaced at each answer, and at the end
}

// Pace and bound of a talk. An answer may be lost while the guest is busy; TCP brings it back well within the bound.
const (
	talkEvery = 50 * time.Millisecond
	talkBound = 20 * time.Second
)

// talk connects a host to a server and keeps the connection busy until the test ends. The server must see it come from
// seen, always by the same port: it is always the same connection.
func (w *world) talk(t *testing.T, host, to, seen string) *talk {
	t.Helper()
	k := &talk{name: host + " to " + to, news: make(chan struct{})}
	var conn net.Conn
	w.hosts[host].In(t, func() (err error) {
		conn, err = net.DialTimeout("tcp", to, talkBound)
		return err
	})
	stop, ended := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-ended; _ = conn.Close() })
	go func() {
		defer close(ended)
		tick := time.NewTicker(talkEvery)
		defer tick.Stop()
		answers, first := bufio.NewReader(conn), ""
		for {
			answer, err := exchange(conn, answers)
			if first == "" {
				first = answer
			}
			if err == nil && (answer != first || !strings.HasPrefix(strings.Trim(answer, "["), seen)) {
				err = fmt.Errorf("the server sees it come from %q, before %q; want %s and one port", answer, first, seen)
			}
			k.mu.Lock()
			k.said++
			k.err = err
			close(k.news)
			k.news = make(chan struct{})
			k.mu.Unlock()
			if err != nil {
				return
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	return k
}

// exchange asks once and returns from where the server sees the connection come.
func exchange(conn net.Conn, answers *bufio.Reader) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(talkBound)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: talk\r\n\r\n"); err != nil {
		return "", err
	}
	r, err := http.ReadResponse(answers, nil)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return strings.TrimPrefix(strings.TrimSpace(string(b)), "seen from "), err
}

// more waits for n more answers.
func (k *talk) more(t *testing.T, n int) {
	t.Helper()
	k.mu.Lock()
	until := k.said + n
	k.mu.Unlock()
	for {
		k.mu.Lock()
		said, err, news := k.said, k.err, k.news
		k.mu.Unlock()
		if err != nil {
			t.Fatalf("the connection from %s died after %d answers: %v", k.name, said, err)
		}
		if said >= until {
			return
		}
		<-news // comes, at the latest with the error of a deadline
	}
}

// survive kills the children that load the policy and hold the links, one after the other and at once, and demands
// that they come back and every connection lives on.
func (w *world) survive(t *testing.T, g *rig.Guest, knocking *knocking, talks []*talk) {
	t.Helper()
	all := func(n int) {
		t.Helper()
		for _, k := range talks {
			k.more(t, n)
		}
	}
	all(1)
	for _, victims := range [][]string{{"policy"}, {"link"}, {"policy", "link"}} {
		before := map[string]int{}
		for _, v := range victims {
			before[v] = childRestarts(g, v)
		}
		begun := time.Now()
		for _, v := range victims {
			g.Order("kill " + v + " KILL")
		}
		all(2)
		r := g.Await(strings.Join(victims, " and ")+" to be back", func(r contract.Report) bool {
			back := r.Ready
			for _, v := range victims {
				back = back && restarts(r, v) > before[v]
			}
			return back
		})
		t.Logf("%s killed: READY again after %.1f s", strings.Join(victims, " and "), time.Since(begun).Seconds())
		if r.Policy != "loaded" || len(r.Failures) > 0 {
			t.Errorf("after %v were killed: policy %q, failures %q; want loaded and none", victims, r.Policy, r.Failures)
		}
		all(5)
		knocking.more(1)
	}
	for _, k := range talks {
		k.mu.Lock()
		t.Logf("the connection from %s lives after %d answers", k.name, k.said)
		k.mu.Unlock()
	}
}
