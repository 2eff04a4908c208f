package net

import (
	"encoding/xml"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Scans by nmap: all TCP ports; those below, for who is not outside; and the UDP ports most often found open.
var (
	allTCP = []string{"-sS", "-p", "1-65535", "--min-rate", "8000", "--max-retries", "1"}
	lowTCP = []string{"-sS", "-p", "1-10000", "--min-rate", "8000", "--max-retries", "1"}
	topUDP = []string{"-sU", "--top-ports", "200", "--min-rate", "500", "--max-retries", "1"}
)

// scanned is what the scans from a place ("link address") at an address must find.
type scanned struct {
	from, dst string
	how       []string
	want      string // as scan says it
}

// scan is what nmap finds of ports: "tcp/22" for one that is open, and whatever is neither open nor silent, which a
// firewall that drops does not let anybody see: "tcp/23 closed", or "7 closed" for many.
func (n *node) scan(src, dst string, how ...string) ([]string, error) {
	args := []string{"-n", "-Pn", "-T5", "-oX", "-", "-S", src, "-e", "eth0"}
	if netip.MustParseAddr(dst).Is6() {
		args = append(args, "-6")
	}
	out, err := n.Nmap(append(append(args, how...), dst)...)
	if err != nil {
		return nil, err
	}
	var run struct {
		Hosts []struct {
			Extra []struct {
				State string `xml:"state,attr"`
				Count int    `xml:"count,attr"`
			} `xml:"ports>extraports"`
			Ports []struct {
				Protocol string `xml:"protocol,attr"`
				ID       string `xml:"portid,attr"`
				State    struct {
					State string `xml:"state,attr"`
				} `xml:"state"`
			} `xml:"ports>port"`
		} `xml:"host"`
	}
	if err := xml.Unmarshal(out, &run); err != nil {
		return nil, fmt.Errorf("nmap %q: %w:\n%s", args, err, out)
	}
	if len(run.Hosts) != 1 {
		return nil, fmt.Errorf("nmap %q speaks of %d hosts:\n%s", args, len(run.Hosts), out)
	}
	silent := []string{"filtered", "open|filtered"}
	var found []string
	for _, e := range run.Hosts[0].Extra {
		if !slices.Contains(silent, e.State) {
			found = append(found, fmt.Sprint(e.Count, " ", e.State))
		}
	}
	for _, p := range run.Hosts[0].Ports {
		switch {
		case p.State.State == "open":
			found = append(found, p.Protocol+"/"+p.ID)
		case !slices.Contains(silent, p.State.State):
			found = append(found, p.Protocol+"/"+p.ID+" "+p.State.State)
		}
	}
	return found, nil
}

// scans tries all of them at once: most of a scan is waiting.
func (l *lab) scans(t *testing.T, all []scanned) {
	t.Helper()
	var wg sync.WaitGroup
	for _, s := range all {
		_, src, _ := strings.Cut(s.from, " ")
		host := l.at(t, s.from) // made here: the lab is not for several at once
		wg.Go(func() {
			got, err := host.scan(src, s.dst, s.how...)
			if missing := without(s.want, got); err == nil && len(missing) > 0 {
				// A flood of probes loses some on a busy machine: those that were to be found get another, by themselves.
				again, ports := "-sS", strings.NewReplacer("tcp/", "", "udp/", "").Replace(strings.Join(missing, ","))
				if s.how[0] == "-sU" {
					again = "-sU"
				}
				var more []string
				more, err = host.scan(src, s.dst, again, "-p", ports, "--max-retries", "5")
				got = append(got, more...)
			}
			slices.Sort(got)
			want := strings.Fields(s.want)
			slices.Sort(want)
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("nmap %s from %s at %s finds %q, %v; want %q", s.how[0], s.from, s.dst, got, err, want)
			}
		})
	}
	wg.Wait()
}

// without are the words of a text that are not in a list.
func without(text string, list []string) []string {
	return slices.DeleteFunc(strings.Fields(text), func(word string) bool { return slices.Contains(list, word) })
}
