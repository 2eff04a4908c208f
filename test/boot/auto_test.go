package boot

import (
	"bytes"
	"context"
	"os/exec"
	"testing"

	"rempart/test/rig"
)

// TestAutoconfigured boots a guest whose uplink has its addresses by DHCP and by router advertisements, and sends the
// flows that prove its policy: those in IPv6 go to and by what it made of an advertisement.
func TestAutoconfigured(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*rig.Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, rig.Rempart(t), "test", "testdata/auto.yaml", "--renew-lock").CombinedOutput()
	if err != nil {
		t.Fatalf("rempart test: %v\n%s", err, out)
	}
	for _, want := range []string{
		"ping 2001:db8::7 -> fd72:6d70:7465:a000:216:3eff:", // to itself
		"reaches [2001:db8::7]:4444",                        // by its router
		"28 flows, all right",
	} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("rempart test says\n%s\nwant %q in it", out, want)
		}
	}
}
