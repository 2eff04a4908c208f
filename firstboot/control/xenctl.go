package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract/xenstore"
)

// keepStoreCommands is keepCommandPort in a guest of Xen, where a channel through xenstore is the port.
func keepStoreCommands(ctx context.Context, env *child.Env, path string) {
	for ctx.Err() == nil {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err == nil {
			err = serveStoreCommands(ctx, env, xenstore.New(f))
		}
		if err != nil && ctx.Err() == nil {
			env.Log.Warn("commands of the host by xenstore", "error", err)
		}
		sleep(ctx, absent)
	}
}

// serveStoreCommands joins a connection with xenstore with the admin child until ctx is done or either breaks. The
// bridge has a socket for a port, and what passes there is carried to and from the channel.
func serveStoreCommands(ctx context.Context, env *child.Env, conn *xenstore.Conn) error {
	channel, err := xenstore.Dial(ctx, conn, "")
	if err != nil {
		return err
	}
	defer channel.Close()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(ends[0])
	file := os.NewFile(uintptr(ends[1]), "commands")
	local, err := net.FileConn(file)
	file.Close()
	if err != nil {
		return fmt.Errorf("commands: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	broken := make(chan error, 2)
	go func() {
		_, err := io.Copy(local, channel)
		broken <- err
		cancel()
	}()
	go func() {
		_, err := io.Copy(channel, local)
		broken <- err
		cancel()
	}()
	err = newBridge(env, ends[0]).serve(ctx)
	cancel()
	local.Close()
	channel.Close()
	first, second := <-broken, <-broken
	if ours := errors.Is(first, net.ErrClosed) || errors.Is(first, io.ErrClosedPipe); ours && err == nil {
		return nil // it was closed here
	}
	return errors.Join(err, first, second)
}
