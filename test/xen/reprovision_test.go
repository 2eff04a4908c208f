package xen

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/builder/guest/verify"
	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/xen"
	"rempart/builder/master"
	"rempart/test/rig"
	"rempart/test/xen/host"
)

// What TestReprovision has in dom0.
const (
	rempartDir  = "/var/lib/rempart" // where rempart keeps masters and guests of root
	group       = "vg0"
	systemLV    = "/dev/" + group + "/fw_root"
	stateLV     = "/dev/" + group + "/fw_var"
	shelfSize   = 512 << 20
	volumesSize = 1 << 30
	smallState  = "64M"
)

// The masters that are built outside, as files of the shelf; in the second the profile lets in one port more.
const (
	firstMaster  = "first.tar.zst"
	secondMaster = "second.tar.zst"
	morePort     = "8443"
)

// keptDisks makes the disks of dom0 that TestReprovision alone uses: a filesystem with two masters, built here and to
// be brought in, and a blank one for volumes.
func keptDisks(ctx context.Context, program string) ([]host.Disk, error) {
	text, err := os.ReadFile(profile)
	if err != nil {
		return nil, err
	}
	const state, ping = "state: 256M", "home -> self: ping"
	if strings.Count(string(text), state) != 1 || strings.Count(string(text), ping) != 1 {
		return nil, fmt.Errorf("%s has not %q and %q once each", profile, state, ping)
	}
	small := strings.Replace(string(text), state, "state: "+smallState, 1)
	work, err := os.MkdirTemp(world.dir, "masters-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	content := filepath.Join(work, "shelf")
	if err := os.Mkdir(content, 0o755); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{firstMaster: small,
		secondMaster: strings.Replace(small, ping, "home -> self: [ping, tcp/"+morePort+"]", 1)} {
		file, store := filepath.Join(work, "profile.yaml"), filepath.Join(work, "store-"+name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
		for _, args := range [][]string{{"build", file, "--publish", "--renew-lock", "--format", "raw", "--store", store},
			{"master", "export", "fw-1", filepath.Join(content, name), "--store", store}} {
			if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
				return nil, fmt.Errorf("rempart %q: %w\n%s", args, err, out)
			}
		}
	}
	disks := []host.Disk{{Path: filepath.Join(world.dir, "shelf.raw")}, {Path: filepath.Join(world.dir, "volumes.raw")}}
	for i, size := range []int64{shelfSize, volumesSize} {
		if err := rig.Blank(disks[i].Path, size); err != nil {
			return nil, err
		}
	}
	out, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-d", content, disks[0].Path).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("mkfs.ext4: %w\n%s", err, out)
	}
	return disks, nil
}

// long bounds what rempart does with a guest, which takes minutes where dom0 is software and the machine busy.
const long = 3 * patience

