// Package bench measures what people ask about before they trust a machine to Rempart: how long a build takes, how
// large a master is, how little RAM its guest needs with packets still going the right ways, how soon it is READY,
// and, where there is a peer to measure against, how the two compare in the same run.
//
// Its benchmarks run real programs and real guests, each a few times (`-benchtime 1x`: a benchmark repeats by itself
// what it takes a median of), and a table of all figures ends the run.
//
// What it deliberately does not do: decide. Budgets are tests of packages test/build and test/boot, where a miss
// fails. A figure is only as good as the machine was idle.
package bench

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// row is one line of the table.
type row struct{ what, figure string }

// table collects figures; benchmarks of one process write to it one after the other.
var table struct {
	sync.Mutex
	rows []row
}

// figure adds a line to the table.
func figure(what, format string, args ...any) {
	table.Lock()
	defer table.Unlock()
	table.rows = append(table.rows, row{what, fmt.Sprintf(format, args...)})
}

// printTable writes the table as README.md has it.
func printTable(w io.Writer) error {
	table.Lock()
	defer table.Unlock()
	if len(table.rows) == 0 {
		return nil
	}
	width := 0
	for _, r := range table.rows {
		width = max(width, len(r.what))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nMeasured on %d cores, guests under QEMU's TCG, load average at the end %s.\n\n",
		runtime.NumCPU(), load())
	fmt.Fprintf(&b, "| %-*s | figure |\n| %s | --- |\n", width, "what", strings.Repeat("-", width))
	for _, r := range table.rows {
		fmt.Fprintf(&b, "| %-*s | %s |\n", width, r.what, r.figure)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// load is the load average of the last minute: a busy machine explains a slow figure.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}

// median is the middle of some values; of an even number the lower middle.
func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/2]
}

const mebibyte = 1 << 20

// mib shows bytes in MiB.
func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/mebibyte) }

// smallest finds, in steps, the least value in [low, high] that does, given that high does and that what does goes on
// to do with more. It asks about at most log2 of the number of steps; more is asked only while may says so, and exact
// tells whether it came to the end.
func smallest(low, high, step int64, may func() bool, does func(int64) (bool, error)) (
	least int64, exact bool, err error) {
	for low < high {
		if !may() {
			return high, false, nil
		}
		middle := low + (high-low)/step/2*step
		ok, err := does(middle)
		if err != nil {
			return 0, false, err
		}
		if ok {
			high = middle
		} else {
			low = middle + step
		}
	}
	return high, true, nil
}
