package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNameOf(t *testing.T) {
	dry := "Parsing config from /run/{new}/fw-1.cfg\n{\n \"c_info\": {\n  \"type\": \"pv\",\n  \"name\": \"fw-1\"\n },\n" +
		" \"b_info\": {}\n}\n"
	if got, err := nameOf([]byte(dry)); err != nil || got != "fw-1" {
		t.Errorf("nameOf = %q, %v; want fw-1", got, err)
	}
	for _, bad := range []string{"", "{", "{}", "Parsing config", `{"c_info": {"name": 1}}`} {
		if got, err := nameOf([]byte(bad)); err == nil {
			t.Errorf("nameOf(%q) = %q; want an error", bad, got)
		}
	}
}

// TestXen has the command drive programs of the names it calls, which stand for those of a Xen host; the real ones are
// driven in package test/xen.
func TestXen(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for name, script := range map[string]string{
		"xl": `case "$*" in
'create --dryrun good.cfg') echo 'Parsing config'; echo '{"c_info": {"name": "fw-1"}}';;
'create good.cfg' | 'destroy fw-1' | 'shutdown --wait fw-1') echo "$*" >>` + dir + `/called;;
'shutdown --wait slow') echo "$*" >>` + dir + `/called; exec sleep 60;;
'destroy slow') echo "$*" >>` + dir + `/called;;
'domid fw-1' | 'domid slow') echo 3;;
'list --long') echo '[{"domid": 0, "config": {}}, {"domid": 3, "config": {"c_info": {"type": "pv", "name": "fw-1"},
 "b_info": {"max_vcpus": 1, "max_memkb": 131072}, "nics": [{"mac": "00:16:3e:00:00:01"}]}}]';;
*) echo "unknown $*" >&2; exit 1;;
esac`,
		"xenstore-exists": `case "$1" in /local/domain/3/data/rempart/*) ;; *) exit 1;; esac`,
		"xenstore-read": `case "$2" in
*/status) echo READY;;
*/report) printf '1 '; printf '{"name":"fw-1","ready":true}' | sha256sum | cut -d ' ' -f 1;;
*/report/0) printf '{"name":"fw-1","ready":true}\n';;
esac`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"xen create good.cfg", 0, "fw-1 READY"},
		{"xen create bad.cfg", 1, "unknown create --dryrun bad.cfg"},
		{"xen list", 0, "fw-1  3   pv    128M    1     READY"},
		{"xen list --json", 0, `"name": "fw-1"`},
		{"xen report fw-1", 0, `"ready": true`},
		{"xen report none", 1, "no such guest"},
		{"ctl none status", 1, "no such guest of Xen runs"},
		{"ctl fw-1 status", 1, "xenstore, which only a Xen host's root reaches"},
		{"xen stop fw-1", 0, ""},
		{"xen stop none", 1, "no such guest"},
		{"xen stop slow --patience 200ms", 1, "was destroyed"},
		{"xen destroy fw-1", 0, ""},
		{"xen", 2, "want one of"},
		{"xen crash fw-1", 2, "want one of"},
		{"xen list fw-1", 2, "want 0 words"},
		{"xen stop", 2, "want 1 words"},
		{"xen stop fw-1 --patience 0s", 2, "--patience"},
	} {
		code, out, errs := rempart(strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out+errs, c.want) {
			t.Errorf("rempart %s = %d, %q, %q; want %d and %q", c.args, code, out, errs, c.code, c.want)
		}
	}
	called, err := os.ReadFile(filepath.Join(dir, "called"))
	want := "create good.cfg\nshutdown --wait fw-1\nshutdown --wait slow\ndestroy slow\ndestroy fw-1\n"
	if err != nil || string(called) != want {
		t.Errorf("xl was called with %q, %v; want %q", called, err, want)
	}
}

func TestXenWithoutXl(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if code, _, errs := rempart("xen", "list"); code != exitFailed || !strings.Contains(errs, "dom0 of a Xen host") {
		t.Errorf("rempart xen list without xl = %d, %q", code, errs)
	}
}
