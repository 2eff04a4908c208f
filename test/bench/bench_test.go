package bench

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"rempart/test/rig"
)

// profile is what everything is measured with.
const profile = "home-firewall"

func TestMain(m *testing.M) {
	code := m.Run()
	rig.Clean()
	if err := printTable(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []int
		want int
	}{{[]int{7}, 7}, {[]int{9, 1}, 1}, {[]int{5, 1, 3}, 3}, {[]int{4, 1, 3, 2}, 2}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %d; want %d", c.in, got, c.want)
		}
	}
}

func TestSmallest(t *testing.T) {
	always := func() bool { return true }
	for want := int64(64); want <= 128; want += 8 {
		asked := 0
		got, exact, err := smallest(64, 128, 8, always, func(n int64) (bool, error) { asked++; return n >= want, nil })
		if got != want || !exact || err != nil || asked > 4 {
			t.Errorf("smallest = %d, %v, %v after %d questions; want %d after at most 4", got, exact, err, asked, want)
		}
	}
	never := func() bool { return false }
	got, exact, err := smallest(64, 128, 8, never, func(int64) (bool, error) { return true, nil })
	if got != 128 || exact || err != nil {
		t.Errorf("smallest without time = %d, %v, %v; want 128, not exact", got, exact, err)
	}
	broken := errors.New("broken")
	if _, _, err := smallest(64, 128, 8, always, func(int64) (bool, error) { return false, broken }); err != broken {
		t.Errorf("smallest = %v; want the error of what it asked", err)
	}
}

func TestPhases(t *testing.T) {
	got := phases("packages    0.120 s\nqcow2       0.135 s\ntotal       0.605 s\nx: fw-1 for amd64, 9 packages\n")
	if len(got) != 3 || got[1] != (phase{"qcow2", 0.135}) || seconds(got, "total") != 0.605 {
		t.Errorf("phases = %v; want three, qcow2 0.135, total 0.605", got)
	}
}

func TestLastLine(t *testing.T) {
	if got := lastLine([]byte("a\nb\n\n")); got != "b" || lastLine(nil) != "" {
		t.Errorf("lastLine = %q; want b", got)
	}
}
