package run

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"rempart/builder/packettest"
	"rempart/firstboot/filter"
	"rempart/profiles"
	"rempart/test/rig"
)

// TestPackets runs `rempart test`, as an ordinary user, on every built-in profile, on one with all the links that a
// guest makes itself, on one with a bridge that filters, and on one whose IPv6 is learnt and delegated: each flow of
// the policy, allowed and denied, has to be tried in a booted guest and to be right.
func TestPackets(t *testing.T) {
	t.Parallel()
	names := profiles.Builtin()
	for _, file := range []string{"testdata/made.yaml", "testdata/bridged.yaml",
		"../boot/packets/testdata/rented-delegated.yaml"} {
		path, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, path)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			m := rig.Build(t, name)
			dir, err := os.MkdirTemp("", "rempart-run-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			master, captures := filepath.Join(dir, "fw"), filepath.Join(dir, "pcap")
			if err := os.CopyFS(master, os.DirFS(m.Dir)); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(binary, "test", master, "--json", "--pcap", captures, "--firmware", "direct", "--accel", "tcg")
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir}
			var report bytes.Buffer
			s := newScreen()
			cmd.Stdout, cmd.Stderr = &report, s
			ordinary(t, cmd, dir)
			failed := cmd.Run()
			var r packettest.Report
			if err := json.Unmarshal(report.Bytes(), &r); err != nil {
				t.Fatalf("rempart test: %v, and %v in the report %q\n%s", failed, err, report.String(), s)
			}
			for _, row := range r.Rows {
				if !row.Right {
					t.Errorf("%+v; want it right", row)
				}
			}
			if failed != nil {
				t.Errorf("rempart test: %v; want all right\nknocks %+v\n%s", failed, r.Knocks, s)
			}
			want := len(filter.Probes(m.Profile))
			if !r.OK() || r.Right != want || want == 0 || r.Knocks == nil || r.Knocks.Sent == 0 {
				t.Errorf("%d flows right, %d wrong, knocks %+v; want %d right and knocks that were sent", r.Right, r.Wrong,
					r.Knocks, want)
			}
			t.Logf("%d flows in %.1f s", r.Right, r.Seconds)
			nics := len(m.Profile.NICs())
			if found, err := filepath.Glob(filepath.Join(captures, "*.pcap")); err != nil || len(found) != nics {
				t.Errorf("captures %v, %v; want one for each of %d NICs", found, err, nics)
			}
		})
	}
}
