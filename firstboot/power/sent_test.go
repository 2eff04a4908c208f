package power

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSent: it asks the kernel of a terminal whose other side takes what is written, and of what is none or is closed
// says so, and returns each time. That it waits, the last lines of booted guests show: terminals of this machine hold
// nothing back.
func TestSent(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	fmt.Fprintln(slave, "last words")
	if err := Sent(slave); err != nil {
		t.Errorf("Sent of a terminal = %v; want nil", err)
	}
	if line, err := bufio.NewReader(master).ReadString('\n'); line != "last words\r\n" {
		t.Errorf("the other side read %q, %v; want the last words", line, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := Sent(w); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("Sent of a pipe = %v; want ENOTTY", err)
	}
	slave.Close()
	if err := Sent(slave); !errors.Is(err, unix.EBADF) {
		t.Errorf("Sent of what is closed = %v; want EBADF", err)
	}
}
