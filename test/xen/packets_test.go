package xen

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/xen"
	"rempart/builder/master"
	"rempart/firstboot/contract/xenstore"
	"rempart/test/rig"
)

// TestPackets sends packets from vif to vif through the firewall between two other guests: what its policy allows and
// what it denies, IPv4 and IPv6, TCP in jumbo frames, with the offloads of the vifs on and off. And a guest's root
// fails to write a disk that was attached read-only.
func TestPackets(t *testing.T) {
	demand(t, more)
	h, _ := theHost(t)
	fw := newJumbo("jumbo", xen.PV)
	outside := newProbe("outside", strings.Fields(bridges)[0], 1, "203.0.113.2/24,2001:db8:1::2/64",
		"203.0.113.1,2001:db8:1::1")
	inside := newProbe("inside", strings.Fields(bridges)[1], 2, "10.7.0.2/24,fd00:7::2/64", "10.7.0.1,fd00:7::1")
	inside.System = disk
	installScript(t)
	for _, g := range []xen.Guest{fw, outside, inside} {
		create(t, g)
	}
	judgeScript(t, fw)
	awaitReady(t, fw.Name, patience)
	for _, g := range []xen.Guest{outside, inside} {
		if said := order(t, g.Name, "there"); said != "yes" {
			t.Fatalf("probe %s says %q", g.Name, said)
		}
	}
	const (
		allowed = "ok"
		denied  = "silence"
		least   = 9000 - 60 - 40 // bytes of TCP payload in a jumbo frame below the largest headers here
	)
	for _, offloads := range []string{"on", "off"} {
		for _, vif := range []string{"jumbo0", "jumbo1", "vif" + outside.Name, "vif" + inside.Name} {
			_, err := h.Run(t.Context(), nil, "ethtool", "-K", vif, "tx", offloads, "sg", offloads, "tso", offloads, "gso",
				offloads, "gro", offloads)
			if err != nil {
				t.Errorf("offloads %s of %s: %v", offloads, vif, err)
			}
		}
		for _, c := range []struct{ from, to, want string }{
			{inside.Name, "203.0.113.2:80", allowed},
			{inside.Name, "[2001:db8:1::2]:80", allowed},
			{inside.Name, "203.0.113.2:8080", denied},
			{inside.Name, "[2001:db8:1::2]:8080", denied},
			{outside.Name, "10.7.0.2:80", denied},
			{outside.Name, "[fd00:7::2]:80", denied},
		} {
			bytes, patience := 1<<20, 3*time.Minute
			if c.want == denied {
				bytes, patience = 1, 5*time.Second
			}
			began := time.Now()
			said := order(t, c.from, "dial", c.to, strconv.Itoa(bytes), strconv.Itoa(int(patience.Seconds())))
			word, mss, _ := strings.Cut(said, " ")
			if word != c.want {
				t.Errorf("offloads %s: from %s to %s: %q; want %s", offloads, c.from, c.to, said, c.want)
				continue
			}
			if n, err := strconv.Atoi(mss); word == allowed && (err != nil || n < least || n > 9000) {
				t.Errorf("offloads %s: from %s to %s: segments of %q bytes; want jumbo ones", offloads, c.from, c.to, mss)
			}
			t.Logf("offloads %s: from %s to %s: %s, %.1f s", offloads, c.from, c.to, said, time.Since(began).Seconds())
		}
	}
	// The same disk is the system disk of firewalls; this guest's root may do what it likes.
	said := order(t, inside.Name, "overwrite", "/dev/xvda")
	t.Logf("overwriting a disk that is attached read-only: %s", said)
	if !strings.HasSuffix(said, " changed=false") || strings.Contains(said, "write=done") {
		t.Errorf("overwriting a disk that is attached read-only: %s; want no write done and nothing changed", said)
	}
}

