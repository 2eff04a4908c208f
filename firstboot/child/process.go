package child

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// What PID 1 hands a child besides standard input, output and error. The environment says which it was given.
const (
	TellFD = 3 // messages to PID 1, one a line
	FeedFD = 4 // reports from PID 1, one a line; only with Spec.Feed
	LineFD = 5 // lines of the log from PID 1; only with Spec.Lines, which then wants Spec.Feed

	EnvInject = "REMPART_INJECT" // ParseInjections of this child only
	EnvRoot   = "REMPART_ROOT"   // Env.Root
)

// Limits every child lives within, whatever it does. A child has its own user id, so these count it alone.
const (
	maxFiles     = 512
	MaxProcesses = 64 // threads count: a Go program has about ten
)

// Main is the whole life of a child's process and returns its exit status.
func Main(spec Spec) int {
	// PID 1 prints what comes on standard error line by line. A child with the console as standard output logs there
	// too.
	log := slog.New(newHandler(os.Stderr))
	if err := limit(cmp.Or(spec.Files, maxFiles)); err != nil {
		log.Error(err.Error())
		return 1
	}
	if spec.MemoryLimit > 0 && os.Getenv("GOMEMLIMIT") == "" { // PID 1 may know of less
		debug.SetMemoryLimit(spec.MemoryLimit)
	}
	if spec.GCPercent > 0 {
		debug.SetGCPercent(spec.GCPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	env := &Env{Log: log, Root: os.Getenv(EnvRoot)}
	if env.Root == "" {
		env.Root = "/"
	}
	tell := os.NewFile(TellFD, "tell")
	var ready func(profile string)
	ready, env.Tell = teller(tell, log)
	if spec.Feed {
		env.Reports = reports(os.NewFile(FeedFD, "feed"))
	}
	if spec.Lines {
		env.Lines = lines(os.NewFile(LineFD, "lines"))
	}
	// Before the profile is read: a change that comes after is then never missed.
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGHUP)
	injections, err := ParseInjections(os.Getenv(EnvInject))
	if err != nil {
		log.Warn(err.Error())
	}
	err = follow(ctx, spec, env, injections[spec.Name], changed, ready)
	switch {
	case err == nil, ctx.Err() != nil && errors.Is(err, context.Canceled):
		return 0
	default:
		log.Error(err.Error())
		return 1
	}
}

// follow does a child's work with the profile there is, and again with the next one when changed says there is one:
// the process stays, and with it what it has open.
func follow(ctx context.Context, spec Spec, env *Env, injection Injection, changed <-chan os.Signal,
	ready func(profile string)) error {
	for {
		var digest string
		var err error
		if env.Profile, digest, err = ReadProfile(env.Root); err != nil {
			return err
		}
		env.Ready = func() {
			ready(digest)
			go giveBack()
		}
		turn, end := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- injection.run(turn, spec, env) }()
		again := false
		for !again {
			select {
			case err := <-done:
				end()
				return err
			case <-changed:
				again = spec.Follows
			}
		}
		end()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		env.Log.Info("the profile has changed")
		injection = Injection{} // it was for the first one
	}
}

// giveBack returns garbage to the kernel: what it took to read a profile and to load a policy; from here on children
// wait. Where there is little of it, looking for it takes more memory than it gives.
func giveBack() {
	var m runtime.MemStats
	if runtime.ReadMemStats(&m); m.HeapSys-m.HeapReleased > worthwhile {
		debug.FreeOSMemory()
	}
}

// worthwhile is how much of the heap must be memory of the machine; a small profile and nothing else takes 1 MiB.
const worthwhile = 2 << 20

func limit(files uint64) error {
	for _, l := range []struct {
		what  string
		which int
		max   uint64
	}{
		{"core size", unix.RLIMIT_CORE, 0},
		{"open files", unix.RLIMIT_NOFILE, files},
		{"processes", unix.RLIMIT_NPROC, MaxProcesses},
	} {
		// syscall's, not unix's: the Go runtime raises RLIMIT_NOFILE at the start and must know that we lowered it.
		if err := syscall.Setrlimit(l.which, &syscall.Rlimit{Cur: l.max, Max: l.max}); err != nil {
			return fmt.Errorf("limiting %s to %d: %w", l.what, l.max, err)
		}
	}
	return nil
}

// maxProfile bounds the profile of a guest, in bytes.
const maxProfile = contract.MaxLive

// maxFacts bounds the public part of the identity, in bytes: what Facts.Check lets pass is half of it.
const maxFacts = 1 << 20

// ApplyIdentity makes a profile that of this guest, by what is known of its identity by now.
func ApplyIdentity(root string, p *profiles.Profile) error {
	facts, err := readFacts(root)
	if err != nil {
		return err
	}
	facts.Apply(p)
	return nil
}

