// Command firstboot is the guest's own program: as /sbin/init it is PID 1; started again by itself, it is each of PID
// 1's children; by its other names it is the few commands a kernel or a person in a guest calls.
//
//	/sbin/init                      PID 1
//	firstboot child NAME            one child, with what PID 1 hands it
//	modprobe [-q] [--] ALIAS...     load kernel modules, as the kernel asks (kernel/kmod.c)
//	poweroff, shutdown              ask PID 1 to stop everything and power off (SIGUSR2)
//	reboot                          to restart (SIGTERM)
//	halt                            to halt (SIGUSR1)
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	pid1 "rempart/firstboot/init"
	"rempart/firstboot/init/supervise"
)

// Exit codes; the same as rempart's.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	name := filepath.Base(os.Args[0])
	args := os.Args[1:]
	switch {
	case len(args) == 2 && args[0] == "child":
		os.Exit(runChild(args[1]))
	case name == "modprobe":
		os.Exit(pid1.Modprobe("/", args, complain))
	case os.Getpid() == 1:
		runInit()
	default:
		os.Exit(ask(name))
	}
}

func complain(line string) { fmt.Fprintln(os.Stderr, line) }

// runInit is PID 1. It does not return: an init that ends takes the kernel with it.
func runInit() {
	defer func() {
		if p := recover(); p != nil {
			complain(fmt.Sprintf("%s%s: a fault in PID 1 itself, nothing more will happen: %v", contract.ConsolePrefix,
				contract.FailedPrefix, p))
		}
		select {}
	}()
	pid1.Run(pid1.Options{Root: "/", Program: contract.Firstboot, Specs: children(), Console: os.Stdout, Confine: true,
		Timing: supervise.DefaultTiming, System: pid1.Machine(), Settling: pid1.DefaultSettling})
}

func runChild(name string) int {
	for _, spec := range children() {
		if spec.Name == name {
			return child.Main(spec)
		}
	}
	complain(fmt.Sprintf("firstboot: there is no child %q", name))
	return exitUsage
}

// ask tells PID 1 what a command of the given name means.
func ask(name string) int {
	sig, ok := pid1.SignalFor(name)
	if !ok {
		complain("firstboot is the init of a rempart guest; outside it does nothing")
		return exitUsage
	}
	if err := syscall.Kill(1, sig); err != nil {
		complain(fmt.Sprintf("%s: asking PID 1: %v", name, err))
		return exitFailed
	}
	return 0
}
