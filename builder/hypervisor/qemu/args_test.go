package qemu

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"rempart/builder/hypervisor"
)

var update = flag.Bool("update", false, "write the golden files")

// example is a firewall with three links.
func example(f hypervisor.Firmware) hypervisor.Machine {
	macs := hypervisor.MACs("fw-1", []string{"wan", "lan", "dmz"})
	m := hypervisor.Machine{
		Name: "fw-1", Arch: "amd64", Memory: 128<<20 - 1, Firmware: f, Accel: hypervisor.TCG, Sandbox: true,
		System: hypervisor.Disk{Path: "/m/a,b/system.qcow2", Format: hypervisor.QCOW2},
		State:  &hypervisor.Disk{Path: "/m/state.raw", Format: hypervisor.Raw},
		NICs: []hypervisor.NIC{
			{Link: "wan", MAC: macs[0], Backend: hypervisor.Backend{Kind: hypervisor.User}},
			{Link: "lan", MAC: macs[1], Backend: hypervisor.Backend{Kind: hypervisor.Tap, Tap: "tap0"}},
			{Link: "dmz", MAC: macs[2], Backend: hypervisor.Backend{Kind: hypervisor.Wire, FD: 6}},
		},
		Serial:     hypervisor.Channel{FD: 3},
		Control:    hypervisor.Channel{FD: 4},
		Monitor:    hypervisor.Channel{Path: "/run/fw-1.qmp"},
		RebootEnds: true,
	}
	if f == hypervisor.UEFI {
		m.Flash = &hypervisor.Flash{Code: "/usr/share/OVMF/OVMF_CODE.fd", Vars: "/tmp/vars", Format: hypervisor.Raw}
	}
	if f.ReadsKernelFromHost() {
		m.Kernel = &hypervisor.Kernel{Image: "/m/vmlinuz", Initrd: "/m/initrd", Cmdline: "console=ttyS0 a=b,c"}
	}
	return m
}

