// Package ssh is the workstation's way into a running guest: an SSH client that knows the guest's host key before it
// connects, because rempart made it. So there is nothing to believe at the first connection, and a guest that was
// reprovisioned is the same host as before.
//
// It takes keys from an agent and from files. What it deliberately does not do: passwords, forwarding, or read and
// write ~/.ssh/known_hosts and ~/.ssh/config.
package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Port is where guests listen.
const Port = "22"

// Target is a guest as SSH sees it.
type Target struct {
	Name    string // of the guest, for messages
	Address string // host:port
	HostKey ssh.PublicKey
}

// ErrHostKey is wrapped by Dial's error when another machine answers than the guest.
var ErrHostKey = errors.New("another machine answers than the guest, or it was given another identity")

// Times of a connection.
const (
	connectWait = 10 * time.Second
	loginWait   = 30 * time.Second // with a touch of a security key in it
)

// Dial logs in. Signers are tried in their order; Close the client to log out.
func Dial(ctx context.Context, t Target, signers func() ([]ssh.Signer, error)) (*ssh.Client, error) {
	conn, err := (&net.Dialer{Timeout: connectWait}).DialContext(ctx, "tcp", t.Address)
	if err != nil {
		return nil, fmt.Errorf("reaching %s: %w", t.Name, err)
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(loginWait)); err != nil {
		return nil, err
	}
	config := &ssh.ClientConfig{
		User:              "admin",
		Auth:              []ssh.AuthMethod{ssh.PublicKeysCallback(signers)},
		HostKeyAlgorithms: []string{t.HostKey.Type()},
		ClientVersion:     "SSH-2.0-rempart",
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if !bytes.Equal(key.Marshal(), t.HostKey.Marshal()) {
				return fmt.Errorf("%w: %s at %s shows the host key %s, its identity disk holds %s", ErrHostKey, t.Name, t.Address,
					ssh.FingerprintSHA256(key), ssh.FingerprintSHA256(t.HostKey))
			}
			return nil
		},
	}
	c, channels, requests, err := ssh.NewClientConn(conn, t.Address, config)
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, ErrHostKey) {
			return nil, err
		}
		return nil, fmt.Errorf("logging in to %s: %w", t.Name, err)
	}
	return ssh.NewClient(c, channels, requests), conn.SetDeadline(time.Time{})
}

// maxKeyFile bounds a file with a private key, in bytes.
const maxKeyFile = 64 << 10

// Keys finds the keys of whoever calls rempart.
type Keys struct {
	Files []string // private keys; none: Defaults
	// Agent is the socket of an agent, as in SSH_AUTH_SOCK; empty: none.
	Agent string
	// Passphrase asks for that of a file; nil: there is nobody to ask.
	Passphrase func(file string) ([]byte, error)
}

// Defaults are the files that ssh(1) tries of itself, below a home directory, as far as they are there.
func Defaults(home string) (files []string) {
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		file := filepath.Join(home, ".ssh", name)
		if _, err := os.Stat(file); err == nil {
			files = append(files, file)
		}
	}
	return files
}

// Signers are the agent's keys, then those of the files. A file that cannot be used is no error while there is another
// key.
func (k Keys) Signers() ([]ssh.Signer, error) {
	var all []ssh.Signer
	var failed []error
	if k.Agent != "" {
		signers, err := fromAgent(k.Agent)
		failed = append(failed, err)
		all = append(all, signers...)
	}
	for _, file := range k.Files {
		signer, err := k.fromFile(file)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		all = append(all, signer)
	}
	if len(all) == 0 {
		return nil, errors.Join(append(failed, errors.New("there is no key to log in with; name one by --key, "+
			"before the guest, or start an agent"))...)
	}
	return all, nil
}

// fromAgent lists an agent's keys. The connection stays for them to sign with.
func fromAgent(socket string) ([]ssh.Signer, error) {
	conn, err := net.DialTimeout("unix", socket, connectWait)
	if err != nil {
		return nil, fmt.Errorf("SSH agent: %w", err)
	}
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("SSH agent: %w", err)
	}
	return signers, nil
}

func (k Keys) fromFile(file string) (ssh.Signer, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, fmt.Errorf("key %s: want a file of at most %d KiB", file, maxKeyFile>>10)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(b)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) && k.Passphrase != nil {
		var word []byte
		if word, err = k.Passphrase(file); err == nil {
			signer, err = ssh.ParsePrivateKeyWithPassphrase(b, word)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", file, err)
	}
	return signer, nil
}
