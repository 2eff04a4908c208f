package run

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/builder/guest/verify"
	"rempart/builder/hypervisor"
	"rempart/builder/packettest"
	"rempart/firstboot/contract"
	"rempart/profiles"
	"rempart/test/rig"
)

// TestStory is what rempart is for. A guest passes its packet table. A master is refused whose packets are not as its
// policy says, and the guest does not even stop. Then it is broken into: implants lie in every place where it may
// write, some of them damage in the filesystem itself, with which it starts all the same. They are found, each of them
// and nothing else, it is put back on its master, and none is left; what was declared worth keeping is there byte by
// byte, and the packet table passes again. A stream of numbered packets through the guest tells all the while what it
// cost.
func TestStory(t *testing.T) {
	t.Parallel()
	f := newFamily(t)
	table := newTable(t)
	f.do(t, 0, "rempart start fw", append([]string{"create", "fw", "--store", f.dir + "/masters", "--master", "fw-1",
		"--firmware", "direct", "--accel", "tcg", "--key", f.key + ".pub", "--keep", "/var/log/rempart"}, table.nets...)...)
	t.Cleanup(func() { f.command("stop", "fw", "--now").Run() })
	f.do(t, 0, "is READY", "start", "fw")
	f.refusesWrong(t, table)

	f.do(t, 0, "stopped", "stop", "fw")
	f.do(t, 0, "0 suspect", "verify", "fw")
	state := filepath.Join(f.dir, "guests", "fw", "state.raw")
	implants := f.plant(t, state)
	if got := f.suspects(t); !slices.Equal(got, implants) {
		t.Errorf("verify found %q; want %q", got, implants)
	}
	f.do(t, 0, "is READY", "start", "fw") // as whoever planted them would have it
	key := filepath.Join(f.dir, "evidence.key")
	judge(t, "minisign", "-G", "-W", "-p", key+".pub", "-s", key)
	outage := table.during(t, func() { f.do(t, 0, "READY", "reprovision", "fw", "--key", "evidence.key") })
	table.passes(t)
	f.do(t, 0, "stopped", "stop", "fw")
	if got := f.suspects(t); len(got) > 0 {
		t.Errorf("after the reprovision verify found %q; want nothing", got)
	}
	t.Logf("the reprovision of a guest that ran: %s", outage)
	const logFile = "/log/rempart/00000000000000000001.log"
	entry := filepath.Join(f.dir, "guests", "fw", "quarantine", "0002")
	f.do(t, 0, "signed by minisign key", "quarantine", "show", "fw", "0002")
	judge(t, "minisign", "-V", "-p", key+".pub", "-m", filepath.Join(entry, "evidence.tar.zst"))
	all := judge(t, "tar", "--zstd", "-tf", filepath.Join(entry, "evidence.tar.zst"))
	if strings.Count(all, "state/") < 12 {
		t.Errorf("the evidence has\n%s\nwant the report and the content of the implants", all)
	}
	old := filepath.Join(entry, "state.raw")
	before := f.do(t, 0, "", "disk", "cat", old, logFile)
	if now := f.do(t, 0, "", "disk", "cat", state, logFile); !strings.HasPrefix(now, before) || before == "" {
		t.Errorf("the kept log begins with %.60q; want all %d bytes of before, %.60q", now, len(before), before)
	}
}

// refusesWrong has the guest, which runs, put on a master whose guests forward nothing and are READY all the same.
func (f *family) refusesWrong(t *testing.T, table *table) {
	t.Helper()
	out, err := exec.Command(deaf(t), "build", profile, "--publish", "--renew-lock", "--store", f.dir+"/masters").
		CombinedOutput()
	if err != nil {
		t.Fatalf("building a master that forwards nothing: %v\n%s", err, out)
	}
	_, tag, _ := strings.Cut(string(out), "published as ")
	tag, _, _ = strings.Cut(tag, ",")
	was := f.status(t, "fw")
	f.do(t, 0, "real packets prove it", "upgrade", "fw", "--to", tag, "--dry-run")
	outage := table.during(t, func() { f.do(t, 1, "are not as its policy says", "upgrade", "fw", "--to", tag) })
	t.Logf("an upgrade that is refused: %s", outage)
	if now := f.status(t, "fw"); now.Phase != "ready" || now.PID != was.PID || now.Master != was.Master {
		t.Errorf("after a master with wrong packets was refused the guest is %+v; want it untouched, %+v", now, was)
	}
	f.do(t, 0, "flows tried with packets", "quarantine", "show", "fw", "0001")
	table.passes(t)
}

// deaf builds a rempart whose guests are READY and do not forward: the one switch that their links child turns on for
// that, it turns off.
func deaf(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const file, from, to = "firstboot/link/sysctl.go", `{"net/ipv4/ip_forward", flag(v4),`,
		`{"net/ipv4/ip_forward", flag(v4 && false),`
	src, err := os.ReadFile(filepath.Join(rig.Top(), file))
	if err != nil || strings.Count(string(src), from) != 1 {
		t.Fatalf("%s has no %s to change: %v", file, from, err)
	}
	changed := filepath.Join(dir, "sysctl.go")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(src), from, to, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	// An overlay lays one file of the module over another (go help build).
	build := func(out, pkg string, replace map[string]string, flags ...string) {
		b, err := json.Marshal(map[string]any{"Replace": replace})
		if err == nil {
			err = os.WriteFile(out+".overlay", b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("go", slices.Concat([]string{"build", "-overlay", out + ".overlay", "-o", out}, flags,
			[]string{pkg})...)
		cmd.Dir = rig.Top()
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOAMD64=v1", "GOFLAGS=-trimpath -buildvcs=false")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build %s: %v\n%s", pkg, err, out)
		}
	}
	firstboot, rempart := filepath.Join(dir, "firstboot"), filepath.Join(dir, "rempart")
	build(firstboot, "./firstboot", map[string]string{filepath.Join(rig.Top(), file): changed}, "-tags", "guest",
		"-ldflags", "-s -w -buildid=")
	embedded := filepath.Join(rig.Top(), "builder", "embedded", "files", "firstboot-amd64")
	build(rempart, "./builder", map[string]string{embedded: firstboot}, "-ldflags", "-s -w -buildid=")
	return rempart
}

