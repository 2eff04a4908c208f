package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/profiles"
)

// rempart runs one call and returns its exit code and what it printed.
func rempart(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), &console{in: strings.NewReader(""), out: &out, err: &errs}, args)
	return code, out.String(), errs.String()
}

func writeProfile(t *testing.T, src string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "fw.yaml")
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCheckBuiltins(t *testing.T) {
	for _, name := range profiles.Builtin() {
		code, out, errs := rempart("check", name)
		if code != exitDone || !strings.HasPrefix(out, "ok, ") || strings.HasPrefix(out, "ok, 0 ") || errs != "" {
			t.Errorf("rempart check %s = %d, %q, %q; want 0 and some probes", name, code, out, errs)
		}
	}
}

func TestCheckTellsFindings(t *testing.T) {
	file := writeProfile(t, `rempart: 1
name: fw
links: {lan0: {address: 10.0.0.1/24, mtuu: 1500}}
zones: {home: lan}
admin: none
`)
	want := file + `:3:38: links.lan0: unknown key "mtuu"; did you mean "mtu"?` + "\n" +
		file + `:4:15: zones.home: unknown link "lan"; did you mean "lan0"?` + "\n"
	code, out, errs := rempart("check", file)
	if code != exitUsage || out != "" || errs != want {
		t.Errorf("rempart check = %d, %q, %q; want 2 and\n%s", code, out, errs, want)
	}
	code, out, errs = rempart("check", "--json", file)
	var result checkResult
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		t.Fatalf("rempart check --json printed %q: %v", out, err)
	}
	if code != exitUsage || errs != want || result.OK || len(result.Findings) != 2 || result.Findings[0].File != file ||
		result.Findings[0].Line != 3 || result.Findings[0].Column != 38 || result.Findings[0].Hint != `did you mean "mtu"?` {
		t.Errorf("rempart check --json = %d, %+v, %q; want 2 and two findings", code, result, errs)
	}
}

func TestCheckShowsWarnings(t *testing.T) {
	file := writeProfile(t, `rempart: 1
name: fw
memory: 64M
links: {lan0: {address: 10.0.0.1/24}}
zones: {home: lan0}
admin: {from: home}
`)
	want := file + ":3:9: warning: memory: with less than 96M not every way of booting comes up\n"
	code, out, errs := rempart("check", file)
	if code != exitDone || !strings.HasPrefix(out, "ok, ") || errs != want {
		t.Errorf("rempart check = %d, %q, %q; want 0, ok and %q", code, out, errs, want)
	}
	code, out, errs = rempart("check", "--json", file)
	var result checkResult
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		t.Fatalf("rempart check --json printed %q: %v", out, err)
	}
	if code != exitDone || errs != "" || !result.OK || result.Name != "fw" || result.Probes == 0 ||
		len(result.Warnings) != 1 || result.Warnings[0].Line != 3 || len(result.Findings) != 0 {
		t.Errorf("rempart check --json = %d, %+v, %q; want 0, ok and one warning", code, result, errs)
	}
}

func TestCheckBadInput(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"empty", []string{writeProfile(t, "")}, exitUsage, "fw.yaml:1:1: the profile is empty"},
		{"binary", []string{writeProfile(t, "\x7fELF\x02")}, exitUsage, "fw.yaml:1:1: control character 0x7f"},
		{"10 MB", []string{writeProfile(t, strings.Repeat("a: b\n", 2<<20))}, exitUsage,
			"fw.yaml:1:1: the profile is larger"},
		{"missing", []string{"no-such.yaml"}, exitFailed, `rempart check: there is no file "no-such.yaml"`},
		{"none", nil, exitUsage, "expected one profile"},
		{"two", []string{"a", "b"}, exitUsage, "expected one profile"},
	} {
		code, out, errs := rempart(append([]string{"check"}, c.args...)...)
		if code != c.code || out != "" || !strings.Contains(errs, c.want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("rempart check of %s = %d, %q, %q; want %d and one line with %q", c.name, code, out, errs, c.code, c.want)
		}
	}
}

