package host

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/test/rig"
)

// patience bounds waiting for what does not come.
const patience = 2 * time.Minute

// networkd is a systemd-networkd of this namespace.
type networkd struct {
	cmd  *exec.Cmd
	said *os.File
}

// startNetworkd starts one that reads the files of a folder; it ends with the test, and then the test fails if it
// complained of them.
func startNetworkd(t *testing.T, dir string) *networkd {
	t.Helper()
	script := filepath.Join(t.TempDir(), "script")
	err := os.WriteFile(script, []byte(`set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/rempart /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
cp `+dir+`/* /run/systemd/network/
chown -R systemd-network:systemd-network /run/systemd/netif
mount -t sysfs -o ro sysfs /sys
export SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console
exec `+need(t, "systemd-networkd", "systemd")+"\n"), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	n := &networkd{cmd: exec.Command(need(t, "unshare", "util-linux"), "-m", "sh", script)}
	if n.said, err = os.Create(filepath.Join(t.TempDir(), "said")); err != nil {
		t.Fatal(err)
	}
	n.cmd.Stdout, n.cmd.Stderr = n.said, n.said
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.end(t)
		links := until(t, func(map[string]link) bool { return true })
		netdevs, err := filepath.Glob(filepath.Join(dir, "*.netdev"))
		if err != nil || len(netdevs) == 0 {
			t.Errorf("what systemd-networkd was to make: %q, %v", netdevs, err)
		}
		for _, file := range netdevs {
			_, name, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".netdev"), "rempart-")
			if links[name].Name == "" {
				continue // a bond, which not every kernel has
			}
			if out, err := exec.Command(need(t, "ip", "iproute2"), "link", "del", name).CombinedOutput(); err != nil {
				t.Errorf("ip link del %s: %v\n%s", name, err, out)
			}
		}
	})
	// Ours of its own /run, and what it writes once it has read its files.
	for _, file := range []string{"rempart", "systemd/netif/state"} {
		file = filepath.Join("/proc", strconv.Itoa(n.cmd.Process.Pid), "root/run", file)
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat(file); err == nil {
				break
			} else if time.Now().After(end) {
				t.Fatalf("systemd-networkd does not start: %v", err)
			}
		}
	}
	return n
}

// end ends it and judges what it said.
func (n *networkd) end(t *testing.T) {
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
	n.said.Close()
	b, err := os.ReadFile(n.said.Name())
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(b)) {
		for _, complaint := range []string{"Unknown", "Failed to parse", "Invalid", "ignoring"} {
			if strings.Contains(line, "rempart-") && strings.Contains(line, complaint) {
				t.Errorf("systemd-networkd complains: %s", line)
			}
		}
		if strings.Contains(line, "Started LLDP client") && !strings.Contains(line, "unmanaged") {
			t.Errorf("systemd-networkd listens to neighbours: %s", line)
		}
	}
	if t.Failed() {
		t.Logf("systemd-networkd said:\n%s", b)
	}
}

// online waits as guests do that start with the machine: by what network-online.target waits with.
func (n *networkd) online(t *testing.T, seconds int) error {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), need(t, "nsenter", "util-linux"), "--mount", "--target",
		strconv.Itoa(n.cmd.Process.Pid), need(t, "systemd-networkd-wait-online", "systemd"),
		"--timeout="+strconv.Itoa(seconds)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// link is what `ip -json -details link` says of an interface.
type link struct {
	Name     string   `json:"ifname"`
	Flags    []string `json:"flags"`
	MTU      int      `json:"mtu"`
	Master   string   `json:"master"`
	LinkInfo struct {
		Kind string `json:"info_kind"`
		Data struct {
			STP   int `json:"stp_state"`
			Delay int `json:"forward_delay"`
		} `json:"info_data"`
	} `json:"linkinfo"`
	Addresses []struct {
		Local string `json:"local"`
	} `json:"addr_info"`
}

// locals are its addresses.
func (l link) locals() (all []string) {
	for _, a := range l.Addresses {
		all = append(all, a.Local)
	}
	return all
}

// until looks at all links until done says that they are as they are to be, and returns them in any case.
func until(t *testing.T, done func(map[string]link) bool) map[string]link {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		var all []link
		said, err := exec.Command(need(t, "ip", "iproute2"), "-json", "-details", "addr", "show").Output()
		if err == nil {
			err = json.Unmarshal(said, &all)
		}
		if err != nil {
			t.Fatalf("ip addr show: %v\n%s", err, said)
		}
		links := map[string]link{}
		for _, l := range all {
			links[l.Name] = l
		}
		if done(links) || time.Now().After(end) {
			return links
		}
	}
}

