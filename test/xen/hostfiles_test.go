package xen

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/xen"
	"rempart/builder/master"
	"rempart/test/rig"
	"rempart/test/xen/host"
)

// TestHostFiles lays what `rempart host` writes over dom0, has the tools it is for obey it, and reads back from the
// kernel what became of it: bonds, bridges, MTU, silence, netfilter, and the order of guests.
func TestHostFiles(t *testing.T) {
	demand(t, more)
	h, _ := theHost(t)
	dir := filepath.Join(t.TempDir(), "host")
	out, err := exec.CommandContext(t.Context(), rig.Rempart(t), "host", "--output", dir, "--mtu", "9000",
		"--bond", "bond0=nic1,nic2", "--bridge", "brcable=bond0", "--bridge", "brquiet", "--bridge", "bradmin=nic3",
		"--address", "bradmin=10.99.0.2/24", "--address", "bradmin=fd00:99::2/64", "--emergency", "nic4=192.168.250.1/24",
		"--nic", "nic3="+host.MAC).CombinedOutput()
	if err != nil {
		t.Fatalf("rempart host: %v\n%s", err, out)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return h.Put(t.Context(), strings.TrimPrefix(path, dir), info.Mode().Perm(), b)
	})
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "nft delete table inet rempart_host")
	// Which the module makes itself where systemd does not keep it from that (/lib/modprobe.d/systemd.conf): networkd
	// changes nothing of a bond that is there.
	run(t, "sh", "-c", "if [ -e /sys/class/net/bond0 ]; then ip link del bond0; fi; mkdir -p /run/network")
	t.Run("udev and networkd", func(t *testing.T) {
		startUdev(t)
		judgeUdev(t)
		makeNICs(t)
		startNetworkd(t)
		judgeLinks(t)
	})
	makeNICs(t)
	undo(t, "rm -f /run/network/ifstate*")
	run(t, "ifup", "--all", "--interfaces=/etc/network/interfaces.d/rempart")
	run(t, "sysctl", "-p", "/etc/sysctl.d/50-rempart-bridges.conf")
	run(t, "nft", "-f", "/etc/nftables.d/rempart-host.nft")

	t.Run("ifupdown", judgeLinks)
	t.Run("netfilter", func(t *testing.T) {
		for _, what := range []string{"arptables", "iptables", "ip6tables"} {
			if said := run(t, "cat", "/proc/sys/net/bridge/bridge-nf-call-"+what); strings.TrimSpace(said) != "0" {
				t.Errorf("bridge-nf-call-%s = %q; want 0", what, said)
			}
		}
		told(t, run(t, "nft", "list", "table", "inet", "rempart_host"), "policy drop", `"bradmin"`, `"nic4"`,
			"iifname != {", "tcp dport 22 accept")
	})
	t.Run("order of guests", judgeOrder)
}

// judgeLinks reads from the kernel what became of bonds, bridges and the emergency port.
func judgeLinks(t *testing.T) {
	t.Run("bond", func(t *testing.T) {
		told(t, run(t, "ip", "-details", "link", "show", "dev", "bond0"), "mode 802.3ad", "miimon 100", "lacp_rate fast",
			"xmit_hash_policy layer2+3", "mtu 9000", "master brcable", "UP")
		for _, nic := range []string{"nic1", "nic2"} {
			told(t, run(t, "ip", "link", "show", "dev", nic), "master bond0", "mtu 9000")
		}
	})
	t.Run("bridges", func(t *testing.T) {
		for _, bridge := range []string{"brcable", "brquiet", "bradmin"} {
			told(t, run(t, "ip", "-details", "link", "show", "dev", bridge), "stp_state 0", "forward_delay 0 ", "mtu 9000", "UP")
		}
		for _, bridge := range []string{"brcable", "brquiet"} {
			told(t, run(t, "ip", "link", "show", "dev", bridge), "NOARP")
			if said := run(t, "ip", "address", "show", "dev", bridge); strings.Contains(said, "inet") {
				t.Errorf("a bridge for guests alone has an address:\n%s", said)
			}
		}
		said := run(t, "ip", "address", "show", "dev", "bradmin")
		told(t, said, "inet 10.99.0.2/24", "inet6 fd00:99::2/64")
		if strings.Contains(said, "NOARP") {
			t.Errorf("nobody finds the host:\n%s", said)
		}
		told(t, run(t, "ip", "address", "show", "dev", "nic4"), "inet 192.168.250.1/24")
	})
}

