package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

// checkCommand is `rempart check`.
func checkCommand() *command {
	return &command{
		name:     "check",
		synopsis: "FILE|NAME|-",
		summary:  "check a profile and tell everything that is wrong with it",
		help: `
Reads the profile FILE, or standard input for -, or where there is no such file the built-in profile NAME, and tells
all that is wrong with it, a line each: file:line:column, what was found and expected, and what to write instead.
Of a good one it tells how many probes, flows that must pass or must not, prove its policy. Nothing is built or
written. Warnings do not make a profile invalid.

--xen tells besides what keeps Xen from running a guest of it virtualised and started that way, on any host; what a
certain host lacks ` + "`rempart export --to xl --check`" + ` says there.

Exit status: 0 the profile is good, 1 it could not be read, 2 it is invalid, or Xen cannot run it.`,
		words: profiles.Builtin,
		files: true,
		setup: func(flags *pflag.FlagSet) func(ctx context.Context, c *console, args []string) error {
			asJSON := flags.Bool("json", false, "print the result as one JSON object")
			way := onXenWayFlags(flags)
			return func(_ context.Context, c *console, args []string) error {
				if len(args) != 1 {
					return usageError{"expected one profile"}
				}
				if err := way.misused(); err != nil {
					return err
				}
				return check(c, args[0], *asJSON, way)
			}
		},
	}
}

// checkResult is what `rempart check --json` prints.
type checkResult struct {
	OK       bool               `json:"ok"`
	Name     string             `json:"name,omitempty"`
	Probes   int                `json:"probes"`   // flows that prove the policy
	Findings []profiles.Finding `json:"findings"` // what makes the profile invalid, or keeps Xen from running it
	Warnings []profiles.Finding `json:"warnings"`
}

func check(c *console, name string, asJSON bool, way *onXenWay) error {
	result := checkResult{Findings: []profiles.Finding{}, Warnings: []profiles.Finding{}}
	p, err := profiles.Load(name)
	var invalid profiles.Invalid
	switch {
	case errors.As(err, &invalid):
		result.Findings = invalid
	case err != nil:
		return err
	default:
		if _, err := filter.Compile(p); err != nil {
			return fmt.Errorf("the profile is valid, and its policy does not compile; this is a fault of rempart: %w", err)
		}
		result.OK, result.Name, result.Probes = true, p.Name, len(filter.Probes(p))
		result.Warnings = append(result.Warnings, p.Warnings...)
		if kept := way.findings(name, p); len(kept) > 0 {
			result.OK, result.Findings, err = false, kept, kept
		}
	}
	if asJSON {
		if printErr := printJSON(c.out, result); printErr != nil {
			return printErr
		}
		return err
	}
	if err != nil {
		return err
	}
	for _, w := range result.Warnings {
		w.What = "warning: " + w.What
		fmt.Fprintln(c.err, w)
	}
	_, err = fmt.Fprintf(c.out, "ok, %d probes\n", result.Probes)
	return err
}

func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
