package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"rempart/builder/bounded"
	"rempart/firstboot/contract/identity"
)

// maxSecret bounds a secret in bytes, as the identity disk does; secretTime bounds the command that prints one.
const (
	maxSecret  = 64 << 10
	secretTime = 5 * time.Minute
)

// ReadSecrets puts the contents of files onto an identity, each given as CONSUMER/NAME=FILE. No error shows any of one.
func ReadSecrets(id *identity.Identity, given []string) error {
	return putSecrets(id, "--secret", given, func(file string) ([]byte, error) {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, maxSecret+1))
	})
}

// AskSecrets puts what commands print onto an identity, each given as CONSUMER/NAME=COMMAND and run by /bin/sh. What a
// command says on standard error is the person's to read.
func AskSecrets(ctx context.Context, id *identity.Identity, given []string) error {
	return putSecrets(id, "--secret-from", given, func(command string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, secretTime)
		defer cancel()
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
		cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
		out := bounded.Buffer{Most: maxSecret}
		cmd.Stdout = &out
		err := cmd.Run()
		switch {
		case out.Over(): // of which the command dies, one way or another
			return nil, errLongSecret
		case err != nil:
			return nil, fmt.Errorf("the command failed: %w", err)
		}
		return out.Bytes(), nil
	})
}

var errLongSecret = fmt.Errorf("more than %d bytes", maxSecret)

func putSecrets(id *identity.Identity, option string, given []string, get func(source string) ([]byte, error)) error {
	var errs []error
	for _, g := range given {
		where, source, ok := strings.Cut(g, "=")
		consumer, name, named := strings.Cut(where, "/")
		if !ok || !named || source == "" {
			errs = append(errs, fmt.Errorf("%s %.80q: want CONSUMER/NAME=SOURCE", option, where))
			continue
		}
		if _, known := identity.Owner(consumer); !known {
			errs = append(errs, fmt.Errorf("%s %s: nobody in a guest reads secrets of %q; want one of %s", option, where,
				consumer, strings.Join(identity.Consumers(), ", ")))
			continue
		}
		value, err := get(source)
		if err == nil && len(value) > maxSecret {
			err = errLongSecret
		}
		if err == nil && len(value) == 0 {
			err = errors.New("it is empty")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", option, where, err))
			continue
		}
		id.SetSecret(consumer, name, value)
	}
	return errors.Join(errs...)
}
