package boot

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/builder/hypervisor"
	"rempart/firstboot/state"
	"rempart/test/rig"
)

// replay lets e2fsck replay the journal of a state disk after a power cut, as the next mount would, and holds the
// result: nothing is left to repair.
func replay(t *testing.T, disk string) {
	t.Helper()
	out, err := exec.Command("/sbin/e2fsck", "-p", disk).CombinedOutput()
	var exit *exec.ExitError
	const corrected = 1 // the journal was replayed; e2fsck(8)
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != corrected) {
		t.Errorf("e2fsck -p after a power cut: %v\n%s", err, out)
	}
	e2fsck(t, disk)
}

// logged has QEMU keep every write, flush and discard of the state disk in a log, in their order.
const logged = `s|^driver=raw,node-name=state,discard=unmap,` +
	`file.driver=file,file.filename=\([^,]*\),file.discard=unmap$|` +
	`driver=blklogwrites,node-name=state,file.driver=file,file.filename=\1,log.driver=file,log.filename=\1.log|`

// The log's format is that of Linux' dm-log-writes (drivers/md/dm-log-writes.c): a superblock of one sector, then for
// each entry a sector of head and the data.
const (
	logSector  = 512
	logMagic   = 0x6a736677736872
	logFlush   = 1
	logFUA     = 2
	logDiscard = 4
)

// write is an entry of the log.
type write struct {
	at, length int64
	flags      uint64
	data       []byte // nil: discarded
}

func readLog(t *testing.T, name string) []write {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	sector := make([]byte, logSector)
	le := binary.LittleEndian
	if _, err := io.ReadFull(r, sector); err != nil || le.Uint64(sector) != logMagic {
		t.Fatalf("%s is no log of writes: %v", name, err)
	}
	var all []write
	for range le.Uint64(sector[16:]) {
		if _, err := io.ReadFull(r, sector); err != nil {
			t.Fatalf("%s ends in entry %d: %v", name, len(all), err)
		}
		w := write{at: int64(le.Uint64(sector)) * logSector, length: int64(le.Uint64(sector[8:])) * logSector,
			flags: le.Uint64(sector[16:])}
		if w.flags&logDiscard == 0 && w.length > 0 {
			w.data = make([]byte, w.length)
			if _, err := io.ReadFull(r, w.data); err != nil {
				t.Fatalf("%s ends in entry %d: %v", name, len(all), err)
			}
		}
		all = append(all, w)
	}
	return all
}

func (w write) do(t *testing.T, f *os.File) {
	t.Helper()
	data := w.data
	if data == nil {
		data = make([]byte, w.length) // a discarded block reads as anything; zeros are what a sparse file gives
	}
	if len(data) == 0 {
		return
	}
	if _, err := f.WriteAt(data, w.at); err != nil {
		t.Fatal(err)
	}
}

