package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
	"rempart/profiles"
)

func runProfile(_ context.Context, d *desk, r ctl.Request) error {
	flags, _ := options(r)
	digest := flags.String("stored", "", "of the JSON's names, the digest of ranges of a set or of blocked names")
	if err := parse(r, flags); err != nil {
		return err
	}
	p, _, err := child.DeclaredProfile(d.root)
	if err != nil {
		return err
	}
	if *digest != "" {
		return d.printStored(r, p, *digest)
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = r.Stdout.Write(append(b, '\n'))
	return err
}

// printStored writes what is stored beside the profile under a digest, as it is.
func (d *desk) printStored(r ctl.Request, p *profiles.Profile, digest string) error {
	f, err := child.OpenStored(d.root, digest)
	if errors.Is(err, fs.ErrNotExist) && p.DNS != nil && p.DNS.Block != nil && p.DNS.Block.Digest == digest {
		f, err = os.Open(filepath.Join(d.root, contract.BlockedPath))
	}
	if err != nil {
		return fmt.Errorf("the profile stores nothing with the digest %.64q: %w", digest, err)
	}
	defer f.Close()
	_, err = io.Copy(r.Stdout, f)
	return err
}
