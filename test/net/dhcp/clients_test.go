package dhcp_test

import (
	"os"
	"path/filepath"
	"testing"
)

// foreign are the clients, each with how it is started.
var foreign = map[string]func(c *client){
	"dhclient": func(c *client) {
		script := c.script(`case $reason in
BOUND|RENEW|REBIND|REBOOT) ip address replace "$new_ip_address/24" dev "$interface" ;;
EXPIRE|FAIL|RELEASE|STOP) ip address flush dev "$interface" ;;
esac
`)
		c.background(need(c.lab.t, "dhclient", "isc-dhcp-client"), "-4", "-d", "-sf", script, "-cf", "/dev/null",
			"-lf", filepath.Join(c.dir, "leases"), "-pf", filepath.Join(c.dir, "pid"), c.dev)
	},
	"udhcpc": func(c *client) {
		script := c.script(`case $1 in
bound|renew) ip address replace "$ip/$mask" dev "$interface" ;;
deconfig) ip address flush dev "$interface" ;;
esac
`)
		c.background(need(c.lab.t, "udhcpc", "udhcpc"), "-f", "-i", c.dev, "-s", script, "-t", "20", "-T", "1")
	},
	"dhcpcd": func(c *client) {
		conf := filepath.Join(c.dir, "conf")
		if err := os.WriteFile(conf, []byte("noarp\nnoipv6rs\n"), 0o644); err != nil {
			c.lab.t.Fatal(err)
		}
		// It remembers leases by the interface's name, and all clients here call theirs the same.
		c.background("unshare", "-m", "sh", "-c", `for d in /var/lib/dhcpcd /run/dhcpcd; do
mkdir -p $d && mount -t tmpfs tmpfs $d || exit 1
done
exec "$@"`, "sh", need(c.lab.t, "dhcpcd", "dhcpcd-base"), "-4", "-B", "-d", "-f", conf, "-c", "/bin/true", c.dev)
	},
	// Without an init and a bus: it takes links for its own where /sys cannot be written, as in a container.
	"systemd-networkd": func(c *client) {
		networkd := need(c.lab.t, "systemd-networkd", "systemd")
		unit := filepath.Join(c.dir, "10-lan.network")
		if err := os.WriteFile(unit, []byte("[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n"+
			"[DHCPv4]\nClientIdentifier=mac\n"), 0o644); err != nil {
			c.lab.t.Fatal(err)
		}
		script := c.script(`set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
cp ` + unit + ` /run/systemd/network/
chown -R systemd-network:systemd-network /run/systemd/netif
mount -t sysfs -o ro sysfs /sys
export SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console
exec ` + networkd + `
`)
		c.background(need(c.lab.t, "unshare", "util-linux"), "-m", script)
	},
}

// TestForeignClients: each gets an address of its own and what the profile says, renews it, and keeps it over a crash
// of the server.
func TestForeignClients(t *testing.T) {
	l := newLab(t)
	s := l.start(profile(8)) // T1 after 4 s
	clients, had := map[string]*client{}, map[string]string{}
	for name, begin := range foreign {
		clients[name] = l.client(name, "lan")
		begin(clients[name])
	}
	owner := map[string]string{}
	for name, c := range clients {
		l.eventually(name+" to have an address", func() bool { had[name] = c.address(); return had[name] != "" })
		if owner[had[name]] != "" {
			t.Errorf("%s and %s both have %s", name, owner[had[name]], had[name])
		}
		owner[had[name]] = name
		l.seen.mu.Lock()
		if m := l.seen.told[c.mac]; m == nil || m.DomainName() != "home.arpa" || len(m.Router()) != 1 ||
			m.Router()[0].String() != gateway || string(m.Options[19]) != "\x01" || m.SubnetMask().String() != "ffffff00" {
			t.Errorf("%s was told %v; want the router, the domain, the mask, and option 19 = 1", name, m)
		}
		l.seen.mu.Unlock()
	}
	renewed := func(what string) {
		t.Helper()
		before := map[string]int{}
		for name, c := range clients {
			before[name] = l.seen.acked(c.mac)
		}
		for name, c := range clients {
			l.eventually(name+" to renew "+what, func() bool { return l.seen.acked(c.mac) > before[name] })
			if got := c.address(); got != had[name] {
				t.Errorf("%s: %s has %s; want %s, which it had", what, name, got, had[name])
			}
		}
	}
	renewed("while the server runs")
	s.kill()
	l.start(profile(8))
	renewed("after the server was killed and started again")
}

// TestOnlyDeclared: on a link without a section the server says nothing, whatever is asked there.
func TestOnlyDeclared(t *testing.T) {
	l := newLab(t)
	l.start(profile(60))
	c, known := l.client("stranger", "dmz"), l.client("host", "lan")
	udhcpc := need(t, "udhcpc", "udhcpc")
	if out, err := c.Command(udhcpc, "-f", "-n", "-q", "-i", c.dev, "-s", "/bin/true", "-t", "3", "-T", "1").
		CombinedOutput(); err == nil {
		t.Errorf("a client on a link without dhcp got an address:\n%s", out)
	}
	// The same on the link with a server, so that the silence means something.
	if out, err := known.Command(udhcpc, "-f", "-n", "-q", "-i", known.dev, "-s", "/bin/true", "-t", "5", "-T", "1").
		CombinedOutput(); err != nil {
		t.Errorf("a client on lan got no address: %v\n%s", err, out)
	}
	l.seen.mu.Lock()
	defer l.seen.mu.Unlock()
	if l.seen.sent["dmz"] != 0 || l.seen.sent["lan"] < 2 {
		t.Errorf("the server sent %d messages on dmz and %d on lan; want none, and an offer and an acknowledgement",
			l.seen.sent["dmz"], l.seen.sent["lan"])
	}
}

// TestInUse: an address that a host on the link has is offered to nobody.
func TestInUse(t *testing.T) {
	l := newLab(t)
	squatter := l.client("squatter", "lan")
	netnsAddr(t, squatter, "10.0.0.100/24")
	p := profile(60)
	p.DHCP[0].NoProbe = false
	l.start(p)
	c := l.client("host", "lan")
	foreign["udhcpc"](c)
	l.eventually("an address", func() bool { return c.address() != "" })
	if got := c.address(); got == "10.0.0.100" {
		t.Errorf("the host got %s, which another one has", got)
	}
}
