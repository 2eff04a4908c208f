package main

import (
	"context"
	"fmt"
	"os"

	"github.com/u-root/u-root/pkg/core"
	"github.com/u-root/u-root/pkg/core/base64"
	"github.com/u-root/u-root/pkg/core/cat"
	"github.com/u-root/u-root/pkg/core/chmod"
	"github.com/u-root/u-root/pkg/core/cp"
	"github.com/u-root/u-root/pkg/core/find"
	"github.com/u-root/u-root/pkg/core/gzip"
	"github.com/u-root/u-root/pkg/core/ls"
	"github.com/u-root/u-root/pkg/core/mkdir"
	"github.com/u-root/u-root/pkg/core/mktemp"
	"github.com/u-root/u-root/pkg/core/mv"
	"github.com/u-root/u-root/pkg/core/rm"
	"github.com/u-root/u-root/pkg/core/shasum"
	"github.com/u-root/u-root/pkg/core/tar"
	"github.com/u-root/u-root/pkg/core/touch"
	"github.com/u-root/u-root/pkg/core/xargs"
)

// programs are u-root's core commands by the names of contract.ShellCommands.
func programs() map[string]func() core.Command {
	return map[string]func() core.Command{
		"base64": base64.New, "cat": cat.New, "chmod": chmod.New, "cp": cp.New, "find": find.New,
		"gunzip": func() core.Command { return gzip.New("gunzip") },
		"gzip":   func() core.Command { return gzip.New("gzip") },
		"gzcat":  func() core.Command { return gzip.New("gzcat") },
		"ls":     ls.New, "mkdir": mkdir.New, "mktemp": mktemp.New, "mv": mv.New, "rm": rm.New, "shasum": shasum.New,
		"tar": tar.New, "touch": touch.New, "xargs": xargs.New,
		"grep": func() core.Command { return &filter{run: grep} },
		"head": func() core.Command { return &filter{run: head} },
		"tail": func() core.Command { return &filter{run: tail} },
		"wc":   func() core.Command { return &filter{run: wc} },
	}
}

// runCore runs one of them and returns its exit status.
func runCore(name string, args []string) int {
	c := programs()[name]()
	c.SetIO(os.Stdin, os.Stdout, os.Stderr)
	if dir, err := os.Getwd(); err == nil {
		c.SetWorkingDir(dir)
	}
	c.SetLookupEnv(os.LookupEnv)
	if err := c.RunContext(context.Background(), args...); err != nil {
		if err != errNothing {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		}
		return exitFailed
	}
	return 0
}
