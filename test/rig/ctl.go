package rig

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"time"

	"rempart/firstboot/contract/ctl"
)

// Ctl has the guest carry out one command by its hypervisor's channel, and returns what it said.
func (g *Guest) Ctl(stdin io.Reader, args ...string) (status int, stdout, stderr string) {
	g.tb.Helper()
	status, stdout, stderr, err := g.TryCtl(stdin, args...)
	if err != nil {
		g.fail(err)
	}
	return status, stdout, stderr
}

// TryCtl is Ctl for those who want to know whether it can be had.
func (g *Guest) TryCtl(stdin io.Reader, args ...string) (status int, stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), g.patience)
	defer cancel()
	conn, err := net.Dial("unix", g.commands)
	if err != nil {
		return 0, "", "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := errors.Join(conn.SetDeadline(deadline), ctl.Greet(conn), conn.SetDeadline(time.Time{})); err != nil {
		return 0, "", "", err
	}
	client := ctl.NewClient(conn)
	defer client.Close()
	var out, errs bytes.Buffer
	status, err = client.Run(ctx, ctl.Call{Args: args}, stdin, &out, &errs)
	return status, out.String(), errs.String(), err
}

// CommandConn is a connection with the channel for commands, for those who want to say what no client says.
func (g *Guest) CommandConn() net.Conn {
	g.tb.Helper()
	conn, err := net.Dial("unix", g.commands)
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(g.patience))
	}
	if err != nil {
		g.fail(err)
	}
	return conn
}