func TestArgsGolden(t *testing.T) {
	cases := map[string]hypervisor.Machine{}
	for _, f := range hypervisor.Firmwares() {
		cases[string(f)] = example(f)
	}
	pc := example(hypervisor.BIOS)
	pc.Chipset, pc.Accel, pc.Sandbox, pc.RebootEnds = "pc", hypervisor.KVM, false, false
	pc.State = nil
	pc.Identity = &hypervisor.Disk{Path: "/m/fw-1,a.identity.raw", Format: hypervisor.Raw}
	pc.Data = []hypervisor.DataDisk{{Name: "lv", Disk: hypervisor.Disk{Path: "/dev/vg0/www", Format: hypervisor.Raw,
		Device: true}}}
	pc.Commands = hypervisor.Channel{Path: "/run/fw-1/commands"}
	pc.NICs[0].Backend.Forward = hypervisor.Forward{From: netip.MustParseAddrPort("127.0.0.1:2222"),
		To: netip.MustParseAddrPort("10.0.2.15:22")}
	pc.NICs[2].Backend = hypervisor.Backend{Kind: hypervisor.Unplugged}
	pc.NICs[1].Backend = hypervisor.Backend{Kind: hypervisor.Socket, Socket: "connect=127.0.0.1:7000"}
	cases["bios-pc-kvm"] = pc
	arm := example(hypervisor.Direct)
	arm.Arch = "arm64"
	cases["direct-arm64"] = arm
	overlay := example(hypervisor.BIOS)
	overlay.System.Path, overlay.State = "/guests/web/root.qcow2", nil
	overlay.Base = &hypervisor.Disk{Path: "/m/a,b/system.qcow2", Format: hypervisor.QCOW2}
	cases["bios-overlay"] = overlay
	for name, m := range cases {
		t.Run(name, func(t *testing.T) {
			args, err := Args(m)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".args", strings.ReplaceAll(strings.Join(args, "\n"), "\n-", "\n\n-")+"\n")
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
	}
}

// The one property that everything rests on, for every machine there can be.
func TestArgsSystemDiskIsReadOnly(t *testing.T) {
	for _, f := range hypervisor.Firmwares() {
		for _, format := range hypervisor.Formats() {
			m := example(f)
			m.System.Format = format
			args, err := Args(m)
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for _, a := range args {
				if !strings.Contains(a, "node-name=system,") {
					continue
				}
				found++
				for _, want := range []string{",read-only=on,", ",auto-read-only=off,", ",file.read-only=on"} {
					if !strings.Contains(a+",", want) {
						t.Errorf("Args(%s, %s): %q lacks %q", f, format, a, want)
					}
				}
			}
			if found != 1 {
				t.Errorf("Args(%s, %s) has %d system disks; want 1", f, format, found)
			}
		}
	}
}

// Of a system that must write, what its overlay lies on is what holds that property, and is said on the command line.
func TestArgsBaseIsReadOnly(t *testing.T) {
	for _, format := range hypervisor.Formats() {
		m := example(hypervisor.BIOS)
		m.Base = &hypervisor.Disk{Path: "/m/system", Format: format}
		args, err := Args(m)
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(args, "\n")
		base := fmt.Sprintf("driver=%s,node-name=base,read-only=on,auto-read-only=off,file.driver=file,"+
			"file.filename=/m/system,file.read-only=on", format)
		if !strings.Contains(all, base) || !strings.Contains(all, "node-name=system,discard=unmap,backing=base,") {
			t.Errorf("Args of an overlay on %s:\n%s\nwant %s, and the overlay on it", format, all, base)
		}
	}
	for want, change := range map[string]func(*hypervisor.Machine){
		"want a qcow2 overlay": func(m *hypervisor.Machine) { m.System.Format = hypervisor.Raw },
		"by bios or uefi": func(m *hypervisor.Machine) {
			m.Firmware, m.Kernel = hypervisor.Direct, &hypervisor.Kernel{Image: "/m/vmlinuz"}
		},
	} {
		m := example(hypervisor.BIOS)
		m.Base = &hypervisor.Disk{Path: "/m/system", Format: hypervisor.QCOW2}
		change(&m)
		if _, err := Args(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Args = %v; want %q", err, want)
		}
	}
}

// Link order is bus order: the place of each NIC rises with its index on PCI and falls on microvm, where Linux finds
// the last transport first; no two devices share a place.
func TestArgsLinkOrder(t *testing.T) {
	for _, f := range hypervisor.Firmwares() {
		t.Run(string(f), func(t *testing.T) { testLinkOrder(t, example(f)) })
		t.Run(string(f)+" with identity", func(t *testing.T) {
			m := example(f)
			m.Identity = &hypervisor.Disk{Path: "/m/identity.raw", Format: hypervisor.Raw}
			if _, err := Args(m); !f.TakesIdentity() {
				if err == nil {
					t.Errorf("Args(%s) with an identity disk = nil error; want one", f)
				}
				return
			}
			testLinkOrder(t, m)
		})
	}
}

func testLinkOrder(t *testing.T, m hypervisor.Machine) {
	place := regexp.MustCompile(`addr=0x([0-9a-f]+)(?:\.\d)?|virtio-mmio-bus\.(\d+)`)
	f := m.Firmware
	m.NICs = nil
	names := make([]string, MaxLinks(f))
	for i := range names {
		names[i] = fmt.Sprintf("eth%d", i)
	}
	for i, mac := range hypervisor.MACs("x", names) {
		m.NICs = append(m.NICs, hypervisor.NIC{Link: names[i], MAC: mac, Backend: hypervisor.Backend{Kind: hypervisor.User}})
	}
	args, err := Args(m)
	if err != nil {
		t.Fatal(err)
	}
	used, last, nics := map[string]bool{}, -1, 0
	for _, a := range args {
		p := place.FindStringSubmatch(a)
		if p == nil {
			continue
		}
		if used[p[0]] {
			t.Errorf("Args(%s): place %s is used twice", f, p[0])
		}
		used[p[0]] = true
		if !strings.HasPrefix(a, "virtio-net-") {
			continue
		}
		var n int
		if p[1] != "" {
			fmt.Sscanf(p[1], "%x", &n)
		} else {
			fmt.Sscanf(p[2], "%d", &n)
			n = 8 - n
		}
		if n <= last {
			t.Errorf("Args(%s): %s at place %d after place %d", f, a, n, last)
		}
		last, nics = n, nics+1
	}
	if nics != len(names) {
		t.Errorf("Args(%s) has %d NICs; want %d", f, nics, len(names))
	}
	m.NICs = append(m.NICs, hypervisor.NIC{Link: "more", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}})
	if _, err := Args(m); err == nil {
		t.Errorf("Args(%s) with %d links = nil error; want one", f, len(m.NICs))
	}
}

func TestArgsRefuses(t *testing.T) {
	m := example(hypervisor.MicroVM)
	m.Arch = "arm64"
	if _, err := Args(m); err == nil {
		t.Error("Args(arm64 microvm) = nil error; want one")
	}
	m = example(hypervisor.BIOS)
	m.System.Path = ""
	if _, err := Args(m); err == nil {
		t.Error("Args without a system disk = nil error; want one")
	}
}

func TestShortOfMemory(t *testing.T) {
	for _, f := range hypervisor.Firmwares() {
		m := example(f)
		m.Memory = LeastUEFI - 1
		if got := ShortOfMemory(m); (got != "") != (f == hypervisor.UEFI) {
			t.Errorf("ShortOfMemory(%s, %d bytes) = %q", f, m.Memory, got)
		}
		m.Memory = LeastUEFI
		if got := ShortOfMemory(m); got != "" {
			t.Errorf("ShortOfMemory(%s, %d bytes) = %q; want nothing", f, m.Memory, got)
		}
	}
}