// undo runs commands in dom0 when the test is over.
func undo(t *testing.T, commands string) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := world.host.Run(ctx, nil, "sh", "-c", commands); err != nil {
			t.Error(err)
		}
	})
}

// told compares what a tool says with words it is to say.
func told(t *testing.T, said string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(said, w) {
			t.Errorf("want %q in\n%s", w, said)
		}
	}
}

// judgeOrder has xendomains start what is in /etc/xen/auto: by the names of the files, with the weights asked for; and
// end it in order, with nothing left of it.
func judgeOrder(t *testing.T) {
	run(t, "mkdir", "-p", "/etc/xen/auto", "/var/lib/xen/save")
	want := []string{"zebra", "ant"}
	for i, name := range want {
		g := xen.Guest{Name: name, Mode: xen.PV, Loader: xen.Direct, Layout: xen.Whole, Memory: 112 << 20, System: root,
			OnCrash: xen.Destroy, OnReboot: xen.Destroy, Weight: 300 + i, Kernel: &hypervisor.Kernel{
				Image: files + "/" + master.KernelFile, Initrd: files + "/" + probe, Cmdline: "console=hvc0 quiet"}}
		config, err := xen.Config(g)
		if err != nil {
			t.Fatal(err)
		}
		if err := world.host.Put(t.Context(), "/etc/xen/auto/"+strconv.Itoa(i)+"0-"+name+".cfg", 0o600, config); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { clean(t, name) })
	}
	undo(t, "rm -r /etc/xen/auto")
	run(t, "/etc/init.d/xendomains", "start")
	domains, err := toolstack().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(domains, func(a, b xen.Domain) int { return a.ID - b.ID })
	var got []string
	for _, d := range domains {
		got = append(got, d.Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("xendomains started %q; want %q", got, want)
	}
	for i, name := range want {
		if got := asked(t, name).Build.Scheduling.Weight; got != 300+i {
			t.Errorf("the weight of %s is %d; want %d", name, got, 300+i)
		}
	}
	for _, name := range want {
		if said := order(t, name, "there"); said != "yes" { // what ends one is a program that must be able to run
			t.Fatalf("guest %s says %q", name, said)
		}
	}
	// Debian's own settings would have them saved, memory, keys and all.
	run(t, "/etc/init.d/xendomains", "stop")
	if said := run(t, "find", "/var/lib/xen/save", "-type", "f"); said != "" {
		t.Errorf("the host keeps the memory of guests that ended with it:\n%s", said)
	}
	for _, name := range want {
		if _, err := toolstack().ID(t.Context(), name); !errors.Is(err, xen.ErrAbsent) {
			t.Errorf("%s outlives xendomains: %v", name, err)
		}
	}
}

// config is what `xl list --long` says a guest runs with, beyond what Domain has of it.
type config struct {
	Build struct {
		Target     int64 `json:"target_memkb"`
		Scheduling struct {
			Weight int `json:"weight"`
		} `json:"sched_params"`
	} `json:"b_info"`
	OnPoweroff string `json:"on_poweroff"`
	OnReboot   string `json:"on_reboot"`
	OnCrash    string `json:"on_crash"`
	OnWatchdog string `json:"on_watchdog"`
}

// asked is what a running guest was asked to be, as xl tells it.
func asked(t *testing.T, name string) config {
	t.Helper()
	var all []struct{ Config config }
	out := run(t, "xl", "list", "--long", name)
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		t.Fatalf("xl list --long %s: %v\n%s", name, err, out)
	}
	return all[0].Config
}
