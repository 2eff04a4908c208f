package main

import (
	"errors"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"rempart/firstboot/gpt"
)

// blkpgPartition and blkpgArg are struct blkpg_partition and struct blkpg_ioctl_arg of <linux/blkpg.h>.
type blkpgPartition struct {
	start, length int64 // bytes
	number        int32
	_             [64]byte // devname, volname: the kernel has long stopped reading them
	_             [64]byte
	_             [4]byte
}

type blkpgArg struct {
	op, flags, datalen int32
	data               *blkpgPartition
}

const blkpgAddPartition = 1 // BLKPG_ADD_PARTITION

// addPartition tells the kernel of a partition it has not read itself. The disk is not written.
func addPartition(disk *os.File, p gpt.Partition) error {
	part := &blkpgPartition{start: p.Start, length: p.Size, number: int32(p.Number)}
	arg := blkpgArg{op: blkpgAddPartition, datalen: int32(unsafe.Sizeof(*part)), data: part}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg)))
	runtime.KeepAlive(part)
	if errno != 0 && !errors.Is(errno, unix.EBUSY) { // EBUSY: it is there already
		return errno
	}
	return nil
}
