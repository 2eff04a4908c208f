package libvirt

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/hypervisor"
)

// example is a machine with one of everything.
func example(firmware hypervisor.Firmware) hypervisor.Machine {
	links := []string{"a", "b", "c", "d", "e", "f"}
	m := hypervisor.Machine{Name: "fw<1>", Arch: "amd64", Memory: 128 << 20, Firmware: firmware, Accel: hypervisor.KVM,
		System:   hypervisor.Disk{Path: "/masters/a&b/system.qcow2", Format: hypervisor.QCOW2},
		State:    &hypervisor.Disk{Path: "/guests/fw/state.raw", Format: hypervisor.Raw},
		Identity: &hypervisor.Disk{Path: "/guests/fw/identity.raw", Format: hypervisor.Raw},
		Data: []hypervisor.DataDisk{{Name: "www", Disk: hypervisor.Disk{Path: "/srv/www.raw", Format: hypervisor.Raw}},
			{Name: "ro", Disk: hypervisor.Disk{Path: "/srv/ro.raw", Format: hypervisor.Raw}, ReadOnly: true},
			{Name: "lv", Disk: hypervisor.Disk{Path: "/dev/vg0/www", Format: hypervisor.Raw, Device: true}}}}
	for i, b := range []hypervisor.Backend{{Kind: hypervisor.User, Internet: true}, {Kind: hypervisor.Unplugged},
		{Kind: hypervisor.Tap, Tap: "tap0"}, {Kind: hypervisor.Socket, Socket: "listen=127.0.0.1:99"},
		{Kind: hypervisor.Socket, Socket: "mcast=230.0.0.1:1234"}, {Kind: hypervisor.Wire, FD: 7}} {
		m.NICs = append(m.NICs, hypervisor.NIC{Link: links[i], MAC: hypervisor.MACs("fw", links)[i], Backend: b})
	}
	switch firmware {
	case hypervisor.UEFI:
		m.Flash = &hypervisor.Flash{Code: "/code", Vars: "/vars", Format: hypervisor.Raw}
	case hypervisor.Direct:
		m.Kernel = &hypervisor.Kernel{Image: "/vmlinuz", Initrd: "/initrd", Cmdline: "quiet a=\"b\""}
	}
	return m
}

// judged is the XML of a machine, which libvirt's own schema takes.
func judged(t *testing.T, m hypervisor.Machine) string {
	t.Helper()
	judge, err := exec.LookPath("virt-xml-validate")
	if err != nil {
		t.Fatalf("%v (apt package libvirt-clients)", err)
	}
	b, err := Domain(m, map[string]string{"f": "br0"})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "domain.xml")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(judge, file, "domain").CombinedOutput(); err != nil {
		t.Errorf("%s: virt-xml-validate: %v\n%s\n%s", m.Firmware, err, out, b)
	}
	return string(b)
}

// TestDomain has every way to boot judged by libvirt's own schema.
func TestDomain(t *testing.T) {
	for _, firmware := range []hypervisor.Firmware{hypervisor.BIOS, hypervisor.UEFI, hypervisor.Direct} {
		m := example(firmware)
		m.Name = "fw-1" // the schema takes no angle brackets in names
		b := judged(t, m)
		for _, want := range []string{`<disk type="file" device="disk">`, `<disk type="block" device="disk">`,
			`<source dev="/dev/vg0/www">`, "<readonly></readonly>",
			"<serial>data-www</serial>", "/masters/a&amp;b/system.qcow2",
			fmt.Sprintf(`<mac address="%s">`, m.NICs[5].MAC), `<source bridge="br0">`} {
			if !strings.Contains(b, want) {
				t.Errorf("%s: the domain lacks %s:\n%s", firmware, want, b)
			}
		}
		if n := strings.Count(b, "<readonly>"); n != 3 {
			t.Errorf("%s: %d disks are read-only; want system, identity and one data disk", firmware, n)
		}
	}
}

// TestOverlay: a system that writes does so to its own overlay; what that lies on is said, and nothing else follows.
func TestOverlay(t *testing.T) {
	m := example(hypervisor.BIOS)
	m.Name, m.System.Path = "web", "/guests/web/root.qcow2"
	m.Base = &hypervisor.Disk{Path: "/masters/a&b/system.qcow2", Format: hypervisor.QCOW2}
	text := judged(t, m)
	for _, want := range []string{`<source file="/guests/web/root.qcow2">`, `<backingStore type="file">`,
		`<source file="/masters/a&amp;b/system.qcow2">`, "<backingStore></backingStore>"} {
		if !strings.Contains(text, want) {
			t.Errorf("the domain lacks %s:\n%s", want, text)
		}
	}
	if n := strings.Count(text, "<readonly>"); n != 2 {
		t.Errorf("%d disks are read-only; want identity and one data disk", n)
	}
}

func TestDomainRefuses(t *testing.T) {
	micro, strange := example(hypervisor.MicroVM), example(hypervisor.BIOS)
	strange.Arch = "riscv64"
	closed := example(hypervisor.BIOS)
	closed.NICs[0].Backend.Internet = false
	for want, m := range map[string]hypervisor.Machine{"no microvms": micro, "riscv64": strange,
		"--bridge a=BRIDGE": closed, "--bridge f=BRIDGE": example(hypervisor.BIOS)} {
		if _, err := Domain(m, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Domain = %v; want %q", err, want)
		}
	}
	if b, err := Domain(example(hypervisor.BIOS), map[string]string{"f": "br0"}); err != nil ||
		!strings.Contains(string(b), "fw&lt;1&gt;") {
		t.Errorf("a name with angle brackets: %v; want them escaped\n%s", err, b)
	}
}
