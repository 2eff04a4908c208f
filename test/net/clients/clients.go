// Package clients has other people's DHCPv4 clients as tests start them: on the interface of a host that is a namespace
// of its own, with folders of their own, since they take the whole machine for theirs.
//
// What it deliberately does not do: run them, or look at what they were given.
package clients

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Host is where a client runs.
type Host struct {
	Dir  string // for its files; empty
	Dev  string // the interface
	Bits int    // of the subnet, for clients that are not told
	// Find is the path of a program of a Debian package; it does not return without.
	Find func(program, pkg string) string
}

// Names are the clients there are.
func Names() []string { return []string{"dhclient", "dhcpcd", "systemd-networkd", "udhcpc"} }

// Command is what starts a client in the host's namespace, in the foreground, after writing the files it wants.
func Command(name string, h Host) ([]string, error) {
	switch name {
	case "dhclient":
		script, err := h.script(`case $reason in
BOUND|RENEW|REBIND|REBOOT) ip address replace "$new_ip_address/%[1]d" dev "$interface" ;;
EXPIRE|FAIL|RELEASE|STOP) ip address flush dev "$interface" ;;
esac
`, h.Bits)
		return []string{h.Find("dhclient", "isc-dhcp-client"), "-4", "-d", "-sf", script, "-cf", "/dev/null", "-lf",
			filepath.Join(h.Dir, "leases"), "-pf", filepath.Join(h.Dir, "pid"), h.Dev}, err
	case "udhcpc":
		script, err := h.script(`case $1 in
bound|renew) ip address replace "$ip/$mask" dev "$interface" ;;
deconfig) ip address flush dev "$interface" ;;
esac
`)
		return []string{h.Find("udhcpc", "udhcpc"), "-f", "-i", h.Dev, "-s", script, "-t", "20", "-T", "1"}, err
	case "dhcpcd":
		conf := filepath.Join(h.Dir, "conf")
		err := os.WriteFile(conf, []byte("noarp\nnoipv6rs\n"), 0o644)
		// It remembers leases by the interface's name, and all hosts call theirs the same.
		return []string{"unshare", "-m", "sh", "-c", `for d in /var/lib/dhcpcd /run/dhcpcd; do
mkdir -p $d && mount -t tmpfs tmpfs $d || exit 1
done
exec "$@"`, "sh", h.Find("dhcpcd", "dhcpcd-base"), "-4", "-B", "-d", "-f", conf, "-c", "/bin/true", h.Dev}, err
	case "systemd-networkd":
		return h.networkd()
	}
	return nil, fmt.Errorf("no client is called %q; there are %s", name, strings.Join(Names(), ", "))
}

// networkd runs without an init and a bus: it takes links for its own where /sys cannot be written, as in a container.
func (h Host) networkd() ([]string, error) {
	unit := filepath.Join(h.Dir, "10-lan.network")
	if err := os.WriteFile(unit, []byte("[Match]\nName="+h.Dev+"\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n"+
		"[DHCPv4]\nClientIdentifier=mac\n"), 0o644); err != nil {
		return nil, err
	}
	script, err := h.script(`set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
cp %s /run/systemd/network/
chown -R systemd-network:systemd-network /run/systemd/netif
mount -t sysfs -o ro sysfs /sys
export SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console
exec %s
`, unit, h.Find("systemd-networkd", "systemd"))
	return []string{h.Find("unshare", "util-linux"), "-m", script}, err
}

// script writes a program for clients that leave the work to one.
func (h Host) script(format string, args ...any) (string, error) {
	path := filepath.Join(h.Dir, "script")
	return path, os.WriteFile(path, []byte("#!/bin/sh\n"+fmt.Sprintf(format, args...)), 0o755)
}
