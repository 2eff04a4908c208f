// Package boot boots real masters under QEMU and holds what they do against what the design promises: every format by
// every way to boot, verified and read-only; damage found; state kept, grown, redone or left alone; children that die
// and come back; and packets that pass only where they may. Each test has guests of its own, so several run at a time.
package boot

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/qemu"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

const profile = "home-firewall"

func TestMain(m *testing.M) {
	code := m.Run()
	rig.Clean()
	os.Exit(code)
}

// budget is the RAM in which a way to boot must reach READY, in bytes. Each has a margin over the least that test/bench
// finds: 88 MiB by BIOS, 96 directly and by microvm.
func budget(f hypervisor.Firmware) int64 {
	switch f {
	case hypervisor.UEFI:
		return qemu.LeastUEFI + 16<<20 // what takes it is the firmware and the kernel's own stub
	case hypervisor.MicroVM:
		return 112 << 20
	}
	return 96 << 20
}

// TestBoot boots every format by every way there is, a new one included as soon as it is in the lists, each within its
// RAM budget, and shuts it down by the power button.
func TestBoot(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	for _, firmware := range hypervisor.Firmwares() {
		for _, format := range hypervisor.Formats() {
			t.Run(fmt.Sprintf("%s/%s", firmware, format), func(t *testing.T) {
				g := m.Boot(t, rig.Options{Firmware: firmware, Format: format, Memory: budget(firmware)})
				r := g.AwaitReady()
				t.Logf("READY at %.2f s of guest time, PID 1 at %.2f s, policy at %.2f s; %d of %d MiB available",
					r.Times.Ready, r.Times.Init, r.Times.Policy, r.Memory.Available>>20, r.Memory.Total>>20)
				checkReport(t, m, r)
				scrubbed := g.Await("the scrub", func(r contract.Report) bool { return r.Root.Scrubbed })
				t.Logf("scrubbed at %.2f s", scrubbed.Times.Scrub)
				console := g.ConsoleText()
				if !strings.Contains(console, "\n"+contract.ReadyPrefix) {
					t.Errorf("no line of the console starts with %s:\n%s", contract.ReadyPrefix, console)
				}
				g.PowerOff()
				e2fsck(t, g.State)
				rig.Honest(t, g.State)
			})
		}
	}
	honestSystem(t, m)
	for _, format := range hypervisor.Formats() {
		name := filepath.Join(m.Dir, "system."+string(format))
		for _, o := range m.Manifest.Outputs {
			if o.Name == filepath.Base(name) && digest(t, name) != o.SHA256 {
				t.Errorf("%s has changed by being booted", name)
			}
		}
	}
}

// checkReport holds a READY report against the profile.
func checkReport(t *testing.T, m *rig.Master, r contract.Report) {
	t.Helper()
	if !r.Root.ReadOnlyDisk || !r.Root.Verified || r.Root.Hash != m.Manifest.Verity.RootHash {
		t.Errorf("root = %+v; want a read-only disk, verified against %s", r.Root, m.Manifest.Verity.RootHash)
	}
	if r.Policy != "loaded" {
		t.Errorf("policy = %q; want loaded", r.Policy)
	}
	if len(r.Failures) > 0 || len(r.Warnings) > 0 {
		t.Errorf("failures %q, warnings %q; want none", r.Failures, r.Warnings)
	}
	if len(r.Links) != len(m.Profile.Links) {
		t.Fatalf("%d links; want %d", len(r.Links), len(m.Profile.Links))
	}
	for i, l := range m.Profile.Links {
		got := r.Links[i]
		if got.Name != l.Name || !got.Up || got.MAC != hypervisor.MACs(m.Profile.Name, m.Manifest.Links)[i].String() {
			t.Errorf("link %d = %+v; want %s up, NICs taken in bus order", i, got, l.Name)
		}
		for _, a := range l.Addresses {
			if !strings.Contains(strings.Join(got.Addresses, " "), a.String()) {
				t.Errorf("link %s has addresses %v; want %v among them", l.Name, got.Addresses, a)
			}
		}
	}
	for _, c := range r.Children {
		if c.Restarts != 0 {
			t.Errorf("child %s was restarted %d times: %s", c.Name, c.Restarts, c.Last)
		}
	}
}

// TestTooFewAndTooManyNICs shows that the console says so, and that what can work does.
func TestTooFewAndTooManyNICs(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	t.Run("more", func(t *testing.T) {
		g := m.Boot(t, rig.Options{NICs: len(m.Profile.Links) + 1})
		r := g.AwaitReady()
		if len(r.Warnings) == 0 {
			t.Errorf("a NIC that no link claims brings no warning: %+v", r)
		}
		g.AwaitConsole("NIC")
	})
	t.Run("fewer", func(t *testing.T) {
		g := m.Boot(t, rig.Options{NICs: len(m.Profile.Links) - 1})
		r := g.Await(contract.FailedPrefix, func(r contract.Report) bool {
			return len(r.Failures) > 0 && len(r.Links) > 0 && r.Links[0].Up
		})
		missing := m.Profile.Links[len(m.Profile.Links)-1].Name
		if !strings.Contains(strings.Join(r.Failures, "\n"), missing) || r.Ready {
			t.Errorf("report = %+v; want a failure that names link %s", r, missing)
		}
		g.AwaitConsole("\n" + contract.FailedPrefix)
	})
}

// openDisk opens a disk until the test is over, and tells its size.
func openDisk(t *testing.T, disk string) (f *os.File, size int64) {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return f, info.Size()
}

// e2fsck judges the filesystem of a disk.
func e2fsck(t *testing.T, disk string) {
	t.Helper()
	if out, err := exec.Command("/sbin/e2fsck", "-fn", disk).CombinedOutput(); err != nil {
		t.Errorf("e2fsck -fn %s: %v\n%s", disk, err, out)
	}
}

// debugfs runs one command of e2fsprogs' debugfs on a state disk.
func debugfs(t *testing.T, disk, command string, write bool) string {
	t.Helper()
	args := []string{"-R", command, disk}
	if write {
		args = append([]string{"-w"}, args...)
	}
	out, err := exec.Command("/sbin/debugfs", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("debugfs %s: %v\n%s", command, err, out)
	}
	return string(out)
}
