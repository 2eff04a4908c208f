package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"runtime"

	"github.com/spf13/pflag"

	"rempart/builder/embedded"
	"rempart/firstboot/contract"
)

// guestArches are the architectures a guest can have.
var guestArches = []string{"amd64", "arm64"}

// versionCommand is `rempart version`.
func versionCommand() *command {
	return &command{
		name:    "version",
		summary: "tell what decides the bytes of a master beside profile and lock",
		help: `
Prints the version of rempart, the Go toolchain it was compiled by, and the SHA-256 digests of the guest programs it
carries. Two binaries that print the same build the same masters from the same profile and lock.`,
		setup: func(flags *pflag.FlagSet) func(ctx context.Context, c *console, args []string) error {
			asJSON := flags.Bool("json", false, "print one JSON object")
			return func(_ context.Context, c *console, args []string) error {
				if len(args) != 0 {
					return usageError{"expected no arguments"}
				}
				return printVersion(c, *asJSON)
			}
		},
	}
}

// versionResult is what `rempart version --json` prints.
type versionResult struct {
	Version string         `json:"version"`
	Go      string         `json:"go"`
	Guests  []guestProgram `json:"guests"` // none in a binary that was not built by make
}

// guestProgram is one program a guest runs.
type guestProgram struct {
	Name   string `json:"name"` // "firstboot"
	Arch   string `json:"arch"`
	SHA256 string `json:"sha256"`
}

func printVersion(c *console, asJSON bool) error {
	v := versionResult{Version: contract.Version, Go: runtime.Version(), Guests: []guestProgram{}}
	for _, arch := range guestArches {
		for _, p := range []struct {
			name string
			read func(string) ([]byte, error)
		}{{"firstboot", embedded.Firstboot}, {"bootstage", embedded.BootStage}, {"shell", embedded.Shell}} {
			if b, err := p.read(arch); err == nil {
				v.Guests = append(v.Guests, guestProgram{p.name, arch, fmt.Sprintf("%x", sha256.Sum256(b))})
			}
		}
	}
	if asJSON {
		return printJSON(c.out, v)
	}
	fmt.Fprintf(c.out, "rempart %s, %s\n", v.Version, v.Go)
	for _, g := range v.Guests {
		fmt.Fprintf(c.out, "  %s for %s  sha256:%s\n", g.Name, g.Arch, g.SHA256)
	}
	if len(v.Guests) == 0 {
		fmt.Fprintln(c.out, "  no guest programs: this binary builds no masters; `make` makes one that does")
	}
	return nil
}
