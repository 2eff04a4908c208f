package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideVar tells the second start of a test binary that it already is in its namespaces.
const insideVar = "REMPART_TEST_INSIDE_NETNS"

// cannot is the exit status of a second start that finds itself without the powers it needs: EX_UNAVAILABLE of
// sysexits.h.
const cannot = 69

// Skipped is how a test binary says that it tested nothing.
const Skipped = "SKIPPED, NOT PASSED: "

// Inside tells whether this process is in namespaces of its own.
func Inside() bool { return os.Getenv(insideVar) != "" }

// Isolate starts this test binary again in a network and a mount namespace of its own and returns its exit status. For
// an ordinary user it adds a user namespace; where that is forbidden nothing is tested, and the output says so.
func Isolate() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig speaks of the thread that started the child, not of the process
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() == cannot:
		return 0 // it has said so
	case errors.As(err, &exit):
		return exit.ExitCode()
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EACCES):
		skip("make network namespaces", err)
		return 0
	}
	fmt.Println("start the test again in new namespaces:", err)
	return 1
}

// CheckPowers ends the second start when its namespaces came without the right to use them, which is how some
// distributions keep ordinary users from them.
func CheckPowers() {
	if err := tryNamespace(); err != nil {
		skip("make network namespaces", err)
		os.Exit(cannot)
	}
}

func tryNamespace() error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- unix.Unshare(unix.CLONE_NEWNET)
	}()
	return <-done
}

// CheckTaps ends the second start when it may not make taps: udev lets everybody, a bare /dev only root.
func CheckTaps() {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		skip("make taps", err)
		os.Exit(cannot)
	}
	f.Close()
}

func skip(what string, why error) {
	fmt.Printf("%sthis user may not %s (%v); run it as root\n", Skipped, what, why)
}
