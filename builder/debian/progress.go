package debian

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Stages of bringing packages.
const (
	StageIndex    = "reading indices"
	StageDownload = "downloading"
	StageUnpack   = "unpacking"
	StageDone     = "done" // the last call
)

// Progress is how far the bringing of packages is. Done never exceeds Total once all that is missing is known; both
// are bytes of all downloads together.
type Progress struct {
	Stage       string
	Name        string // of the package or suite last worked on
	Done, Total int64
}

// redrawEvery is how often a line of progress changes at most.
const redrawEvery = 100 * time.Millisecond

// ProgressLine returns a function for Options.Progress that keeps one line of a terminal up to date and erases it at
// the end. It is not for files and pipes.
func ProgressLine(w io.Writer) func(Progress) {
	const eraseLine = "\r\x1b[K" // ECMA-48: EL
	var drawn time.Time
	var stage string
	return func(p Progress) {
		now := time.Now()
		switch {
		case p.Stage == StageDone:
			fmt.Fprint(w, eraseLine)
			return
		case p.Stage == stage && now.Sub(drawn) < redrawEvery:
			return
		}
		drawn, stage = now, p.Stage
		line := p.Stage + " " + p.Name
		if p.Total > 0 {
			const mega = 1e6
			line = fmt.Sprintf("%3d %% of %.1f MB, %s", 100*p.Done/p.Total, float64(p.Total)/mega, line)
		}
		const width = 78 // a line that wraps cannot be erased
		if len(line) > width {
			line = line[:width]
		}
		fmt.Fprint(w, eraseLine, line)
	}
}

// tracker adds up how far several downloads are.
type tracker struct {
	mu    sync.Mutex
	tell  func(Progress)
	now   Progress
	files map[string]int64
}

func newTracker(tell func(Progress)) *tracker { return &tracker{tell: tell, files: map[string]int64{}} }

// expect adds bytes that will be downloaded.
func (t *tracker) expect(size int64) { t.update(func() { t.now.Total += size }) }

// file returns what counts one file.
func (t *tracker) file(name string) func(int64) {
	return func(have int64) {
		t.update(func() {
			t.now.Done += have - t.files[name]
			t.files[name] = have
			t.now.Stage, t.now.Name = StageDownload, name
		})
	}
}

func (t *tracker) unpacking(name string) {
	t.update(func() { t.now.Stage, t.now.Name = StageUnpack, name })
}

func (t *tracker) finish() {
	if t.now.Stage != "" {
		t.update(func() { t.now.Stage, t.now.Name = StageDone, "" })
	}
}

func (t *tracker) update(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
	if t.now.Stage != "" {
		t.tell(t.now)
	}
}

// stage tells what is being done with something that is not counted.
func (t *tracker) stage(stage, name string) {
	t.update(func() { t.now.Stage, t.now.Name = stage, name })
}
