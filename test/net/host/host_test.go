// Package host has the real tools judge the files that `rempart host` writes: each takes what is meant for it, in
// namespaces of its own, and each complains when a word in it is wrong.
package host

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rempart/test/netns"
	"rempart/test/rig"
)

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println(netns.Skipped + "files of a host are tried by root only: run this with sudo")
		os.Exit(0)
	}
	if !netns.Inside() {
		os.Exit(netns.Isolate())
	}
	netns.CheckPowers()
	os.Exit(m.Run())
}

// write has rempart write the files of a host with a bond, an admin bridge, a bridge for guests, an emergency port.
func write(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "files")
	command(t, rig.Rempart(t), "host", "--output", dir, "--mtu", "9000", "--nic", "ethlan1=52:54:00:00:00:01",
		"--bond", "bond0=ethlan1,ethlan2", "--bridge", "bradm=ethadm1", "--address", "bradm=10.0.0.2/24",
		"--address", "bradm=fd00:a::2/64", "--gateway", "bradm=10.0.0.1", "--bridge", "brlan=bond0", "--bridge", "brsrv",
		"--emergency", "ethext1=192.168.250.1/24")
	return dir
}

func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return string(out)
}

// need is a program of a package that test/setup installs, or unpacks.
func need(t *testing.T, program, pkg string) string {
	t.Helper()
	tools := filepath.Join(rig.Top(), "bin", "tools")
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin", "/lib/systemd", tools + "/sbin",
		tools + "/bin"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err == nil {
			return filepath.Join(dir, program)
		}
	}
	t.Fatalf("%s of the package %s is missing; `make setup` brings it", program, pkg)
	return ""
}

// spoil replaces a word of a file and returns the name of the result.
func spoil(t *testing.T, name, from, to string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(from)) {
		t.Fatalf("%s has no %q", name, from)
	}
	spoilt := filepath.Join(t.TempDir(), filepath.Base(name))
	if err := os.WriteFile(spoilt, bytes.Replace(b, []byte(from), []byte(to), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	return spoilt
}

func TestIfupdown(t *testing.T) {
	ifquery, file := need(t, "ifquery", "ifupdown"), filepath.Join(write(t), "etc/network/interfaces.d/rempart")
	// ifquery keeps a state file where the machine has none.
	empty := t.TempDir()
	ask := func(file string, args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), ifquery, append([]string{"--state-dir=" + empty, "-i", file},
			args...)...).CombinedOutput()
		return string(out), err
	}
	out, err := ask(file, "--list")
	want := []string{"lo", "bond0", "bradm", "brlan", "brsrv", "ethext1"}
	if got := strings.Fields(out); err != nil || !slices.Equal(got, want) {
		t.Errorf("ifquery --list = %q, %v; want %q", got, err, want)
	}
	for name, words := range map[string][]string{
		"bond0": {"bond-mode: 802.3ad", "bond-miimon: 100", "bond-lacp-rate: fast", "bond-xmit-hash-policy: layer2+3"},
		"bradm": {"address: 10.0.0.2\n", "netmask: 255.255.255.0", "gateway: 10.0.0.1", "bridge_stp: off", "bridge_fd: 0",
			"address: fd00:a::2\n", "accept_ra: 0\n"},
		"brlan":   {"bridge_ports: bond0", "mtu: 9000", "arp off", "disable_ipv6"},
		"ethext1": {"address: 192.168.250.1\n", "disable_ipv6"},
	} {
		out, err := ask(file, name)
		for _, word := range words {
			if err != nil || !strings.Contains(out, word) {
				t.Errorf("ifquery %s = %q, %v; want %q in it", name, out, err, word)
			}
		}
	}
	out, err = ask(spoil(t, file, "inet manual", "inet nothing"), "brlan")
	if err == nil && !strings.Contains(out, "nothing") {
		t.Errorf("ifquery takes a method that does not exist: %s", out)
	}
}

