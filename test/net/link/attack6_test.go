package link_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rempart/test/net/hostile"
	"rempart/test/netns"
)

// inSpace runs f on a thread in a namespace; sockets f makes stay there.
func (l *lab) inSpace(space string, f func() error) {
	l.t.Helper()
	fd, err := unix.Open(filepath.Join("/run/netns", l.space(space)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	defer unix.Close(fd)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		l.t.Fatalf("in %s: %v", space, err)
	}
}

// replay sends packets by a raw or a datagram socket from a namespace to a multicast group of its link h0.
func (l *lab) replay(space string, kind, protocol int, group string, port int, packets [][]byte) {
	l.t.Helper()
	l.inSpace(space, func() error {
		index, err := os.ReadFile("/proc/thread-self/net/if_inet6")
		if err != nil {
			return err
		}
		zone := uint64(0)
		for line := range strings.Lines(string(index)) {
			if f := strings.Fields(line); len(f) == 6 && f[5] == "h0" {
				if zone, err = strconv.ParseUint(f[1], 16, 32); err != nil {
					return err
				}
			}
		}
		s, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		if err := unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		to := &unix.SockaddrInet6{Port: port, ZoneId: uint32(zone)}
		to.Addr = [16]byte{0xff, 2}
		if _, err := fmt.Sscanf(group, "ff02::%x", &to.Addr[15]); err != nil {
			return err
		}
		if group == "ff02::1:2" {
			to.Addr[13], to.Addr[15] = 1, 2
		}
		for _, b := range packets {
			_ = unix.Sendto(s, b, 0, to) // what the kernel does not send was not worth it
		}
		return nil
	})
}

// TestMalformed6 replays DHCPv6 messages and router solicitations that are wrong at the running servers: they go on
// serving.
func TestMalformed6(t *testing.T) {
	l, g := serve6(t)
	l.replay("host", unix.SOCK_DGRAM, unix.IPPROTO_UDP, "ff02::1:2", 547, hostile.DHCP6())
	l.replay("host", unix.SOCK_RAW, unix.IPPROTO_ICMPV6, "ff02::2", 0, hostile.Solicitations())
	if said := l.dhclient6("nas"); !strings.Contains(said, "iaaddr fd00:1::10 ") {
		t.Errorf("after the malformed messages the named host has\n%s\nwant ::10", said)
	}
	l.eventually("an advertisement after the malformed solicitations", patience, func() bool {
		out, _ := l.try("ip", "netns", "exec", l.space("nas"), netns.Tool(t, "rdisc6", "ndisc6"), "-1", "-w", "2000", "h0")
		return strings.Contains(out, "fd00:1::/64")
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.exited || strings.Contains(g.log.String(), "panic") {
		t.Errorf("the server ended:\n%s", g.log.String())
	}
}

// TestPerfdhcp6: Kea's load generator gets all its leases.
func TestPerfdhcp6(t *testing.T) {
	l, _ := serve6(t)
	out, err := l.try("ip", "netns", "exec", l.space("host"), netns.Tool(t, "perfdhcp", "kea-admin"), "-6", "-r", "200",
		"-n", "600", "-R", "600", "-W", "2000000", "-l", "h0", "all")
	if err != nil || strings.Count(out, "drops: 0\n") < 2 {
		t.Errorf("perfdhcp -6: %v\n%s\nwant two exchanges without drops", err, out)
	}
}

// TestRenewed6: dhcpcd and systemd-networkd get an address by DHCPv6, renew it, and renew it again when the server was
// killed and started anew.
func TestRenewed6(t *testing.T) {
	l, g := serve6(t)
	g.kill(syscall.SIGKILL)
	p := serving6()
	p.DHCP6[0].Lease = 24 // preferred for 18 s: renewed after 9
	g = l.startChild("dhcp", p, dhcpUser, dhcpGrant)
	g.waitReady()
	l.dhcpcd6("host")
	l.networkd6("nas")
	wanted := map[string]string{"host": "fd00:1::1", "nas": "fd00:1::10/"}
	for host, address := range wanted {
		l.eventually(host+" to have an address", 2*patience, func() bool { return l.validFor(host, address) > 0 })
	}
	renewed := func(what string) {
		t.Helper()
		for host, address := range wanted {
			last := l.validFor(host, address)
			l.eventually(host+" to renew "+what, 2*patience, func() bool {
				now := l.validFor(host, address)
				longer := now > last
				last = now
				return longer
			})
		}
	}
	renewed("while the server runs")
	g.kill(syscall.SIGKILL)
	l.startChild("dhcp", p, dhcpUser, dhcpGrant).waitReady()
	renewed("after the server was killed")
}

// validFor is how many seconds an address of a host that begins so is valid; 0: it has none.
func (l *lab) validFor(host, address string) int {
	l.t.Helper()
	for line := range strings.Lines(l.of(host, "dev", "h0")) {
		if _, rest, ok := strings.Cut(line, " "+address); ok {
			_, rest, _ = strings.Cut(rest, "valid_lft ")
			seconds, _, _ := strings.Cut(rest, "sec")
			n, _ := strconv.Atoi(seconds) // "forever" is none of ours
			return n
		}
	}
	return 0
}

// networkd6 has systemd-networkd configure a host, without an init and a bus: it takes links for its own where /sys
// cannot be written, as in a container.
func (l *lab) networkd6(host string) {
	l.t.Helper()
	unit, script := filepath.Join(l.root, "10-lan.network"), filepath.Join(l.root, "networkd")
	for name, text := range map[string]string{
		unit: "[Match]\nName=h0\n[Network]\nDHCP=ipv6\nIPv6AcceptRA=yes\n[DHCPv6]\nDUIDType=link-layer\n",
		script: `#!/bin/sh
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
printf '%s' "$UNIT" >/run/systemd/network/10-lan.network
chown -R systemd-network:systemd-network /run/systemd/netif
mount -o remount,bind,ro /sys
export SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console
exec "$NETWORKD"
`} {
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	text, err := os.ReadFile(unit)
	if err != nil {
		l.t.Fatal(err)
	}
	l.background(host, "env", "UNIT="+string(text), "NETWORKD=/lib/systemd/systemd-networkd", "unshare", "-m", script)
}