// newJumbo is a guest from the master of jumbo.
func newJumbo(name string, mode xen.Mode) xen.Guest {
	m := world.jumbo
	g := xen.Guest{Name: name, Mode: mode, Loader: xen.Direct, Layout: xen.Whole, Memory: m.Profile.Memory,
		System: jumbos, OnCrash: xen.Destroy, OnReboot: xen.Destroy, Kernel: &hypervisor.Kernel{
			Image: files + "/" + master.KernelFile, Initrd: files + "/" + master.InitrdFile, Cmdline: m.Manifest.Cmdline}}
	for i, mac := range hypervisor.MACs(m.Profile.Name, m.Manifest.Links) {
		g.VIFs = append(g.VIFs, xen.VIF{NIC: hypervisor.NIC{Link: m.Manifest.Links[i], MAC: mac},
			Bridge: strings.Fields(bridges)[i], Name: name + strconv.Itoa(i), Script: "vif-rempart"})
	}
	return g
}

// installScript puts the hotplug script that `rempart host` writes where xl looks for it.
func installScript(t *testing.T) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "host")
	out, err := exec.CommandContext(t.Context(), rig.Rempart(t), "host", "--output", dir, "--bridge", "brlan", "--address",
		"brlan=192.0.2.1/24").CombinedOutput()
	if err != nil {
		t.Fatalf("rempart host: %v\n%s", err, out)
	}
	const script = "etc/xen/scripts/vif-rempart"
	b, err := os.ReadFile(filepath.Join(dir, script))
	if err == nil {
		err = world.host.Put(t.Context(), "/"+script, 0o755, b)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// judgeScript reads back what the script did to a guest's interfaces in dom0.
func judgeScript(t *testing.T, g xen.Guest) {
	t.Helper()
	for _, v := range g.VIFs {
		said := run(t, "ip", "-details", "link", "show", "dev", v.Name)
		for _, want := range []string{"NOARP", "mtu 9000", "qlen 1024", "addrgenmode none", "master " + v.Bridge} {
			if !strings.Contains(said, want) {
				t.Errorf("%s in dom0 has no %q:\n%s", v.Name, want, said)
			}
		}
		said = run(t, "ethtool", "-k", v.Name)
		for _, want := range []string{"tx-checksumming: off", "scatter-gather: off", "tcp-segmentation-offload: off",
			"generic-segmentation-offload: off", "generic-receive-offload: off"} {
			if !strings.Contains(said, want) {
				t.Errorf("%s in dom0 has no %q:\n%s", v.Name, want, said)
			}
		}
	}
}

// newProbe is a guest that is none of ours.
func newProbe(name, bridge string, number byte, addresses, gateways string) xen.Guest {
	return xen.Guest{Name: name, Mode: xen.PV, Loader: xen.Direct, Layout: xen.Whole, Memory: 112 << 20, System: root,
		OnCrash: xen.Destroy, OnReboot: xen.Destroy,
		VIFs: []xen.VIF{{NIC: hypervisor.NIC{Link: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, number}}, Bridge: bridge,
			Name: "vif" + name}},
		Kernel: &hypervisor.Kernel{Image: files + "/" + master.KernelFile, Initrd: files + "/" + probe,
			Cmdline: fmt.Sprintf("console=hvc0 quiet probe.mtu=9000 probe.address=%s probe.gateway=%s", addresses, gateways)}}
}

var orders int

// order has a probe do something and returns what became of it.
func order(t *testing.T, name string, words ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id, err := toolstack().ID(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	orders++
	number, data := strconv.Itoa(orders), xenstore.DomainPath(id)+"/data/probe/"
	run(t, "xenstore-write", data+"order", number+" "+strings.Join(words, " "))
	// The guest may have no node to answer at yet: the one above it is watched.
	for {
		out, err := world.host.Run(ctx, nil, "sh", "-c", "xenstore-read "+data+"answer 2>/dev/null || true")
		if err != nil {
			t.Fatalf("order %q of %s: %v", words, name, err)
		}
		if n, answer, _ := strings.Cut(strings.TrimSpace(string(out)), " "); n == number {
			return answer
		}
		// The first event comes at once, the second when something changed; what came before the watch is seen late.
		glance, done := context.WithTimeout(ctx, 5*time.Second)
		_, _ = world.host.Run(glance, nil, "xenstore-watch", "-n", "2", strings.TrimSuffix(data, "/probe/"))
		done()
	}
}
