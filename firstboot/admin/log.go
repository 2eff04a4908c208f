package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
	"rempart/firstboot/logging"
	"rempart/firstboot/logging/segment"
)

// defaultLines is how many entries log shows without -n.
const defaultLines = 50

// logEntry is an entry as JSON has it.
type logEntry struct {
	Number   uint64    `json:"number"`
	Time     time.Time `json:"time"`
	Uptime   float64   `json:"uptime"` // seconds
	Severity int       `json:"severity"`
	From     string    `json:"from"`
	Text     string    `json:"text"`
}

// runLog shows the guest's log: the last entries, one a line, and with -f what comes until the client goes.
func runLog(ctx context.Context, d *desk, r ctl.Request) error {
	flags, asJSON := options(r)
	follow := flags.Bool("f", false, "go on with what comes")
	lines := flags.Uint64("n", defaultLines, "begin with the last so many")
	from := flags.String("from", "", "only what this child, init or kernel said")
	if err := parse(r, flags); err != nil {
		return err
	}
	err := logging.Follow(ctx, filepath.Join(d.root, contract.LogSocket),
		logging.Request{Last: *lines, Follow: *follow}, func(e segment.Entry) error {
			if *from != "" && e.From != *from {
				return nil
			}
			if !*asJSON {
				_, err := fmt.Fprintln(r.Stdout, e)
				return err
			}
			return json.NewEncoder(r.Stdout).Encode(logEntry{e.Number, e.Time, e.Uptime.Seconds(), int(e.Severity), e.From,
				e.Text})
		})
	if errors.Is(err, context.Canceled) {
		return nil // nobody looks any more
	}
	return err
}
