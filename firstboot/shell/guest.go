package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/term"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
)

// askGuest has one of the guest's own commands carried out by the child that has the rights for it. Ctrl-C ends this
// process, and with its connection the command.
func askGuest(args []string) int {
	if len(args) == 0 {
		args = []string{"help"}
	}
	conn, err := net.Dial("unix", contract.AdminSocket)
	if err != nil {
		fmt.Fprintf(os.Stderr, "nobody in the guest carries out commands now: %v\n", err)
		return ctl.Failed
	}
	c := ctl.NewClient(conn)
	defer c.Close()
	var in io.Reader = os.Stdin
	if term.IsTerminal(int(os.Stdin.Fd())) {
		in = nil // a person's keys are for the shell
	}
	status, err := c.Run(context.Background(), ctl.Call{Args: args}, in, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return status
}
