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

	"rempart/firstboot/clock"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
)

func runTime(_ context.Context, d *desk, r ctl.Request) error {
	flags, asJSON := options(r)
	if err := parse(r, flags); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(d.root, contract.TimeStatus))
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("the guest takes its hypervisor's clock: its profile has no ntp")
	}
	if err != nil {
		return err
	}
	var s clock.Status
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%s: %w", contract.TimeStatus, err)
	}
	if *asJSON {
		return printJSON(r.Stdout, s)
	}
	_, err = io.WriteString(r.Stdout, s.Words())
	return err
}
