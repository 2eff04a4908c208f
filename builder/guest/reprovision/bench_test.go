package reprovision

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkHostPart measures what a change takes on the host, without the guest's own stop and start: all of it, and
// what of it the guest is away for. The state disk has 256 MiB, of which 32 MiB are used.
func BenchmarkHostPart(b *testing.B) {
	for _, guests := range []int{1, 10, 100} {
		for _, mode := range []Mode{Empty, Keep} {
			b.Run(fmt.Sprintf("%d guests, %s", guests, mode), func(b *testing.B) {
				w, err := newWorld(b.TempDir())
				if err != nil {
					b.Fatal(err)
				}
				var away time.Duration
				for b.Loop() {
					for range guests {
						b.StopTimer()
						g, err := w.home.Open("fw")
						if err == nil {
							err = used(g.StateDisk())
						}
						if err != nil {
							b.Fatal(err)
						}
						b.StartTimer()
						var stop time.Time
						p := w.plan(Reprovision, "better", mode)
						p.Size = 256 << 20
						if err := w.run(p, func(point string) {
							switch point {
							case "done " + stopped:
								stop = time.Now()
							case "before " + started:
								away += time.Since(stop)
							}
						}); err != nil {
							b.Fatal(err)
						}
						if err := os.RemoveAll(filepath.Join(g.Dir, "quarantine")); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N*guests), "ms/guest")
				b.ReportMetric(float64(away.Milliseconds())/float64(b.N*guests), "ms-away/guest")
			})
		}
	}
}

// used makes a state disk as one that is in use.
func used(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	piece := bytes.Repeat([]byte("data"), 1<<18)
	for i := range int64(32) {
		if _, err := f.WriteAt(piece, i*(8<<20)); err != nil {
			return err
		}
	}
	return errors.Join(f.Truncate(256<<20), f.Sync())
}