func TestNew(t *testing.T) {
	code, out, errs := rempart("new", "home-firewall")
	if code != exitDone || errs != "" {
		t.Fatalf("rempart new home-firewall = %d, %q; want 0", code, errs)
	}
	if code, _, errs := rempart("check", writeProfile(t, out)); code != exitDone {
		t.Errorf("rempart check of what rempart new printed = %d, %q; want 0", code, errs)
	}
	code, out, errs = rempart("new")
	for _, name := range profiles.Builtin() {
		if code != exitDone || !strings.Contains(out, name+" ") || errs != "" {
			t.Errorf("rempart new = %d, %q, %q; want 0 and %s listed", code, out, errs, name)
		}
	}
	code, out, errs = rempart("new", "home-firwall")
	if code != exitUsage || out != "" || !strings.Contains(errs, `did you mean "home-firewall"?`) {
		t.Errorf("rempart new home-firwall = %d, %q, %q; want 2 and a suggestion", code, out, errs)
	}
	if code, _, errs := rempart("new", "a", "b"); code != exitUsage || !strings.Contains(errs, "at most one") {
		t.Errorf("rempart new a b = %d, %q; want 2", code, errs)
	}
}

func TestSchema(t *testing.T) {
	code, out, errs := rempart("schema")
	if code != exitDone || out != string(profiles.Schema()) || errs != "" {
		t.Errorf("rempart schema = %d, %d bytes, %q; want 0 and the schema", code, len(out), errs)
	}
	if code, _, errs := rempart("schema", "x"); code != exitUsage || !strings.Contains(errs, "expected no arguments") {
		t.Errorf("rempart schema x = %d, %q; want 2", code, errs)
	}
}

// TestCheckXenNICs: how many NICs Xen gives a guest depends on how many disks it has, and all of them count: its system
// disk, state disk and identity disk, and the data disks that it is not READY without.
func TestCheckXenNICs(t *testing.T) {
	const two, more = "disks: {a: /srv/a, b: /srv/b}\n", "disks: {a: /srv/a, b: {at: /srv/b, optional: true}}\n"
	for _, c := range []struct {
		nics        int
		disks, want string
	}{
		{57, "", ""},
		{58, "", "58 NICs; with 1 virtual processors and 3 disks"},
		{58, "state: none\n", ""},
		{53, two, ""},
		{54, two, "54 NICs; with 1 virtual processors and 5 disks"},
		{54, more, ""},
	} {
		src := "rempart: 1\nname: fw\nadmin: none\nzones: {home: a0}\n" + c.disks + "links:\n"
		for i := range c.nics {
			src += fmt.Sprintf("  a%d: {address: 10.0.%d.1/24}\n", i, i)
		}
		code, _, errs := rempart("check", "--xen", "pv", writeProfile(t, src))
		if (code == exitDone) != (c.want == "") || !strings.Contains(errs, c.want) {
			t.Errorf("rempart check --xen of %d NICs, %q = %d, %s\nwant %q", c.nics, c.disks, code, errs, c.want)
		}
	}
}

// TestCheckXen: what Xen cannot do with a profile is said of it before anything is built.
func TestCheckXen(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--xen", "pv"}, exitDone, ""},
		{[]string{"--xen", "hvm", "--loader", "bios"}, exitDone, ""},
		{[]string{"--xen", "pvh", "--loader", "grub", "--layout", "whole"}, exitDone, ""},
		{[]string{"--xen", "pv", "--loader", "bios"}, exitUsage, "home-firewall:1:1: under Xen: a BIOS is part of"},
		{[]string{"--xen", "hvm", "--loader", "bios", "--layout", "partitions"}, exitUsage, "holds no kernel"},
		{[]string{"--xen", "hvm", "--loader", "uefi"}, exitUsage, "under Xen: loader uefi: of the disks that"},
		{[]string{"--xen", "pvh", "--loader", "pygrub"}, exitUsage, "pygrub boots PV guests"},
		{[]string{"--xen", "kvm", "--loader", "lilo"}, exitUsage, `under Xen: loader "lilo": want one of direct`},
		{[]string{"--xen", "kvm", "--loader", "lilo"}, exitUsage, `under Xen: mode "kvm": want one of pv, pvh, hvm`},
		{[]string{"--layout", "whole"}, exitUsage, "want --xen too"},
	} {
		code, out, errs := rempart(append([]string{"check", "home-firewall"}, c.args...)...)
		if code != c.code || c.want == "" && errs != "" || !strings.Contains(errs, c.want) ||
			strings.HasPrefix(out, "ok, ") != (c.code == exitDone) {
			t.Errorf("rempart check home-firewall %q = %d, %q, %q; want %d and %q", c.args, code, out, errs, c.code, c.want)
		}
	}
	var result checkResult
	code, out, _ := rempart("check", "--json", "home-firewall", "--xen", "pvh", "--loader", "bios")
	err := json.Unmarshal([]byte(out), &result)
	if err != nil || code != exitUsage || result.OK || len(result.Findings) != 1 {
		t.Errorf("rempart check --json = %d, %q, %v; want %d and one finding", code, out, err, exitUsage)
	}
}
