package packets

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"rempart/test/rig"
)

// scan is what nmap is told to look at, and all that it may find: ports that answer at all, by whoever is behind them.
// Every other port has to be silent: an answer that a port is closed would be one too many.
type scan struct {
	from, target string
	ports        string // nmap's options that say which
	count        int    // how many ports these are
	answers      string // "80/tcp 443/tcp"
}

// Ports to scan. The top ones are those that nmap's authors found open most often.
const (
	everyTCP = "-sS -p1-65535"
	topTCP   = "-sS --top-ports 1000"
	topUDP   = "-sU --top-ports 100"
)

// TestScanHome looks with nmap at the home-firewall and through it: every TCP port from the Internet, over IPv4 and
// IPv6, the usual ones from everywhere else.
func TestScanHome(t *testing.T) {
	m := rig.Build(t, home)
	w := newHome(t, m)
	g := m.Boot(t, rig.Options{Backends: w.backends()})
	g.AwaitReady()
	w.scan(t, []scan{
		{"internet", "192.168.0.101", everyTCP, 65535, "80/tcp 443/tcp"},
		{"internet", "fd00:192:168::101", everyTCP, 65535, ""},
		{"internet", "192.168.0.101", topUDP, 100, ""},
		{"internet", "fd00:192:168::101", topUDP, 100, ""},
		{"internet", "10.9.0.1", topTCP, 1000, ""},
		{"internet", "10.9.0.7", topTCP, 1000, ""},
		{"internet", "fd00:10:9::7", topTCP, 1000, ""},
		{"internet", "fd00:10:9::7", topUDP, 100, ""},
		{"dmz", "10.9.0.1", topTCP, 1000, ""},
		{"dmz", "fd00:10:9::1", topTCP, 1000, ""},
		{"dmz", "192.168.0.7", topTCP, 1000, ""},
		{"dmz", "fd00:192:168::7", topTCP, 1000, ""},
		{"home", "192.168.0.101", topTCP, 1000, "22/tcp"},
		{"home", "fd00:192:168::101", topTCP, 1000, "22/tcp"},
		{"home", "10.9.0.7", topTCP, 1000, ""},
		{"home", "fd00:10:9::7", topUDP, 100, ""},
	})
	g.PowerOff()
}

// TestScanUplink does so with the dhcp-uplink.
func TestScanUplink(t *testing.T) {
	m := rig.Build(t, uplink)
	w, _ := newUplink(t, m)
	g := m.Boot(t, rig.Options{Backends: w.backends()})
	g.AwaitReady()
	w.scan(t, []scan{
		{"internet", leased, everyTCP, 65535, "80/tcp 443/tcp"},
		{"internet", leased, topUDP, 100, ""},
		{"internet", "10.10.10.1", topTCP, 1000, ""},
		{"internet", "10.10.10.10", topTCP, 1000, ""}, // not by the forward, so not at all
		{"internet", "10.10.10.7", topUDP, 100, ""},
		{"neighbour", leased, topTCP, 1000, "80/tcp 443/tcp"},
		{"inside", "10.10.10.1", topTCP, 1000, "22/tcp"},
		{"inside", "fd00:10:10::1", topTCP, 1000, "22/tcp"},
		{"inside", "fd00:10:10::1", topUDP, 100, ""},
	})
	g.PowerOff()
}

// scan runs nmap, a few at a time: together they send no more than a translated guest takes in.
func (w *world) scan(t *testing.T, scans []scan) {
	t.Helper()
	var wait sync.WaitGroup
	slots := make(chan struct{}, 4)
	for _, s := range scans {
		slots <- struct{}{}
		wait.Add(1)
		go func() {
			defer func() { <-slots; wait.Done() }()
			if err := s.run(w); err != nil {
				t.Error(err)
			}
		}()
	}
	wait.Wait()
}

// What nmap prints with -oG: the ports that are not silent, and how many are in the state not worth listing. Of UDP a
// port that says nothing is "open|filtered".
var (
	answering = regexp.MustCompile(`(\d+)/(open|closed|unfiltered)/(tcp|udp)/`)
	silentTCP = regexp.MustCompile(`(?:Ignored State: filtered|filtered) \((\d+)\)`)
	silentUDP = regexp.MustCompile(`Ignored State: open\|filtered \((\d+)\)`)
)

func (s scan) run(w *world) error {
	found, silent, out, err := s.nmap(w, s.ports, "1")
	if err != nil {
		return err
	}
	// What has to answer and did not may have been lost on its way through a busy guest, twice: it is asked for by itself.
	var lost []string
	for _, want := range strings.Fields(s.answers) {
		if !slices.Contains(found, want) {
			lost = append(lost, strings.TrimSuffix(want, "/tcp"))
		}
	}
	if len(lost) > 0 && s.ports != topUDP {
		again, _, more, err := s.nmap(w, "-sS -p"+strings.Join(lost, ","), "5")
		if err != nil {
			return err
		}
		for _, a := range again {
			if !slices.Contains(found, a) {
				found, silent = append(found, a), silent-1
			}
		}
		slices.SortFunc(found, func(a, b string) int { return cmp.Compare(number(a), number(b)) })
		out += more
	}
	if !slices.Equal(found, strings.Fields(s.answers)) || silent+len(found) != s.count {
		return fmt.Errorf("from %s: nmap %s %s: %q answer and %d are silent; want %q and the rest of %d\n%s", s.from,
			s.ports, s.target, found, silent, s.answers, s.count, out)
	}
	return nil
}

// number is the port of "443/tcp".
func number(found string) int {
	n, _ := strconv.Atoi(strings.TrimRight(found, "/cdptu")) // digits, says the pattern
	return n
}

// nmap returns what answers, and how many ports are silent.
func (s scan) nmap(w *world, ports, retries string) (found []string, silent int, said string, err error) {
	// At least so many a second: a port that is silent costs nmap its whole patience otherwise.
	args := append(strings.Fields(ports), "-n", "-Pn", "-T4", "--max-retries", retries, "--min-rate", "6000", "-oG", "-")
	if strings.Contains(s.target, ":") {
		args = append(args, "-6")
	}
	out, err := w.hosts[s.from].Nmap(append(args, s.target)...)
	if err != nil {
		return nil, 0, "", fmt.Errorf("from %s: %w", s.from, err)
	}
	for _, m := range answering.FindAllStringSubmatch(string(out), -1) {
		found = append(found, m[1]+"/"+m[3])
	}
	pattern := silentTCP
	if ports == topUDP {
		pattern = silentUDP
	}
	if m := pattern.FindStringSubmatch(string(out)); m != nil {
		silent, _ = strconv.Atoi(m[1]) // digits, says the pattern
	}
	return found, silent, string(out), nil
}
