//go:build !amd64

package qemu

// tscKHz is 0: only x86 has a time stamp counter.
func tscKHz() uint64 { return 0 }