// TestReprovision is the whole story of a guest on a host of Xen, told by rempart itself in dom0: masters built
// elsewhere are brought in, a guest is made whose disks are volumes of LVM, and Xen runs it. What keeps it from running
// is said before anything starts. It is broken into; what was planted is found, it is put on a new master with a clean
// state, in which what is worth keeping is there byte by byte; and that is taken back, implants and all. Nothing a
// guest does changes its system disk.
func TestReprovision(t *testing.T) {
	demand(t, more)
	h, _ := theHost(t)
	run(t, "tar", "-x", "-f", itself, "-C", files)
	undo(t, "rm -f "+files+"/rempart")
	run(t, "sh", "-c", "mkdir -p "+rempartDir+" && mount -t ext4 "+shelf+" "+rempartDir)
	undo(t, "umount "+rempartDir)
	if err := h.Put(t.Context(), rig.LVMFile, 0o644, []byte(rig.LVMAlone)); err != nil {
		t.Fatal(err)
	}
	run(t, "lvm", "pvcreate", "--yes", volumes)
	run(t, "lvm", "vgcreate", group, volumes)
	undo(t, "lvm vgchange --activate n "+group)
	t.Cleanup(func() { clean(t, "fw") })

	first := bringIn(t, firstMaster, "")
	second := bringIn(t, secondMaster, first)
	said(t, 1, "volume group", "create", "fw", "--xen", "pv", "--master", first, "--volumes", "nowhere",
		"--net", "lan0=bridge:brlan", "--net", "dmz0=bridge:brdmz")
	said(t, 2, "link dmz0 is plugged into nothing", "create", "fw", "--xen", "pv", "--master", first, "--volumes", group,
		"--net", "lan0=bridge:brlan")
	said(t, 0, "rempart start fw", "create", "fw", "--xen", "pv", "--master", first, "--volumes", group, "--root-volume",
		"--net", "lan0=bridge:brlan", "--net", "dmz0=bridge:brdmz", "--keep", "/var/log/rempart")
	refusals(t)

	said(t, 0, "is READY", "start", "fw", "--timeout", long.String())
	judgeCreated(t)
	said(t, 1, "Xen runs it", "start", "fw")
	said(t, 1, "Xen runs it", "rm", "fw")
	said(t, 0, "stopped", "stop", "fw", "--timeout", long.String())
	implants := plant(t)
	if got := suspects(t); !slices.Equal(got, implants) {
		t.Errorf("verify found %q; want %q", got, implants)
	}
	burgle(t)

	said(t, 0, "in quarantine as 0001", "reprovision", "fw", "--to", second, "--prove", "never", "--timeout",
		long.String())
	if got := suspects(t); len(got) > 0 { // of a snapshot of its state, while it runs
		t.Errorf("after the reprovision verify found %q; want nothing", got)
	}
	const logFile = "/log/rempart/00000000000000000001.log"
	before := run(t, files+"/rempart", "disk", "cat", stateLV+".0001", logFile)
	snapshot := run(t, "lvm", "lvs", "--noheadings", "--options", "lv_name", group)
	if strings.Contains(snapshot, "snap") {
		t.Errorf("a snapshot that was looked at is left:\n%s", snapshot)
	}
	said(t, 0, morePort, "ctl", "fw", "policy")
	said(t, 0, "in quarantine as 0002", "rollback", "fw", "--timeout", long.String(), "--stop-timeout", long.String())
	if now := run(t, files+"/rempart", "disk", "cat", stateLV+".0002", logFile); before == "" ||
		!strings.HasPrefix(now, before) {
		t.Errorf("the kept log begins with %.60q; want all %d bytes of before, %.60q", now, len(before), before)
	}
	const lasting = "spool/cron" // which no guest removes
	if got := suspects(t); !slices.Contains(got, lasting) {
		t.Errorf("after the rollback verify found %q; want the state of before, with %s", got, lasting)
	}
	if rules := said(t, 0, "forward", "ctl", "fw", "policy"); strings.Contains(rules, morePort) {
		t.Errorf("after the rollback its policy has what the other master lets in:\n%s", rules)
	}
	foreigner(t)
	said(t, 0, "are gone", "rm", "fw", "--data")
	told(t, run(t, "lvm", "lvs", "--noheadings", "--options", "lv_name", group), "rempart_")
	if left := run(t, "lvm", "lvs", "--noheadings", "--options", "lv_name", group); strings.Contains(left, "fw") {
		t.Errorf("of a guest that was removed with its data the volumes are left:\n%s", left)
	}
	emulated(t, first)
	t.Run("PVH on a thin pool", func(t *testing.T) { onThin(t, first, second) })
	t.Run("HVM", func(t *testing.T) { asHVM(t, first) })
}