// TestPowerCuts records what the first life of a guest writes to its state disk, from the blank disk to the orderly
// stop, and cuts the power after it at many points: each time everything that was flushed is on the disk, and of the
// rest some, as a disk with a cache has it. Whatever is there must be ours: blank, a format to be redone, or a
// filesystem that its journal makes whole. A guest is booted on the worst: half a format.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	const size = 64 << 20 // every byte of it is written several times below
	disk := filepath.Join(t.TempDir(), "state.raw")
	if err := rig.Blank(disk, size); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(disk+".log", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g := m.Boot(t, rig.Options{State: disk, Sed: logged})
	g.AwaitReady()
	g.PowerOff()
	all := readLog(t, disk+".log")

	dir := t.TempDir()
	stable, err := os.Create(filepath.Join(dir, "stable")) // what was flushed
	if err != nil {
		t.Fatal(err)
	}
	defer stable.Close()
	if err := stable.Truncate(size); err != nil {
		t.Fatal(err)
	}
	seed := rand.Int63()
	random := rand.New(rand.NewSource(seed))
	t.Logf("%d writes and flushes; random choices from %d", len(all), seed)
	const most = 100 // points; they are spread over all
	kinds := map[state.Kind]int{}
	var half string // a disk with half a format
	var pending []write
	flushes, places := 0, map[string]bool{}
	for i, w := range all {
		pending = append(pending, w)
		if i*most/len(all) != (i+1)*most/len(all) {
			cut := filepath.Join(dir, "cut")
			image(t, cut, stable, pending, random)
			kind := probe(t, cut)
			kinds[kind]++
			switch kind {
			case state.Ours:
				replay(t, cut)
			case state.Interrupted:
				half = filepath.Join(dir, "half")
				if err := os.Rename(cut, half); err != nil {
					t.Fatal(err)
				}
			case state.Blank:
			default:
				t.Errorf("power cut after write %d of %d: the disk looks %s", i+1, len(all), kind)
			}
			if t.Failed() {
				t.Fatalf("power cut after write %d of %d", i+1, len(all))
			}
		}
		if w.flags&(logFlush|logFUA) != 0 {
			for _, p := range pending {
				p.do(t, stable)
			}
			pending = nil
			if flushes++; probe(t, stable.Name()) == state.Ours {
				boundary(t, stable, size, places)
			}
		}
	}
	t.Logf("disks after a cut: %v; after %d flushes: whole", kinds, flushes)
	rig.Honest(t, stable.Name())
	if kinds[state.Interrupted] == 0 || kinds[state.Ours] == 0 {
		t.Fatal("the cuts did not fall into both the format and the work after it")
	}
	if err := os.Truncate(half, size+(8<<20)+512); err != nil { // and the disk was enlarged meanwhile
		t.Fatal(err)
	}
	g = m.Boot(t, rig.Options{State: half})
	if r := g.AwaitReady(); r.State.Action != state.Reformatted {
		t.Errorf("state = %+v on half a format; want it %s", r.State, state.Reformatted)
	}
	g.PowerOff()
	clean(t, half)
	rig.Honest(t, half)
}

// image makes a disk as a power cut leaves it: what is stable, and of the writes since then a random part; now and then
// all of them, or none.
func image(t *testing.T, name string, stable *os.File, pending []write, random *rand.Rand) {
	t.Helper()
	if out, err := exec.Command("cp", "--sparse=always", stable.Name(), name).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	share := []float64{0, 0.2, 0.5, 0.8, 1}[random.Intn(5)]
	for _, w := range pending {
		if random.Float64() < share {
			w.do(t, f)
		}
	}
}

func probe(t *testing.T, disk string) state.Kind {
	t.Helper()
	f, size := openDisk(t, disk)
	defer f.Close()
	found, err := state.Probe(f, size)
	if err != nil {
		t.Fatal(err)
	}
	return found.Kind
}

// TestPowerCutsOfQEMU kills QEMU ten times on the same state disk, at random moments from the guest's first word,
// before it has looked at its state, until some time after it is READY; and starts it again at once, on what that left.
// In the end it is READY on the state of the first, which is sound.
func TestPowerCutsOfQEMU(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := formatted(t, 64<<20)
	note := filepath.Join(t.TempDir(), "note")
	if err := os.WriteFile(note, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	debugfs(t, disk, fmt.Sprintf("write %s note", note), true)
	seed := rand.Int63()
	random := rand.New(rand.NewSource(seed))
	o := rig.Options{Firmware: hypervisor.MicroVM, State: disk} // the one that is there soonest
	const (
		cuts  = 10
		first = "rempart: " // of the guest's words
	)
	ready := 0
	var life time.Duration // from its first word until it is READY
	for cut := range cuts {
		g := m.Boot(t, o)
		g.AwaitConsole(first)
		begun := time.Now()
		if cut == 0 {
			g.AwaitReady()
			life = time.Since(begun)
		} else {
			<-time.After(time.Duration(random.Int63n(int64(life + life/4))))
		}
		if r, _ := g.Report(); r.Ready {
			ready++
			if r.State.Action != state.Mounted {
				t.Errorf("after %d power cuts the state is %+v; want it %s", cut, r.State, state.Mounted)
			}
		}
		g.Cut()
	}
	t.Logf("of %d lives that were cut within %v, by seed %d, %d were READY", cuts, life+life/4, seed, ready)
	g := m.Boot(t, o)
	if r := g.AwaitReady(); r.State.Action != state.Mounted {
		t.Errorf("state = %+v after power cuts; want it %s", r.State, state.Mounted)
	}
	g.PowerOff()
	clean(t, disk)
	rig.Honest(t, disk, "note")
	if got := debugfs(t, disk, "cat note", false); !strings.Contains(got, "kept") {
		t.Errorf("the note reads %q after power cuts; want kept", got)
	}
}
