// Package packets boots masters among real hosts and holds the packets that pass against tables written by hand. The
// guest's NICs are taps on bridges, as on any hypervisor; the hosts around it are network namespaces; what they run
// are curl, nc, ping and nmap. Every frame on every tap is watched.
//
// A packet that must not pass counts as stopped only if it was seen going to the guest, nothing of it was seen coming
// out, whatever was translated, and the same flow passes a guest with the same links whose policy allows it.
//
// What it deliberately does not do: derive what is right from a profile. builder/packettest does that, and test/net
// for the rules alone.
package packets

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"rempart/test/netns"
	"rempart/test/rig"
)

// The profiles whose masters are booted.
const (
	home    = "home-firewall"
	uplink  = "dhcp-uplink"
	rented  = "rented-server"
	xen     = "xen-firewall"
	control = "testdata/open.yaml"
)

func TestMain(m *testing.M) {
	if netns.Inside() {
		netns.CheckPowers()
		netns.CheckTaps()
		os.Exit(m.Run())
	}
	for tool, pkg := range map[string]string{"nsenter": "util-linux", "curl": "curl", "nc": "netcat-openbsd",
		"ping": "iputils-ping", "dnsmasq": "dnsmasq-base", "nmap": "nmap",
		"dig": "bind9-dnsutils", "udhcpc": "udhcpc"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Printf("%s is missing: apt-get install %s\n", tool, pkg)
			os.Exit(1)
		}
	}
	code := 1
	if err := rig.Prebuild(home, uplink, rented, xen, gateway, delegated, control); err != nil {
		fmt.Println("the masters to boot (did `make` run?):", err)
	} else {
		code = netns.Isolate()
	}
	rig.Clean()
	os.Exit(code)
}
