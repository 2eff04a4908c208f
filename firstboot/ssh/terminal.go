package ssh

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"rempart/firstboot/contract"
)

// Converse lets a person at a terminal that is no SSH client's do what one may do there: take the guest's prompt, or
// the shell where there is one. It returns when the person leaves.
func Converse(ctx context.Context, terminal io.ReadWriter, columns, rows int, c Commands, log *slog.Logger) int {
	x := &session{Channel: plainChannel{ReadWriter: terminal}, commands: c, log: log, term: "vt100",
		tty: &size{columns, rows}}
	return x.prompt(ctx)
}

// plainChannel is a terminal where a prompt expects a channel, of which it needs no more than to read and write.
type plainChannel struct {
	ssh.Channel
	io.ReadWriter
}

// Read implements io.Reader.
func (p plainChannel) Read(b []byte) (int, error) { return p.ReadWriter.Read(b) }

// Write implements io.Writer.
func (p plainChannel) Write(b []byte) (int, error) { return p.ReadWriter.Write(b) }

// Guest are the commands of a guest for Converse.
type Guest struct{ desk }

// NewGuest returns those of the guest below root, whose reports come by a channel.
func NewGuest(root string, reports <-chan contract.Report) *Guest {
	g := &Guest{desk{socket: filepath.Join(root, contract.AdminSocket), status: &status{},
		shell: filepath.Join(root, contract.ShellSocket), shells: &atomic.Bool{}}}
	go g.status.keep(reports)
	return g
}

// AllowShell says whether a person gets a shell.
func (g *Guest) AllowShell(allowed bool) { g.shells.Store(allowed) }
