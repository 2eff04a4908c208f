package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"aead.dev/minisign"
	"golang.org/x/term"

	"rempart/builder/files"
)

// signingKey names a minisign key to sign with.
type signingKey struct{ file, password string }

// absolute names the files wherever the process is.
func (k *signingKey) absolute() error {
	for _, file := range []*string{&k.file, &k.password} {
		if *file == "" {
			continue
		}
		var err error
		if *file, err = filepath.Abs(*file); err != nil {
			return err
		}
	}
	return nil
}

// read reads the key. Its password is never an argument: those are for everybody to read.
func (k signingKey) read(c *console) (key minisign.PrivateKey, err error) {
	text, err := os.ReadFile(k.file)
	if err != nil {
		return key, err
	}
	if !minisign.IsEncrypted(text) {
		return key, key.UnmarshalText(text)
	}
	var password []byte
	switch {
	case k.password != "":
		if password, err = os.ReadFile(k.password); err != nil {
			return key, err
		}
		password = []byte(strings.TrimRight(string(password), "\r\n"))
	case term.IsTerminal(int(os.Stdin.Fd())):
		fmt.Fprintf(c.err, "Password of %s: ", k.file)
		password, err = term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(c.err)
		if err != nil {
			return key, err
		}
	default:
		return key, errors.New("it is encrypted, and there is no terminal to ask for its password; name a file with" +
			" --password-file")
	}
	return minisign.DecryptKey(string(password), text)
}

// sign writes FILE.minisig beside a file.
func (k signingKey) sign(c *console, file string) error {
	key, err := k.read(c)
	if err != nil {
		return fmt.Errorf("key %s: %w", k.file, err)
	}
	return signWith(key, file)
}

// signWith writes FILE.minisig beside a file.
func signWith(key minisign.PrivateKey, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	signed := minisign.NewReader(f) // hashes as it is read: a file need not fit into memory
	if _, err := io.Copy(io.Discard, signed); err != nil {
		return err
	}
	signature := signed.SignWithComments(key, "rempart evidence "+filepath.Base(file), "signature of "+filepath.Base(file))
	return files.Write(file+".minisig", signature, 0o644)
}