func TestFilter(t *testing.T) {
	file := filepath.Join(write(t), "etc/nftables.d/rempart-host.nft")
	nft := need(t, "nft", "nftables")
	command(t, nft, "-c", "-f", file)
	command(t, nft, "-f", file)
	once := command(t, nft, "list", "ruleset")
	command(t, nft, "-f", file)
	if twice := command(t, nft, "list", "ruleset"); once != twice {
		t.Errorf("loaded twice:\n%s\nwant as loaded once:\n%s", twice, once)
	}
	for _, want := range []string{"policy drop", `iifname != { "bradm", "ethext1" } drop`, "tcp dport 22 accept"} {
		if !strings.Contains(once, want) {
			t.Errorf("nft list ruleset has no %q:\n%s", want, once)
		}
	}
}

func TestSysctl(t *testing.T) {
	file := filepath.Join(write(t), "etc/sysctl.d/50-rempart-bridges.conf")
	command(t, need(t, "sysctl", "procps"), "-p", file)
	wrong := spoil(t, file, "-net.bridge", "net.bridgx")
	if out, err := exec.Command(need(t, "sysctl", "procps"), "-p", wrong).CombinedOutput(); err == nil {
		t.Errorf("sysctl takes a setting that does not exist: %s", out)
	}
}

func TestScripts(t *testing.T) {
	dir := write(t)
	script := filepath.Join(dir, "etc/xen/scripts/vif-rempart")
	command(t, "bash", "-n", script)
	if info, err := os.Stat(script); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%s: %v, %v; want it to be executable", script, info, err)
	}
}

// TestUdev has udevadm read the rules together with those of the machine; it complains of what it cannot read and
// changes nothing.
func TestUdev(t *testing.T) {
	udevadm, file := need(t, "udevadm", "udev"), filepath.Join(write(t), "etc/udev/rules.d/70-rempart.rules")
	read := func(file string) string {
		return within(t, `mkdir -p /run/udev/rules.d
mount -t sysfs -o ro sysfs /sys
cp `+file+` /run/udev/rules.d/
`+udevadm+` test --action=add /sys/class/net/lo`)
	}
	good := read(file)
	if !strings.Contains(good, "rules.d/70-rempart.rules") {
		t.Errorf("udevadm does not say that it reads the rules:\n%s", good)
	}
	if strings.Contains(good, "70-rempart.rules:") {
		t.Errorf("udevadm complains:\n%s", good)
	}
	if bad := read(spoil(t, file, "ATTR{type}==", "ATTR{type}=:=")); !strings.Contains(bad, "70-rempart.rules:") {
		t.Errorf("udevadm does not complain of a wrong rule:\n%s", bad)
	}
}

// within runs a script in a mount namespace where /run is memory, and returns what it said.
func within(t *testing.T, script string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte("set -e\nmount -t tmpfs tmpfs /run\n"+script+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), need(t, "unshare", "util-linux"), "-m", "sh", file).CombinedOutput()
	if err != nil {
		t.Logf("%v\n%s", err, out)
	}
	return string(out)
}

func TestXendomains(t *testing.T) {
	dir := filepath.Join(write(t), "etc/systemd/system")
	unit := filepath.Join(dir, "xendomains.service")
	if err := os.WriteFile(unit, []byte("[Service]\nType=oneshot\nExecStart=/bin/true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	verify := func() string {
		cmd := exec.CommandContext(t.Context(), need(t, "systemd-analyze", "systemd"), "verify", "--man=no", unit)
		cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
		out, _ := cmd.CombinedOutput() // its status tells of other units too
		return string(out)
	}
	if out := verify(); strings.Contains(out, "rempart.conf") {
		t.Errorf("systemd-analyze complains:\n%s", out)
	}
	conf := filepath.Join(dir, "xendomains.service.d/rempart.conf")
	b, err := os.ReadFile(spoil(t, conf, "Wants=", "Wnats="))
	if err == nil {
		err = os.WriteFile(conf, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out := verify(); !strings.Contains(out, "rempart.conf") {
		t.Errorf("systemd-analyze does not complain of a wrong word:\n%s", out)
	}
}