// said has rempart, in dom0, do something, whose exit status and words must be as told, and returns its words.
func said(t *testing.T, code int, want string, args ...string) string {
	t.Helper()
	const status = "\nexit status "
	ctx, cancel := context.WithTimeout(t.Context(), 2*long) // it has bounds of its own
	defer cancel()
	began := time.Now()
	b, err := world.host.Run(ctx, nil, append([]string{"sh", "-c", `"$@" 2>&1; printf '\nexit status %d' $?`, "sh",
		files + "/rempart"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	out := string(b)
	i := strings.LastIndex(out, status)
	if i < 0 || out[i+len(status):] != fmt.Sprint(code) || !strings.Contains(out, want) {
		t.Fatalf("rempart %q says\n%s\nwant exit status %d and %q", args, out, code, want)
	}
	t.Logf("rempart %s, %.0f s: %.400s", strings.Join(args, " "), time.Since(began).Seconds(), out)
	return out[:i]
}

// bringIn takes a master from the shelf into the store of dom0, beside the one known, and returns its digest.
func bringIn(t *testing.T, name, known string) string {
	t.Helper()
	said(t, 0, "", "master", "import", rempartDir+"/"+name, "--allow-unsigned")
	var all []struct {
		Digest string `json:"digest"`
	}
	out := run(t, files+"/rempart", "master", "list", "--json")
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("rempart master list: %v\n%s", err, out)
	}
	for _, m := range all {
		if m.Digest != known {
			return m.Digest
		}
	}
	t.Fatalf("no master was brought in:\n%s", out)
	return ""
}

// refusals: what is in the way of a start is said before anything starts.
func refusals(t *testing.T) {
	t.Helper()
	for _, c := range []struct{ breaking, want, mending string }{
		{"lvm lvrename " + group + " fw_var gone", "state disk " + stateLV + " is gone",
			"lvm lvrename " + group + " gone fw_var"},
		{"lvm lvchange --permission rw " + group + "/fw_root", "can be written to",
			"lvm lvchange --permission r " + group + "/fw_root"},
		{files + "/rempart set fw --net lan0=bridge:nowhere", "no bridge nowhere",
			files + "/rempart set fw --net lan0=bridge:brlan"},
	} {
		run(t, "sh", "-c", c.breaking)
		said(t, 1, c.want, "start", "fw")
		run(t, "sh", "-c", c.mending)
	}
	if domains, err := toolstack().List(t.Context()); err != nil || len(domains) != 0 {
		t.Errorf("Xen runs %+v, %v; want nothing started", domains, err)
	}
}

// judgeCreated compares what xl says of the running guest, and rempart, with what it was made of.
func judgeCreated(t *testing.T) {
	t.Helper()
	domains, err := toolstack().List(t.Context())
	if err != nil || len(domains) != 1 {
		t.Fatalf("xl lists %+v, %v; want the guest alone", domains, err)
	}
	d := domains[0]
	want := []xen.Disk{{Target: systemLV, Vdev: "xvda"}, {Target: stateLV, Vdev: "xvdb", ReadWrite: true},
		{Target: rempartDir + "/guests/fw/identity.raw", Vdev: "xvdc"}}
	if d.Name != "fw" || d.Mode != xen.PV || !slices.Equal(d.Disks, want) || len(d.VIFs) != 2 ||
		d.VIFs[0].Bridge != "brlan" || d.VIFs[1].Bridge != "brdmz" {
		t.Errorf("xl lists %+v; want a PV guest fw on two bridges with %+v", d, want)
	}
	var s struct {
		Phase  string `json:"phase"`
		Domain int    `json:"domain"`
	}
	out := run(t, files+"/rempart", "status", "fw", "--json")
	if err := json.Unmarshal([]byte(out), &s); err != nil || s.Phase != "ready" || s.Domain != d.ID {
		t.Errorf("status says, %v,\n%s\nwant it ready as number %d", err, out, d.ID)
	}
}

// plant lays implants onto the state disk of the guest, which does not run, and returns what verify must find.
func plant(t *testing.T) []string {
	t.Helper()
	run(t, "sh", "-ec", `mount -t ext4 `+stateLV+` /mnt
cd /mnt
mkdir -p spool/cron root/.ssh
echo '* * * * * root /var/tmp/sh' >spool/cron/root
echo 'ssh-ed25519 AAAA burglar' >root/.ssh/authorized_keys
cp /bin/bash tmp/sh
chmod 4755 tmp/sh
ln -s /etc/shadow tmp/out
mknod tmp/sda b 8 0
cp /bin/bash log/rempart/.log.so
cd /
umount /mnt`)
	// Of a folder that nothing declares, what is no program in it is not named besides.
	return []string{"log/rempart/.log.so", "root/.ssh", "spool/cron", "tmp/out", "tmp/sda", "tmp/sh"}
}

// suspects are what `rempart verify` finds on the state disk of the guest; its system disk is clean.
func suspects(t *testing.T) (paths []string) {
	t.Helper()
	out := run(t, "sh", "-c", files+"/rempart verify fw --json || test $? = 3")
	var r verify.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.State == nil || r.System == nil || !r.System.IsClean() {
		t.Fatalf("verify = %v\n%s\nwant both disks looked at, and the system disk clean", err, out)
	}
	for _, s := range r.State.Suspects {
		paths = append(paths, s.Path)
	}
	slices.Sort(paths)
	return paths
}

// burgle has the root of a guest try to write to the volume with the system disk, attached as it is to the guest: what
// verify says of it afterwards, the caller sees.
func burgle(t *testing.T) {
	t.Helper()
	_, m := theHost(t)
	g := xen.Guest{Name: "burglar", Mode: xen.PV, Loader: xen.Direct, Layout: xen.Whole, Memory: m.Profile.Memory,
		System: systemLV, OnCrash: xen.Destroy, OnReboot: xen.Destroy, Kernel: &hypervisor.Kernel{
			Image: files + "/" + master.KernelFile, Initrd: files + "/" + probe, Cmdline: "console=hvc0 quiet"}}
	create(t, g)
	said := order(t, g.Name, "overwrite", "/dev/xvda")
	if !strings.HasSuffix(said, " changed=false") || strings.Contains(said, "write=done") {
		t.Errorf("overwriting the volume with the system disk: %s; want no write done and nothing changed", said)
	}
	release(t, g.Name)
}

// release ends a guest, and waits until dom0 has let go of the volumes, too.
func release(t *testing.T, name string) {
	t.Helper()
	clean(t, name)
	run(t, "sh", "-c", "while lvm lvs --noheadings --options lv_device_open "+group+" | grep -q open; do sleep 1; done")
}

// foreigner has xl start the guest without rempart: then nothing of it is touched.
func foreigner(t *testing.T) {
	t.Helper()
	said(t, 0, "stopped", "stop", "fw", "--timeout", long.String())
	run(t, "xl", "create", rempartDir+"/guests/fw/xen.cfg")
	untouched(t, "fw")
	release(t, "fw")
}
