package host

import (
	"bytes"
	"fmt"
)

// sysctls keep netfilter off bridged packets (Documentation/networking/ip-sysctl.rst). They are there once br_netfilter
// is loaded, by whatever; the rule for udev sets them again then.
const sysctls = `# Written by rempart: what passes over a bridge is filtered by the firewall that is on it,
# not by the host on the way.
-net.bridge.bridge-nf-call-arptables = 0
-net.bridge.bridge-nf-call-iptables = 0
-net.bridge.bridge-nf-call-ip6tables = 0
`

// udevRules are names by hardware address, and the above.
func udevRules(h Host) []byte {
	var b bytes.Buffer
	b.WriteString("# Written by rempart.\n")
	if len(h.NICs) > 0 {
		b.WriteString("# Names by what a NIC is for, whatever slot it is in. DRIVERS: no VLAN or bond of its address.\n")
	}
	for _, n := range h.NICs {
		fmt.Fprintf(&b, `SUBSYSTEM=="net", ACTION=="add", ATTR{address}=="%s", ATTR{type}=="1", DRIVERS=="?*", `+
			`NAME="%s"`+"\n", n.MAC, n.Name)
	}
	b.WriteString("# Whatever loads br_netfilter, packets on bridges stay out of the host's netfilter.\n")
	b.WriteString(`SUBSYSTEM=="module", ACTION=="add", KERNEL=="br_netfilter", ` +
		`RUN+="/sbin/sysctl -p /etc/sysctl.d/50-rempart-bridges.conf"` + "\n")
	b.WriteString("# A vif that is named by Xen: a queue that takes a burst.\n")
	b.WriteString(`SUBSYSTEM=="net", ACTION=="add", KERNEL=="vif*", ATTR{tx_queue_len}="1024"` + "\n")
	return b.Bytes()
}

// xendomains makes guests wait for their bridges (systemd.unit(5)).
const xendomains = `# Written by rempart. Guests start once their bridges are there, by the names in
# /etc/xen/auto: 10-fw-1.cfg comes before 20-web.cfg.
[Unit]
Wants=network-online.target
After=network-online.target

[Service]
# Each guest that is asked to end may take its time.
TimeoutStopSec=10min
`

// endOfGuests replaces what Debian's xen-utils-common brings, with which guests are saved when the host ends.
const endOfGuests = `# Written by rempart: guests are asked to end when the host does, and start anew with it.
# Saved, as Debian would have it, a guest's memory with its keys lies on a disk of the host, and a firewall comes back
# in the middle of connections that are over.
XENDOMAINS_SAVE=
XENDOMAINS_RESTORE=
XENDOMAINS_MIGRATE=
XENDOMAINS_AUTO=/etc/xen/auto
# Seconds that a guest may take.
XENDOMAINS_STOP_MAXWAIT=180
`

// vifScript is a hotplug script of Xen (xl-network-configuration(5), script=).
const vifScript = `#!/bin/bash
# Written by rempart: vif-bridge, and then what makes a virtual NIC of a firewall fast and silent. In xl.cfg:
# vif = ['...,script=vif-rempart'].
#
# Checksums and segmentation that are left to a receiver that does not exist cost a firewall most of its throughput;
# ARP and IPv6 of the host's end would tell guests that the host is there.
set -u
dir=$(dirname "$0")
"$dir/vif-bridge" "$@" || exit
case "${1:-}" in
online | add)
	# vif-bridge has given it the name of vifname= by now.
	dev=$(xenstore-read "$XENBUS_PATH/vifname" 2>/dev/null) || dev=${vif:-${INTERFACE:-}}
	[ -e "/sys/class/net/$dev" ] || exit 0
	ip link set dev "$dev" arp off txqueuelen 1024 addrgenmode none || exit
	ethtool -K "$dev" tx off sg off tso off gso off gro off >/dev/null || exit
	;;
esac
exit 0
`
