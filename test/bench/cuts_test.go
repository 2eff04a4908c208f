package bench

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"rempart/builder/hypervisor"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// How many power cuts there are, and after how many the guest must be READY on what they left. CUTS in the environment
// is another number.
const (
	powerCuts  = 200
	cutsInARow = 10
)

// BenchmarkPowerCuts kills QEMU at random moments of a guest's life, over and over on the same state disk: after every
// few the guest is READY, and in the end its disk is sound and holds nothing that should not be there.
func BenchmarkPowerCuts(b *testing.B) {
	cuts := powerCuts
	if text := os.Getenv("CUTS"); text != "" {
		var err error
		if cuts, err = strconv.Atoi(text); err != nil || cuts < 1 {
			b.Fatalf("CUTS is %q; want a number of power cuts", text)
		}
	}
	m := rig.Build(b, profile)
	disk := filepath.Join(b.TempDir(), "state.raw")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Truncate(disk, 64*mebibyte); err != nil {
		b.Fatal(err)
	}
	seed := rand.Uint64()
	b.Logf("moments are by seed %d", seed)
	moments := rand.New(rand.NewPCG(seed, 0))
	// This takes long, and so is run beside something else, with what the processors have left.
	o := rig.Options{Firmware: hypervisor.Direct, State: disk, Patience: 5 * rig.Patience}
	life, ready := 10*time.Second, 0
	for cut := 1; cut <= cuts; cut++ {
		g := m.Boot(b, o)
		<-time.After(time.Duration(moments.Int64N(int64(life)))) // the first ones may find it not formatted yet
		g.Cut()
		if cut%cutsInARow != 0 && cut != cuts {
			continue
		}
		begun := time.Now()
		g = m.Boot(b, o)
		r := g.AwaitReady()
		// From power-on until a while after READY.
		life = time.Since(begun) + 2*time.Second
		if r.State.Device == "" {
			b.Fatalf("after %d power cuts the state is %+v; want it on its disk", cut, r.State)
		}
		ready++
		g.Cut()
	}
	g := m.Boot(b, o)
	if r := g.AwaitReady(); r.State.Action != "mounted" {
		b.Errorf("after %d power cuts the state is %+v; want it mounted", cuts, r.State)
	}
	g.PowerOff()
	if out, err := exec.Command("e2fsck", "-fn", disk).CombinedOutput(); err != nil {
		b.Errorf("e2fsck -fn after %d power cuts: %v\n%s", cuts, err, out)
	}
	rig.Honest(b, disk)
	report(b, float64(cuts), "cuts")
	figure("power cuts at random moments", "%d, after which the guest was READY on the same disk each of %d times; "+
		"e2fsck finds nothing, %s holds nothing foreign", cuts+ready, ready+1, contract.StateDir)
}
