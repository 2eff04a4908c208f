// Package qemu runs a hypervisor.Machine under QEMU, 6.2 and newer: it writes the command line, finds UEFI firmware,
// finds out whether KVM really works, starts the process, speaks QMP to it, listens to what the guest says of
// itself, and stops it in order.
//
// Nothing here needs root or leaves anything behind: every channel is an inherited socket pair, so there is no path
// another user could connect to, and QEMU dies with the process that started it.
//
// What it deliberately does not do: create or check disks, judge a guest's report, restart a guest.
package qemu
