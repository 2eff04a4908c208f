// Command boot is the boot stage: the init of the initramfs. It loads the modules the machine's devices and the root
// need, finds the root partition by its GUID, puts dm-verity over it, mounts it and hands over to firstboot there.
//
// It is small on purpose: no network, no JSON decoder, no configuration but the kernel command line. It never exits
// and never reboots: when it cannot go on it says on the console what, where and why, and waits for somebody to look
// or to switch the machine off.
package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"rempart/firstboot/boottime"
	"rempart/firstboot/cmdline"
	"rempart/firstboot/contract"
)

// deadline bounds the wait for the system disk. Buses that are slow to show their disks (SCSI, a loaded host) need a
// few seconds; a minute without one means it is not there.
const deadline = 60 * time.Second

func main() {
	started := boottime.Now().Seconds()
	s := &stage{root: "/", started: started, say: say}
	err := s.guarded()
	// Only reached when the root could not be started.
	say("boot stage: " + strings.ReplaceAll(err.Error(), "\n", "; "))
	say("boot stage: stopped here, nothing is running and no network is up; switch the machine off and correct its disk")
	s.waitForPowerButton()
}

// stage is one run of the boot stage.
type stage struct {
	root    string // "/"; every path is below it
	started float64
	say     func(string)
	args    cmdline.Args
	plug    *plug
	buttons []*os.File // nil: not watched
}

// guarded runs the stage and turns a panic into an error: an init that ends takes the kernel with it.
func (s *stage) guarded() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a fault in the boot stage itself: %v", p)
		}
	}()
	return s.run()
}

func (s *stage) run() error {
	if err := mountEarly(); err != nil {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("kernel command line: %w", err)
	}
	s.args = cmdline.Parse(string(line))
	value, ok, err := s.args.One(contract.KeyVerity)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("kernel command line: %s is missing; boot with the command line of the master", contract.KeyVerity)
	}
	verity, err := contract.ParseVerity(value)
	if err != nil {
		return fmt.Errorf("kernel command line: %w", err)
	}
	if s.plug, err = openPlug(s.args, s.say); err != nil {
		return err
	}
	root, err := s.findRoot(verity)
	if err != nil {
		return err
	}
	if !root.disk.ReadOnly {
		s.say(fmt.Sprintf("warning: the system disk %s is attached writable; attach it read-only. "+
			"Locking it from inside, which holds only while this kernel is sound", root.disk.Name))
		if err := lock("/dev/"+root.disk.Name, root.node); err != nil {
			s.say("warning: " + err.Error())
		}
	}
	dm, err := activate(root.node, verity)
	if err != nil {
		return err
	}
	if err := mountRoot(dm); err != nil {
		return err
	}
	return handOver(contract.Boot{SystemDisk: root.disk.Name, RootDevice: dm, ReadOnly: root.disk.ReadOnly,
		RootHash: fmt.Sprintf("%x", verity.RootHash), Started: s.started})
}

// say prints one line on the console.
func say(line string) { fmt.Fprintln(os.Stdout, contract.ConsolePrefix+line) }
