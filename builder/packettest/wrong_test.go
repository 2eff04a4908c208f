package packettest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/filter"
)

// mistake is a ruleset gone wrong, made from the right one.
type mistake struct {
	name  string
	rules func(t *testing.T, right string) string
	// wrong tells whether a row must be found wrong because of it.
	wrong func(p filter.Probe) bool
}

// mistakes: every kind of hole and every kind of wall that a broken firewall can have.
var mistakes = []mistake{
	{"no rules at all", func(*testing.T, string) string { return "" }, func(p filter.Probe) bool {
		// What is left is routing: all that must be stopped passes, and nothing is translated. Flows to the guest
		// itself are answered by closed ports.
		return !p.Pass || p.SeenSrc != p.Src || p.SeenDst != p.Dst
	}},
	{"everything is dropped", func(*testing.T, string) string {
		return "table inet t { chain f { type filter hook prerouting priority -300; policy drop; " +
			"icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n }\n}\n"
	}, func(filter.Probe) bool { return true }}, // blocked flows too: nothing shows that the path is alive
	{"no masquerade", func(t *testing.T, right string) string {
		return replaceLine(t, right, "masquerade")
	}, func(p filter.Probe) bool {
		return p.Pass && p.OutLink != "" && p.SeenSrc != p.Src && p.SeenDst == p.Dst
	}},
}

// replaceLine leaves out the lines that contain word.
func replaceLine(t *testing.T, text, word string) string {
	t.Helper()
	var out []string
	gone := 0
	for _, l := range strings.Split(text, "\n") {
		if strings.Contains(l, word) && !strings.Contains(l, "{") {
			gone++
			continue
		}
		out = append(out, l)
	}
	if gone == 0 {
		t.Fatalf("the ruleset has no line with %q:\n%s", word, text)
	}
	return strings.Join(out, "\n")
}

// A judge who finds everything right is worth nothing until he has been seen to find what is wrong, and only that.
func TestMistakesAreFound(t *testing.T) {
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			b, g, p := rig(t, "home-firewall")
			b.patience = passTime / 3 // no guest that takes its time: what fails here fails for good
			right, err := filter.Compile(p)
			if err != nil {
				t.Fatal(err)
			}
			if rules := m.rules(t, right.Text()); rules != "" {
				g.pipe(t, rules, "nft", "-f", "-")
			}
			g.start(t, p)
			r := run(t, b)
			for i, row := range r.Rows {
				probe := b.Probes()[i]
				if want := !m.wrong(probe); row.Right != want {
					t.Errorf("%s (%s): right = %v, seen %q; want right = %v", row.Flow, row.Packet, row.Right, row.Seen, want)
				}
			}
			if r.OK() {
				t.Error("OK() = true; want false")
			}
		})
	}
}

// A hole that closes before the guest is ready is found by the knocking.
func TestKnockFindsAnEarlyHole(t *testing.T) {
	b, g, p := rig(t, "home-firewall")
	knocking, ready := context.WithCancel(context.Background())
	knocks := make(chan Knocks)
	go func() { knocks <- b.Knock(knocking) }()
	g.start(t, p) // links first, policy never
	time.Sleep(3 * knockEvery * time.Duration(len(b.Probes())))
	ready()
	if k := <-knocks; len(k.Through) == 0 || k.Answered == 0 || k.Sent == 0 {
		t.Errorf("Knock of a guest without a policy = %d sent, %d through, %d answered; want some of each", k.Sent,
			len(k.Through), k.Answered)
	}
}

// Captures are readable by others, and whole after Close.
func TestCaptures(t *testing.T) {
	b, g, p := rig(t, "home-firewall")
	g.start(t, p)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	b.Knock(ctx)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, l := range p.Links {
		got, err := os.ReadFile(filepath.Join(b.pcaps, l.Name+".pcap"))
		if err != nil || len(got) < 100 {
			t.Errorf("capture of %s: %d bytes, %v; want some frames", l.Name, len(got), err)
		}
		tcpdump(t, filepath.Join(b.pcaps, l.Name+".pcap"))
	}
	b.files, b.dumps = nil, nil // the cleanup closes once more
}

func TestTable(t *testing.T) {
	r := Report{Guest: "fw", Right: 1, Wrong: 1, Rows: []Row{
		{Flow: "a -> b", Packet: "ping x -> y", Expected: "blocked", Seen: "blocked", Right: true},
		{Flow: "a -> b", Packet: "tcp x -> y:1", Expected: "blocked", Seen: "LET THROUGH", Proves: "default: a -> b"},
	}, Knocks: &Knocks{Sent: 3}}
	var plain, coloured strings.Builder
	if err := r.Table(&plain, false); err != nil {
		t.Fatal(err)
	}
	if err := r.Table(&coloured, true); err != nil {
		t.Fatal(err)
	}
	want := "FLOW            EXPECTED  SEEN\na -> b\n  ping x -> y   blocked   blocked      right\n" +
		"  tcp x -> y:1  blocked   LET THROUGH  WRONG\n    default: a -> b\n\n" +
		"3 packets knocked while the guest booted, 0 got through, 0 flows answered\nfw: 2 flows, 1 WRONG, tried in 0.0 s\n"
	if plain.String() != want {
		t.Errorf("Table = \n%s\nwant\n%s", plain.String(), want)
	}
	if !strings.Contains(coloured.String(), red) || strings.Contains(plain.String(), "\x1b") {
		t.Errorf("Table in colour = %q; want red in it, and none in %q", coloured.String(), plain.String())
	}
	if r.OK() || (Report{}).OK() {
		t.Error("OK() of a wrong or an empty report = true; want false")
	}
}