// plant lays implants into every place of a state disk where a guest may write, and returns what verify must find.
func (f *family) plant(t *testing.T, state string) (paths []string) {
	t.Helper()
	payload := filepath.Join(f.dir, "payload")
	if err := os.WriteFile(payload, []byte("#!/bin/sh\nexec nc -l -p 31337 -e /bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	write := func(path, mode string) {
		fmt.Fprintf(&script, "write %s /%s\nsif /%[2]s mode %s\n", payload, path, mode)
		paths = append(paths, path)
	}
	folder := func(path string) {
		fmt.Fprintf(&script, "mkdir /%s\n", path)
		paths = append(paths, path)
	}
	for _, p := range contract.StatePlaces() {
		write(strings.TrimPrefix(p.Path+"/implant", "/"), "0100755")
	}
	folder("spool/cron")
	write("spool/cron/root", "0100600")
	folder("root/.ssh")
	write("root/.ssh/authorized_keys", "0100600")
	write("tmp/sh", "0104755") // set-user-id
	write("log/rempart/.log.so", "0100640")
	// Metadata that is meant for whoever reads it: blocks that the disk does not have or that are the filesystem's own, a
	// tree of extents that is too deep, a size that nothing has room for, a folder that is in itself, and a name that is
	// an order to a terminal. The words of an inode's i_block are in fs/ext4/ext4_extents.h of the kernel: word 1 begins
	// with the depth of the tree, and word 5 is the low half of where its first extent begins.
	for name, field := range map[string]string{"far": "block[5] 0xfffffff0", "own": "block[5] 1",
		"deep": "block[1] 0xffff", "vast": "size 0x0fffffffffffffff"} {
		write("tmp/"+name, "0100644")
		fmt.Fprintf(&script, "sif /tmp/%s %s\n", name, field)
	}
	fmt.Fprintf(&script, "write %s /tmp/\x1b]0;x\ay\n", payload)
	paths = append(paths, `tmp/\x1b]0;x\ay`) // as it is told
	folder("tmp/loop")
	script.WriteString("link /tmp /tmp/loop/again\n")
	paths = append(paths, "tmp/loop/again")
	script.WriteString("symlink /tmp/out /etc/shadow\ncd tmp\nmknod sda b 8 0\n")
	paths = append(paths, "tmp/out", "tmp/sda")
	debugfs(t, state, script.String())
	slices.Sort(paths)
	return paths
}

// suspects are what `rempart verify` finds on the state disk of the guest, which is stopped.
func (f *family) suspects(t *testing.T) (paths []string) {
	t.Helper()
	out, err := f.command("verify", "fw", "--json").Output()
	var exit *exec.ExitError
	if err != nil && !(asExit(err, &exit) && exit.ExitCode() == 3) {
		t.Fatal(err)
	}
	var r verify.Report
	if err := json.Unmarshal(out, &r); err != nil || r.State == nil || r.System == nil || !r.System.IsClean() {
		t.Fatalf("verify = %v\n%s\nwant both disks looked at, and the system disk clean", err, out)
	}
	for _, s := range r.State.Suspects {
		paths = append(paths, s.Path)
	}
	slices.Sort(paths)
	return paths
}

// judge runs a foreign program, which must be content, and returns what it said.
func judge(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v (is its apt package there? see test/setup)\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// table is the world around a guest whose links are sockets: one guest after another is plugged into it.
type table struct {
	bench *packettest.Bench
	nets  []string // options of `rempart create`
}

func newTable(t *testing.T) *table {
	t.Helper()
	p, err := profiles.Load(profile)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range p.NICs() {
		names = append(names, l.Name)
	}
	bench, err := packettest.New(p, hypervisor.MACs("fw", names), packettest.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bench.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &table{bench: bench}
	for i, name := range names {
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		b.nets = append(b.nets, "--net", fmt.Sprintf("%s=socket:connect=%v", name, listener.Addr()))
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return // the test is over
				}
				bench.Plug(i, conn)
			}
		}()
	}
	return b
}

// passes wants every flow of the policy to be right.
func (b *table) passes(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	defer cancel()
	r, err := b.bench.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() {
		var out strings.Builder
		if err := r.Table(&out, false); err != nil {
			t.Error(err)
		}
		t.Errorf("the packet table is\n%s\nwant all right", out.String())
	}
}

// during sends packets through the guest while something is done, and tells what became of them.
func (b *table) during(t *testing.T, do func()) string {
	t.Helper()
	const every = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type result struct {
		packettest.Outage
		error
	}
	results := make(chan result, 1)
	go func() {
		o, err := b.bench.Stream(ctx, every)
		results <- result{o, err}
	}()
	do()
	cancel()
	r := <-results
	if r.error != nil {
		t.Fatal(r.error)
	}
	if r.Passed == 0 {
		t.Error("no packet of the stream passed through the guest")
	}
	return fmt.Sprintf("%d packets, one each %v (%s): %d lost, none for %.1f s", r.Sent, every, r.Flow, r.Lost(),
		r.Gap.Seconds())
}
