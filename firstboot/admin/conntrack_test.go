package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rempart/firstboot/contract/ctl"
)

// TestConntrack reads the connections of a namespace, and compares them with what another reader of the kernel's answer
// makes of them.
func TestConntrack(t *testing.T) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skipf("SKIPPED, NOT PASSED: %v", err)
	}
	if !alone(t) {
		return
	}
	rules := exec.Command(nft, "-f", "-")
	rules.Stdin = strings.NewReader("table inet x {\nchain c {\ntype filter hook input priority 0\n" +
		"ct state new accept\n}\n}\n")
	if out, err := rules.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	for _, to := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(to, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		u, err := net.Dial("udp", net.JoinHostPort(to, "9"))
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		if _, err := u.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]bool{}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		all, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			want[fmt.Sprint(f.Forward.Protocol, f.Forward.SrcIP, f.Forward.SrcPort, f.Forward.DstIP, f.Forward.DstPort,
				f.Reverse.SrcIP, f.Reverse.SrcPort, f.Reverse.DstIP, f.Reverse.DstPort)] = true
		}
	}
	got := 0
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := eachFlow(family, func(f flow) {
			got++
			o, r := f.original, f.reply
			if key := fmt.Sprint(o.protocol, o.from, o.fromPort, o.to, o.toPort, r.from, r.fromPort, r.to,
				r.toPort); !want[key] {
				t.Errorf("the other reader has no %s", key)
			}
			if f.seconds == 0 {
				t.Errorf("%v is forgotten in 0 seconds", o)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if got != len(want) || got < 4 {
		t.Errorf("%d connections; want the %d of the other reader, TCP and UDP by IPv4 and IPv6 among them", got, len(want))
	}
	for _, args := range [][]string{{"conntrack"}, {"conntrack", "--json"}} {
		var out bytes.Buffer
		r := ctl.Request{Call: ctl.Call{Args: args}, Stdout: &out, Stderr: &out}
		if err := runConntrack(context.Background(), nil, r); err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		if !strings.Contains(out.String(), "[::1]:9") || !strings.Contains(out.String(), "tcp") {
			t.Errorf("%q =\n%s\nwant UDP to [::1]:9 and TCP", args, &out)
		}
		var rows []flowRow
		if len(args) > 1 {
			if err := json.Unmarshal(out.Bytes(), &rows); err != nil || len(rows) != got {
				t.Errorf("as JSON: %d rows, %v; want %d", len(rows), err, got)
			}
		}
	}
}

func TestNoFlowsAreAnEmptyList(t *testing.T) {
	var out bytes.Buffer
	if err := flowsAsJSON(&out, nil); err != nil || out.String() != "[]\n" {
		t.Errorf("flowsAsJSON(none) = %q, %v; want []", &out, err)
	}
}

// FuzzFlow: whatever the bytes, reading them ends, and what is taken for a connection has two ends.
func FuzzFlow(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x1c\x00\x01\x80\x14\x00\x01\x80" +
		"\x08\x00\x01\x00\x7f\x00\x00\x01\x08\x00\x02\x00\x7f\x00\x00\x01" +
		"\x04\x00\x02\x80"))
	f.Add([]byte("\x02\x00\x00\x00\x00\x00\x01\x80"))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, ok := parseFlow(b)
		if ok && (x.row().From == "?" || x.row().To == "?") {
			t.Errorf("parseFlow(%q) = %+v; want both ends", b, x)
		}
	})
}
