package child

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/contract"
)

// Injection makes a child worse than it is, for tests: see contract.KeyInject. It can only delay, fail, panic, or waste
// memory or its part of the state disk, so it can open nothing. The zero value changes nothing.
type Injection struct {
	Slow  time.Duration // before the child's work begins
	Fail  bool          // the work returns an error instead of beginning
	Panic bool          // the child panics soon after it became ready
	Hog   bool          // the child takes memory until it is killed: a daemon soon after it became ready, a task at once
	Fill  bool          // the child writes to the state disk, where it may, until it can no more, before its work begins
	Jump  time.Duration // of "clock", no child: how far the clock jumps when the profile is changed while the guest runs
}

// Bounds of a delay and of a jump.
const (
	maxSlow = 10 * time.Minute
	maxJump = 100 * 365 * 24 * time.Hour
)

// grammar is what an injection may say.
const grammar = "slow:CHILD:DURATION, fail:CHILD, panic:CHILD, hog:CHILD, fill:CHILD or jump:clock:DURATION"

// errInjected is what an injected failure returns.
var errInjected = errors.New("made to fail by the kernel command line")

// ParseInjections reads the value of contract.KeyInject: "slow:CHILD:DURATION", "fail:CHILD", "panic:CHILD" and
// "hog:CHILD", parted by commas. It returns what it understood even when it returns an error.
func ParseInjections(s string) (map[string]Injection, error) {
	all := map[string]Injection{}
	var errs []error
	for spec := range strings.SplitSeq(s, ",") {
		if spec == "" {
			continue
		}
		what, rest, _ := strings.Cut(spec, ":")
		name, arg, hasArg := strings.Cut(rest, ":")
		in := all[name]
		switch {
		case name == "":
			errs = append(errs, fmt.Errorf("injection %.80q: want %s", spec, grammar))
			continue
		case what == "slow" && hasArg:
			d, err := time.ParseDuration(arg)
			if err != nil || d < 0 || d > maxSlow {
				errs = append(errs, fmt.Errorf("injection %.80q: want a duration from 0s to %v", spec, maxSlow))
				continue
			}
			in.Slow = d
		case what == "jump" && hasArg:
			d, err := time.ParseDuration(arg)
			if err != nil || d < -maxJump || d > maxJump {
				errs = append(errs, fmt.Errorf("injection %.80q: want a duration from -%v to %[2]v", spec, maxJump))
				continue
			}
			in.Jump = d
		case what == "fail" && !hasArg:
			in.Fail = true
		case what == "panic" && !hasArg:
			in.Panic = true
		case what == "hog" && !hasArg:
			in.Hog = true
		case what == "fill" && !hasArg:
			in.Fill = true
		default:
			errs = append(errs, fmt.Errorf("injection %.80q: want %s", spec, grammar))
			continue
		}
		all[name] = in
	}
	return all, errors.Join(errs...)
}

// String is one word that ParseInjections reads back for the child of that name.
func (in Injection) String(name string) string {
	var words []string
	if in.Slow > 0 {
		words = append(words, "slow:"+name+":"+in.Slow.String())
	}
	if in.Jump != 0 {
		words = append(words, "jump:"+name+":"+in.Jump.String())
	}
	if in.Fail {
		words = append(words, "fail:"+name)
	}
	if in.Panic {
		words = append(words, "panic:"+name)
	}
	if in.Hog {
		words = append(words, "hog:"+name)
	}
	if in.Fill {
		words = append(words, "fill:"+name)
	}
	return strings.Join(words, ",")
}

// badDelay is how long after it became ready an injected child panics or begins to take memory: long enough for READY
// to be seen first.
const badDelay = 2 * time.Second

// run does a child's work with the injection in its way.
func (in Injection) run(ctx context.Context, spec Spec, env *Env) error {
	if in.Slow > 0 {
		env.Log.Warn("made slow by the kernel command line", "by", in.Slow)
		select {
		case <-time.After(in.Slow):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if in.Fail {
		return errInjected
	}
	if in.Fill {
		for _, dir := range spec.Write {
			if strings.HasPrefix(dir, contract.StateDir+"/") {
				files, bytes, err := fill(filepath.Join(env.Root, dir))
				env.Log.Warn("made to fill the state disk by the kernel command line", "in", dir, "files", files, "bytes", bytes,
					"until", err)
			}
		}
	}
	if in.Panic {
		ready := env.Ready
		env.Ready = func() {
			ready()
			time.AfterFunc(badDelay, func() { panic("made to panic by the kernel command line") })
		}
	}
	if in.Hog && spec.Task {
		hog()
	}
	if in.Hog {
		ready := env.Ready
		env.Ready = func() {
			ready()
			time.AfterFunc(badDelay, hog)
		}
	}
	return spec.Run(ctx, env)
}

// maxHog bounds what a hog takes, in bytes: more than any guest of a test has.
const maxHog = 4 << 30

// hog takes memory piece by piece, past the Go heap and its limit, and touches every page, until the kernel ends it.
func hog() {
	const piece = 1 << 20
	for range maxHog / piece {
		b, err := unix.Mmap(-1, 0, piece, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			panic(fmt.Sprintf("made to take memory by the kernel command line: %v", err))
		}
		for i := 0; i < len(b); i += os.Getpagesize() {
			b[i] = 1
		}
	}
}

// Bounds of what fill writes, should nothing stop it.
const (
	maxFillFiles = 1 << 16
	maxFillBytes = 1 << 32
)

// fill makes files in a directory until that fails, then writes to one of them until that fails too, the last bytes one
// by one, and returns what it got and why it got no more.
func fill(dir string) (files int, bytes int64, err error) {
	var first *os.File
	for ; files < maxFillFiles && err == nil; files++ {
		var f *os.File
		name := filepath.Join(dir, fmt.Sprintf("fill-%d", files))
		if f, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600); err != nil {
			break
		}
		if first == nil {
			first = f
			defer f.Close()
		} else {
			f.Close()
		}
	}
	if first == nil {
		return files, 0, err
	}
	for piece := make([]byte, 1<<20); len(piece) > 0 && bytes < maxFillBytes; {
		n, failed := first.Write(piece)
		if bytes += int64(n); failed != nil {
			err, piece = failed, piece[:len(piece)/2]
		}
	}
	// What is written is in memory until then, and the disk may still refuse it.
	return files, bytes, errors.Join(err, first.Sync())
}
