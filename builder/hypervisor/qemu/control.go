package qemu

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"rempart/firstboot/contract"
)

// Bounds on what a guest may say. It may be compromised: nothing it writes may cost the host more than this.
const (
	maxReport  = 256 << 10 // bytes of one line of JSON
	maxEntries = 256       // links, disks, children, failures, warnings each
	maxText    = 1024      // bytes of any one text
)

// ReadReports hands out every report the guest writes, one line of JSON each, until r ends (nil) or says something
// that is no report. Texts come out with control characters replaced and cut to length, so that they can be shown on
// a terminal.
func ReadReports(r io.Reader, handle func(contract.Report)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4096), maxReport)
	for lines.Scan() {
		line := lines.Bytes()
		if len(line) == 0 {
			continue
		}
		report, err := parseReport(line)
		if err != nil {
			return err
		}
		handle(report)
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return fmt.Errorf("control channel: %w", err)
	}
	return nil
}

// parseReport reads one line of the control channel.
func parseReport(line []byte) (contract.Report, error) {
	var r contract.Report
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("control channel: the guest wrote %.80q, which is no report: %w", line, err)
	}
	if n := max(len(r.Links), len(r.Disks), len(r.Children), len(r.Failures), len(r.Warnings)); n > maxEntries {
		return r, fmt.Errorf("control channel: a report with a list of %d entries; want at most %d", n, maxEntries)
	}
	for _, s := range []*string{&r.Name, &r.Version, &r.Policy, &r.Root.Hash, &r.State.Device, &r.State.Action} {
		*s = Printable(*s)
	}
	for i := range r.Disks {
		d := &r.Disks[i]
		for _, s := range []*string{&d.Name, &d.Mount, &d.Device, &d.Action, &d.Error} {
			*s = Printable(*s)
		}
	}
	for i := range r.Failures {
		r.Failures[i] = Printable(r.Failures[i])
	}
	for i := range r.Warnings {
		r.Warnings[i] = Printable(r.Warnings[i])
	}
	for i := range r.Links {
		l := &r.Links[i]
		l.Name, l.MAC, l.Error = Printable(l.Name), Printable(l.MAC), Printable(l.Error)
		if len(l.Addresses) > maxEntries {
			l.Addresses = l.Addresses[:maxEntries]
		}
		for j := range l.Addresses {
			l.Addresses[j] = Printable(l.Addresses[j])
		}
	}
	for i := range r.Children {
		c := &r.Children[i]
		c.Name, c.State, c.Last = Printable(c.Name), Printable(c.State), Printable(c.Last)
	}
	return r, nil
}

// Printable makes a text from a guest safe to show: at most 1024 bytes, control characters replaced.
func Printable(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
