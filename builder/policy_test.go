package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"--from home --to self --tcp 22",
			"passes: admin: home -> self (16:1) (home 192.168.0.7 -> self 192.168.0.101, tcp 22)\n"},
		{"--from internet --to self --tcp 443 --src 198.51.100.9",
			"passes: forward: internet -> 192.168.0.102 (45:5) (internet 198.51.100.9 -> home 192.168.0.101, tcp 443; the " +
				"receiver 192.168.0.102 sees 192.168.0.101)\n"},
		{"--from internet --to home --tcp 443 --dst 192.168.0.102",
			"blocked: default: internet -> home (internet 198.51.100.7 -> home 192.168.0.102, tcp 443)\n"},
		{"--from dmz --to home --ping --src fd00:10:9::5",
			"blocked: default: dmz -> home (dmz fd00:10:9::5 -> home fd00:192:168::7, ping)\n"},
		{"--from self --to dmz --udp 53",
			"passes: default: self -> dmz (self 10.9.0.1 -> dmz 10.9.0.7, udp 53)\n"},
	} {
		args := append([]string{"policy", "explain"}, strings.Fields(test.args)...)
		code, out, errs := rempart(append(args, "home-firewall")...)
		if code != exitDone || out != test.want || errs != "" {
			t.Errorf("explain %s = %d, %q, %q; want 0, %q", test.args, code, out, errs, test.want)
		}
	}
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"--from home --tcp 22", exitUsage, "--from and --to are needed"},
		{"--from home --to self", exitUsage, "one of --tcp PORT"},
		{"--from home --to self --tcp 1 --ping", exitUsage, "one of --tcp PORT"},
		{"--from home --to self --tcp 1 --src x", exitUsage, `--src "x" is no IPv4 or IPv6 address`},
		{"--from attic --to self --ping", exitFailed, `there is no zone "attic"; known: home, internet, dmz, self`},
		{"--from internet --to self --ping --src 192.168.0.7", exitFailed, "not in zone internet; it is in zone home"},
		{"--from home --to self --ping --dst 10.9.0.7", exitFailed, "10.9.0.7 is no address of the guest"},
		{"--from home --to dmz --ping --src fd00::1 --dst 10.9.0.7", exitFailed, "of two families"},
		{"--from self --to self --ping", exitFailed, "always reaches itself"},
	} {
		args := append([]string{"policy", "explain"}, strings.Fields(test.args)...)
		code, out, errs := rempart(append(args, "home-firewall")...)
		if code != test.code || out != "" || !strings.Contains(errs, test.want) {
			t.Errorf("explain %s = %d, %q, %q; want %d and %q", test.args, code, out, errs, test.code, test.want)
		}
	}
	_, out, _ := rempart("policy", "explain", "--json", "--from", "inside", "--to", "internet", "--udp", "9",
		"dhcp-uplink")
	var answers []answer
	if err := json.Unmarshal([]byte(out), &answers); err != nil || len(answers) != 1 || !answers[0].Pass ||
		answers[0].Why != "inside -> internet: accept (26:5)" {
		t.Errorf("explain --json = %s, %v; want one answer by line 26", out, err)
	}
}

func TestPolicyDiff(t *testing.T) {
	_, source, _ := rempart("new", "home-firewall")
	dir := t.TempDir()
	write := func(name, src string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	before := write("before.yaml", source)
	moved := write("moved.yaml", "# a line more\n"+source)
	if code, out, errs := rempart("policy", "diff", before, moved); code != exitDone || out != "" || errs != "" {
		t.Errorf("diff of the same policy at other lines = %d, %q, %q; want 0 and nothing", code, out, errs)
	}
	changed := strings.Replace(source, "home -> self: ping", "home -> self: [ping, http]", 1)
	changed = strings.Replace(changed, "tcp: [80, 443], to", "tcp: 80, to", 1)
	code, out, errs := rempart("policy", "diff", before, write("after.yaml", changed))
	if code != exitDifferent || errs != "" {
		t.Errorf("diff = %d, %q; want %d and no error", code, errs, exitDifferent)
	}
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	for _, want := range []string{
		"  chain in/home",
		`+ tcp dport 80 accept comment "policy: home -> self"`,
		`- ip daddr 192.168.0.102 tcp dport { 80, 443 } ct status dnat accept comment "forward: internet -> 192.168.0.102"`,
		"! home 192.168.0.7 -> 192.168.0.101 by lan0, tcp 80: blocked, then passes",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("diff lacks %q:\n%s", want, out)
		}
	}
	reverse := map[string]string{}
	for _, line := range lines {
		if line[0] == '+' {
			reverse["-"+line[1:]] = line
		}
	}
	_, back, _ := rempart("policy", "diff", filepath.Join(dir, "after.yaml"), before)
	for want, of := range reverse {
		if !strings.Contains(back, want) {
			t.Errorf("the way back lacks %q, the reverse of %q:\n%s", want, of, back)
		}
	}
}

func TestLineDiff(t *testing.T) {
	text := func(s string) []string { return strings.Split(s, "") }
	for _, test := range []struct{ a, b, want string }{
		{"abc", "abc", ""}, {"abc", "axc", "-b+x"}, {"", "a", "+a"}, {"abcd", "bd", "-a-c"}, {"ab", "ba", "-a+a"},
	} {
		got := ""
		for _, d := range lineDiff(text(test.a), text(test.b)) {
			got += string(d.side) + d.text
		}
		if got != test.want {
			t.Errorf("lineDiff(%q, %q) = %q; want %q", test.a, test.b, got, test.want)
		}
	}
}
