package bench

import (
	"encoding/json"
	"testing"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
	"rempart/test/rig"
)

// BenchmarkMemory asks a guest in the smallest RAM that people give it what its programs take once it is READY.
func BenchmarkMemory(b *testing.B) {
	m := rig.Build(b, profile)
	g := m.Boot(b, rig.Options{Memory: m.Profile.Memory})
	g.AwaitReady()
	g.Await("the scrub", func(r contract.Report) bool { return r.Root.Scrubbed })
	status, out, errs := g.Ctl(nil, "top", "--json")
	var top struct {
		Memory   contract.Memory
		Children []struct {
			Name         string
			RSS, Charged int64
		}
	}
	if err := json.Unmarshal([]byte(out), &top); status != ctl.Done || err != nil {
		b.Fatalf("top = %d, %q, %q: %v", status, out, errs, err)
	}
	var all, most int64
	running, largest := 0, ""
	for _, c := range top.Children {
		if c.RSS == 0 {
			continue // it has done what there was to do
		}
		running, all = running+1, all+c.Charged
		if c.Charged > most {
			most, largest = c.Charged, c.Name
		}
	}
	if running == 0 {
		b.Fatalf("top tells of no child that runs: %q", out)
	}
	const mib = float64(mebibyte)
	report(b, float64(all)/mib, "MiB/children")
	report(b, float64(top.Memory.Available)/mib, "MiB/free")
	figure("memory of firstboot's children", "%.1f MiB for %d of them with what the kernel holds for them, %.1f MiB for"+
		" %s; %.0f MiB of the guest's %.0f MiB are free", float64(all)/mib, running, float64(most)/mib, largest,
		float64(top.Memory.Available)/mib, float64(m.Profile.Memory)/mib)
}