// TestNetworkd has systemd-networkd make the bridges, and looks at them, and at what guests wait for that start with
// the machine: all bridges, and an IPv6 address of the host until nobody else has it; not the emergency port's cable.
func TestNetworkd(t *testing.T) {
	dir, ip := filepath.Join(write(t), "etc/systemd/network"), need(t, "ip", "iproute2")
	for nic, cable := range map[string]string{"ethadm1": "cable", "ethext1": "cord"} {
		command(t, ip, "link", "add", nic, "type", "veth", "peer", "name", cable)
		t.Cleanup(func() { // the command's context is over by then
			if out, err := exec.Command(ip, "link", "del", cable).CombinedOutput(); err != nil {
				t.Errorf("ip link del %s: %v\n%s", cable, err, out)
			}
		})
	}
	n := startNetworkd(t, dir)
	links := until(t, func(links map[string]link) bool {
		return len(links["bradm"].Addresses) == 2 && links["ethadm1"].Master == "bradm" &&
			slices.Contains(links["brlan"].Flags, "UP") && slices.Contains(links["brsrv"].Flags, "UP")
	})
	for name, silent := range map[string]bool{"bradm": false, "brlan": true, "brsrv": true} {
		l := links[name]
		if l.LinkInfo.Kind != "bridge" || l.LinkInfo.Data.STP != 0 || l.LinkInfo.Data.Delay != 0 || l.MTU != 9000 ||
			slices.Contains(l.Flags, "NOARP") != silent || silent != (len(l.Addresses) == 0) {
			t.Errorf("%s = %+v; want a bridge without STP and delay, MTU 9000, silent: %v", name, l, silent)
		}
	}
	if l := links["ethadm1"]; l.Master != "bradm" || l.MTU != 9000 {
		t.Errorf("ethadm1 = %+v; want it in bradm with MTU 9000", l)
	}
	// A guest comes, and goes: a bridge whose MTU was not set once it was there would have that of its last port, or 1500.
	command(t, ip, "link", "add", "vif7.0", "mtu", "1500", "type", "veth", "peer", "name", "guest")
	command(t, ip, "link", "set", "vif7.0", "master", "brsrv")
	command(t, ip, "link", "del", "vif7.0")
	if l := until(t, func(map[string]link) bool { return true })["brsrv"]; l.MTU != 9000 {
		t.Errorf("after a guest has come and gone, brsrv has MTU %d; want 9000", l.MTU)
	}
	if err := n.online(t, 1); err == nil || !strings.Contains(err.Error(), "Timeout occurred") {
		t.Errorf("guests wait: %v; want them to, while fd00:a::2 of bradm, which has no cable, may be another's", err)
	}
	command(t, ip, "link", "set", "cable", "up")
	if err := n.online(t, int(patience.Seconds())); err != nil {
		t.Errorf("guests do not start though bradm has a cable: %v", err)
	}
	command(t, ip, "link", "set", "cord", "up")
	links = until(t, func(links map[string]link) bool { return len(links["ethext1"].Addresses) > 0 })
	// None that came by itself, now that there are cables.
	for name, want := range map[string][]string{"ethext1": {"192.168.250.1"}, "bradm": {"10.0.0.2", "fd00:a::2"},
		"ethadm1": nil} {
		if got := links[name].locals(); !slices.Equal(got, want) {
			t.Errorf("%s has the addresses %q; want %q", name, got, want)
		}
	}
}

// TestNetworkdAlone: bridges that only guests are on, the host's administrator's among them, do not wait for these.
func TestNetworkdAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "files")
	command(t, rig.Rempart(t), "host", "--output", dir, "--bridge", "br0", "--address", "br0=192.0.2.1/24",
		"--address", "br0=fd00:b::1/64", "--bridge", "br1")
	n := startNetworkd(t, filepath.Join(dir, "etc/systemd/network"))
	if err := n.online(t, int(patience.Seconds())); err != nil {
		t.Fatalf("guests do not start: %v", err)
	}
	links := until(t, func(map[string]link) bool { return true })
	if got := links["br0"].locals(); !slices.Equal(got, []string{"192.0.2.1", "fd00:b::1"}) {
		t.Errorf("when guests start br0 has the addresses %q; want 192.0.2.1 and fd00:b::1", got)
	}
	if !slices.Contains(links["br1"].Flags, "UP") {
		t.Errorf("when guests start br1 = %+v; want it up", links["br1"])
	}
}
