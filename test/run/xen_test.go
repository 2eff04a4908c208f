package run

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// xlPrograms stand for those of a Xen host: an xl that lists one guest as long as the file id is there, and leaves
// a process behind that has the guest's lock and starts it again when that says so; and what reads xenstore. The real
// ones are driven in package test/xen.
var xlPrograms = map[string]string{
	"xl": `echo "$*" >>called
next() { n=$(($(cat count) + 1)); echo $n >count; echo $n >id; }
case "$*" in
'list --long')
  [ ! -e broken ] || { echo 'libxl: no answer' >&2; exit 1; }
  echo '[{"domid": 0, "config": {}}'
  [ ! -e id ] || printf ', {"domid": %d, "config": {"c_info": {"type": "pv", "name": "fw"}}}' $(cat id)
  echo ']';;
'create '*)
  [ ! -e refuse ] || { echo 'libxl: no memory' >&2; exit 3; }
  cp "$2" config
  next
  (while read how <end; do
    [ "$how" = again ] || exit
    next
  done) </dev/null >/dev/null 2>&1 &;;
'domid fw') cat id;;
'shutdown --wait fw') rm id && if [ -e stubborn ]; then echo again >end; else echo over >end; fi;;
'destroy fw') rm id && echo over >end;;
*) echo "unknown $*" >&2; exit 1;;
esac`,
	"xenstore-exists": `[ -e id ]`,
	"xenstore-watch":  `sleep 1`,
	"xenstore-read": `case "$2" in
*/status) cat status;;
*/report) printf '1 '; printf '{"name":"fw","failures":["no policy"]}' | sha256sum | cut -d ' ' -f 1;;
*/report/0) printf '{"name":"fw","failures":["no policy"]}\n';;
esac`,
}

// TestXen has rempart keep a guest that Xen runs: made, started, looked at, stopped whatever it does against that, put
// back on its master, and left alone while something else runs it.
func TestXen(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: making bridges wants root")
	}
	t.Parallel()
	f := newFamily(t)
	tools := filepath.Join(f.dir, "tools")
	if err := os.Mkdir(tools, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, script := range xlPrograms {
		text := fmt.Sprintf("#!/bin/sh\ncd %s || exit 9\n%s\n", tools, script)
		if err := os.WriteFile(filepath.Join(tools, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f.env = append(f.env, "PATH="+tools+":"+os.Getenv("PATH"))
	judge(t, "mkfifo", filepath.Join(tools, "end"))
	say := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(tools, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	forget := func(name string) {
		t.Helper()
		if err := os.Remove(filepath.Join(tools, name)); err != nil {
			t.Fatal(err)
		}
	}
	say("count", "0")
	say("status", "READY")

	// Bridges are in a network of each call's own.
	f.within = []string{"unshare", "--net", "--mount", "sh", "-ec", `mount -t sysfs sysfs /sys
ip link add brlan type bridge
ip link add brdmz type bridge
exec "$@"`, "sh"}
	create := []string{"create", "fw", "--store", f.dir + "/masters", "--master", "fw-1", "--key", f.key + ".pub"}
	on := slices.Concat(create, []string{"--xen", "pvh", "--net", "lan0=bridge:brlan", "--net", "dmz0=bridge:nowhere"})
	with := func(words ...string) []string { return slices.Concat(on, words) }
	f.do(t, 2, "--weight is for a guest of Xen", slices.Concat(create, []string{"--weight", "300"})...)
	f.do(t, 2, "--firmware is for a guest of QEMU", with("--firmware", "direct")...)
	f.do(t, 2, "link dmz0 is plugged into nothing", slices.Concat(create, []string{"--xen", "pv", "--net",
		"lan0=bridge:brlan"})...)
	f.do(t, 2, "want bridge:NAME", with("--net", "lan0=user")...)
	f.do(t, 1, "pygrub boots PV guests", with("--loader", "pygrub")...)
	judge(t, "qemu-img", "create", "-q", "-f", "qcow2", f.dir+"/www.qcow2", "1M")
	f.do(t, 1, "xl attaches raw ones", with("--data", "www="+f.dir+"/www.qcow2")...)
	f.do(t, 0, "rempart start fw", with("--weight", "300")...)
	f.do(t, 1, "no bridge nowhere", "start", "fw")
	f.do(t, 0, "bridge:nowhere", "set", "fw", "--net", "dmz0=bridge:brdmz")
	f.do(t, 1, "described by --to xl", "export", "fw", "--to", "libvirt")

	say("refuse", "")
	f.do(t, 1, "no memory", "start", "fw")
	forget("refuse")
	f.do(t, 0, "not started", "status", "fw")
	f.do(t, 0, "fw is READY", "start", "fw")
	config, err := os.ReadFile(filepath.Join(tools, "config"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`type = "pvh"`, "cpu_weight = 300", "access=ro, target=" + f.dir + "/masters/",
		"access=rw, target=" + f.dir + "/guests/fw/state.raw", "access=ro, target=" + f.dir + "/guests/fw/identity.raw",
		"bridge=brlan'", "bridge=brdmz'", `on_reboot = "restart"`} {
		if !strings.Contains(string(config), want) {
			t.Errorf("xl starts it from\n%s\nwant %q", config, want)
		}
	}
	f.do(t, 0, "Xen, as number 1", "status", "fw")
	f.do(t, 1, "Xen runs it", "start", "fw")
	f.do(t, 1, "Xen runs it", "rm", "fw")
	f.do(t, 1, "Xen runs it", "backup", "fw", f.dir+"/fw.backup")
	f.do(t, 0, "waits for its next start", "set", "fw", "--memory", "144M")
	say("status", "FAILED")
	f.do(t, 1, "failed: no policy", "status", "fw")
	say("status", "READY")
	say("stubborn", "") // it restarts instead of ending
	f.do(t, 0, "destroyed: it started again", "stop", "fw")
	forget("stubborn")
	f.do(t, 0, "destroyed: it started again", "status", "fw")
	f.do(t, 0, "does not run", "stop", "fw")

	f.do(t, 0, "not started on master", "reprovision", "fw", "--no-start")
	f.do(t, 0, "fw is READY", "start", "fw")
	f.do(t, 0, "READY on master", "reprovision", "fw")
	say("status", "FAILED")
	f.do(t, 1, "put back to what it was", "reprovision", "fw", "--timeout", "3s")
	say("status", "READY")
	f.do(t, 0, "ready", "status", "fw")
	f.do(t, 0, "READY on master", "rollback", "fw")
	f.do(t, 0, "stopped", "stop", "fw")

	say("id", "9") // somebody else's xl
	for _, verb := range []string{"start", "stop", "reprovision", "rm", "verify"} {
		f.do(t, 1, "another program runs the guest: fw: Xen runs it as fw, number 9", verb, "fw")
	}
	forget("id")
	f.do(t, 0, "are gone", "rm", "fw", "--data")
	called, err := os.ReadFile(filepath.Join(tools, "called"))
	if err != nil || strings.Contains(string(called), "unknown") {
		t.Errorf("xl was called with, %v,\n%s", err, called)
	}
}
