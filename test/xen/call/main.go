// Command call has a guest of Xen carry out a command, as `rempart ctl` does, on a dom0 that has little room: it is
// rempart's own way to there without the rest of rempart.
//
//	call GUEST COMMAND [ARGUMENTS]
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"rempart/builder/hypervisor/xen"
	"rempart/firstboot/contract/ctl"
)

// patience bounds everything: a guest in software answers after seconds, on a busy machine after a minute.
const patience = 10 * time.Minute

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "want a guest and a command")
		os.Exit(2)
	}
	status, err := call(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "call:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

func call(name string, args []string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := xen.Toolstack{}.Commands(ctx, name)
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	if err := ctl.Greet(stream); err != nil {
		return 0, err
	}
	return ctl.NewClient(stream).Run(ctx, ctl.Call{Args: args}, nil, os.Stdout, os.Stderr)
}
