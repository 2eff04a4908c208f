package xen

import (
	"context"
	"strings"
	"testing"

	"rempart/test/xen/host"
)

// makeNICs makes the NICs of dom0 that the files of a host speak of, beside the one that udev has named, and takes off
// what was made of them when the test is over.
func makeNICs(t *testing.T) {
	t.Helper()
	run(t, "sh", "-c", "for i in 1 2 4; do ip link add nic$i type dummy || exit; done")
	undo(t, "for i in brcable brquiet bradmin bond0 nic1 nic2 nic4; do ip link del $i || exit; done; "+
		"ip link set nic3 down mtu 1500")
}

// startUdev has systemd-udevd obey the rules until the test is over. Nothing but them is there: it names and sets what
// they say.
func startUdev(t *testing.T) {
	t.Helper()
	run(t, "/lib/systemd/systemd-udevd", "--daemon") // which returns when it listens
	undo(t, "udevadm control --exit && rm -r /run/udev")
	run(t, "udevadm", "trigger", "--action=add", "--subsystem-match=net")
	run(t, "udevadm", "settle")
}

// judgeUdev looks at what the rules have set: the name of a NIC by its address, the queue of a vif, and that
// br_netfilter leaves bridges alone from the moment that it is loaded.
func judgeUdev(t *testing.T) {
	if got := strings.TrimSpace(run(t, "cat", "/sys/class/net/nic3/address")); got != host.MAC {
		t.Errorf("the NIC nic3 has the address %s; want that of its rule, %s", got, host.MAC)
	}
	run(t, "ip", "link", "add", "vif99.0", "type", "dummy")
	undo(t, "ip link del vif99.0")
	const netfilter = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	run(t, "sh", "-c", "echo 1 >"+netfilter)
	run(t, "udevadm", "trigger", "--action=add", "/sys/module/br_netfilter")
	run(t, "udevadm", "settle")
	if got := strings.TrimSpace(run(t, "cat", "/sys/class/net/vif99.0/tx_queue_len")); got != "1024" {
		t.Errorf("a vif has a queue of %s; want 1024", got)
	}
	if got := strings.TrimSpace(run(t, "cat", netfilter)); got != "0" {
		t.Errorf("after br_netfilter has come %s is %s; want 0", netfilter, got)
	}
}

// startNetworkd has systemd-networkd obey its files until the test is over, with udev beside it as on any host, and
// returns once guests that start with the host would be started, and the emergency port is there.
func startNetworkd(t *testing.T) {
	t.Helper()
	const said = "/run/networkd.said"
	run(t, "sh", "-c", `mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network:systemd-network /run/systemd/netif
SYSTEMD_LOG_TARGET=console setsid /lib/systemd/systemd-networkd </dev/null >`+said+` 2>&1 & echo $! >/run/networkd.pid
until [ -e /run/systemd/netif/state ]; do
	kill -0 "$(cat /run/networkd.pid)" || { cat `+said+` >&2; exit 1; }
	sleep 0.2
done`)
	undo(t, `pid=$(cat /run/networkd.pid); kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.2; done
rm -r /run/systemd/netif`)
	t.Cleanup(func() {
		if t.Failed() {
			out, err := world.host.Run(context.Background(), nil, "cat", said)
			t.Logf("systemd-networkd (%v) said:\n%s", err, out)
		}
	})
	run(t, "/lib/systemd/systemd-networkd-wait-online", "--timeout=300")
	run(t, "sh", "-c", "until ip address show dev nic4 | grep -q 192.168.250.1/24; do sleep 0.2; done")
}
