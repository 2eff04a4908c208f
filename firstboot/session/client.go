package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Shell is one that runs, as its client sees it: what is written is typed, what is read is shown.
type Shell struct {
	conn   *net.UnixConn
	master *os.File
}

// Open asks the child behind a socket for a shell, for a terminal of the kind named (as in TERM) and size.
func Open(ctx context.Context, socket, kind string, columns, rows int) (*Shell, error) {
	if !plainTerm(kind) {
		kind = "dumb"
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("no shell is to be had now: %w", err)
	}
	conn := c.(*net.UnixConn)
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	fail := func(err error) (*Shell, error) {
		return nil, errors.Join(fmt.Errorf("no shell is to be had now: %w; too many may run, or memory ran out", err),
			conn.Close())
	}
	if _, err := io.WriteString(conn, kind+"\n"); err != nil {
		return fail(err)
	}
	b, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4)) // one descriptor, an int
	n, rightsLen, _, _, err := conn.ReadMsgUnix(b, rights)
	if err != nil || n != 1 || b[0] != handed {
		return fail(cmpError(err, io.ErrUnexpectedEOF))
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rightsLen])
	if err != nil || len(messages) != 1 {
		return fail(cmpError(err, io.ErrUnexpectedEOF))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fail(cmpError(err, io.ErrUnexpectedEOF))
	}
	unix.CloseOnExec(fds[0])
	// Not blocking, so that Close ends a Read.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return fail(errors.Join(err, unix.Close(fds[0])))
	}
	s := &Shell{conn, os.NewFile(uintptr(fds[0]), "terminal of a shell")}
	if err := s.Resize(columns, rows); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func cmpError(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// Read implements io.Reader; the end of the shell is io.EOF.
func (s *Shell) Read(b []byte) (int, error) {
	n, err := s.master.Read(b)
	if errors.Is(err, unix.EIO) { // nobody has the other end open any more
		err = io.EOF
	}
	return n, err
}

// Write implements io.Writer.
func (s *Shell) Write(b []byte) (int, error) { return s.master.Write(b) }

// Resize tells the shell the size of the window, in characters.
func (s *Shell) Resize(columns, rows int) error {
	raw, err := s.master.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(columns)})
	})
	return errors.Join(err, failed)
}

// Wait waits for the shell's end and returns its exit status.
func (s *Shell) Wait() (int, error) {
	b := make([]byte, 1)
	if _, err := io.ReadFull(s.conn, b); err != nil {
		return 0, fmt.Errorf("the shell is gone without a word: %w", err)
	}
	return int(b[0]), nil
}

// Close ends the shell if it still runs.
func (s *Shell) Close() error { return errors.Join(s.master.Close(), s.conn.Close()) }