// readFacts reads the public part of the identity; without one, and until the identity child has read it, there is
// none. The file is written by that child alone, whole. It reads a disk that may be hostile, and PID 1 reads the file
// too, also to undo a change: neither size nor kind nor content is taken on trust.
func readFacts(root string) (f identity.Facts, err error) {
	b, err := ReadUntrusted(filepath.Join(root, identity.FactsPath), maxFacts)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return f, nil // Landlock lets a child that started before the file was there not see it: it needs none
	}
	if err == nil {
		err = Strict(b, &f)
	}
	if err == nil {
		err = f.Check()
	}
	if err != nil {
		return f, fmt.Errorf("identity of the guest: %w", err)
	}
	return f, nil
}

// ReadUntrusted reads a file in a directory of a child that may be in a stranger's hands: a regular one and no link, of
// so many bytes at most. It never waits, as opening a pipe would.
func ReadUntrusted(path string, most int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	b := bytes.NewBuffer(make([]byte, 0, max(0, min(info.Size(), most))+bytes.MinRead)) // grown, it would be there twice
	_, err = b.ReadFrom(io.LimitReader(f, most+1))
	if err == nil && int64(b.Len()) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return b.Bytes(), err
}

// ReadProfile reads the profile in force below root, and its contract.ProfileDigest, as that of this guest: what is
// known of its identity by now is applied.
func ReadProfile(root string) (*profiles.Profile, string, error) {
	p, digest, err := DeclaredProfile(root)
	if err != nil {
		return nil, "", err
	}
	return p, digest, ApplyIdentity(root, p)
}

// DeclaredProfile reads the profile in force below root as it was declared: the live one, or else the master's.
func DeclaredProfile(root string) (*profiles.Profile, string, error) {
	f, err := os.Open(filepath.Join(root, contract.LivePath))
	if errors.Is(err, fs.ErrNotExist) {
		f, err = os.Open(filepath.Join(root, contract.ProfilePath))
	}
	if err != nil {
		return nil, "", fmt.Errorf("profile of the guest: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err != nil {
		return nil, "", fmt.Errorf("profile of the guest: %w", err)
	}
	p, digest, err := DecodeProfile(b)
	if err != nil {
		return nil, "", fmt.Errorf("profile of the guest %s: %w", f.Name(), err)
	}
	return p, digest, nil
}

// DecodeProfile decodes the JSON of a profile and returns its contract.ProfileDigest with it.
func DecodeProfile(b []byte) (*profiles.Profile, string, error) {
	if len(b) > maxProfile {
		return nil, "", fmt.Errorf("larger than %d bytes", maxProfile)
	}
	p, err := profiles.Decode(b)
	if err != nil {
		return nil, "", err
	}
	canonical, err := json.Marshal(p)
	if err != nil {
		return nil, "", err
	}
	return p, contract.ProfileDigest(canonical), nil
}

// teller returns Env's Tell, and Ready for the profile of a digest, over a pipe to PID 1.
func teller(w io.Writer, log *slog.Logger) (ready func(profile string), tell func(string, any)) {
	var mu sync.Mutex
	send := func(m Message) {
		line, err := m.Encode()
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			_, err = w.Write(line)
		}
		if err != nil {
			log.Error("PID 1 was not told", "key", m.Key, "error", err)
		}
	}
	ready = func(profile string) { send(Message{Ready: true, Profile: profile}) }
	tell = func(key string, value any) {
		b, err := json.Marshal(value)
		if err != nil {
			log.Error("PID 1 was not told", "key", key, "error", err)
			return
		}
		send(Message{Key: key, Value: b})
	}
	return ready, tell
}

// reports reads reports until the pipe ends and offers the newest.
func reports(r io.ReadCloser) <-chan contract.Report {
	out := make(chan contract.Report, 1)
	go func() {
		defer close(out)
		defer r.Close()
		s := bufio.NewScanner(r)
		s.Buffer(make([]byte, 0, 4096), MaxReport)
		for s.Scan() {
			var report contract.Report
			if json.Unmarshal(s.Bytes(), &report) != nil {
				continue
			}
			select {
			case <-out: // one nobody has taken yet is old now
			default:
			}
			out <- report
		}
	}()
	return out
}

// MaxReport bounds one report on its way to a child, in bytes.
const MaxReport = 256 << 10

// lines reads lines of the log until the pipe ends. Nothing is dropped here: PID 1 keeps what waits.
func lines(r io.ReadCloser) <-chan Line {
	out := make(chan Line, 8) // few: PID 1 keeps what waits, and it is lost here if this process dies
	go func() {
		defer close(out)
		defer r.Close()
		s := bufio.NewScanner(r)
		s.Buffer(make([]byte, 0, 4096), MaxLine)
		for s.Scan() {
			var l Line
			if Strict(s.Bytes(), &l) == nil {
				out <- l
			}
		}
	}()
	return out
}
