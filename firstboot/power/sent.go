package power

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Sent returns when the terminal f has sent what was written to it, as tcdrain(3) does: what the kernel still holds
// when the machine ends is lost. It waits for as long as the other side takes nothing. What is no terminal holds
// nothing; the error is that of ioctl(2), ENOTTY then.
func Sent(f *os.File) error {
	const drain = 1 // any but 0: wait instead of sending a break (ioctl_tty(2), TCSBRK)
	for {
		if err := unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, drain); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("TCSBRK", err)
		}
	}
}
