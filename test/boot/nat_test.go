package boot

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"rempart/test/rig"
)

// Every kind of translation, and the profile of a rented server, in a guest with Debian's kernel: each flow that their
// lines name is sent, and what the receiver sees is held against the profile.
func TestTranslationsInAGuest(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{"testdata/nat.yaml", "rented-server"} {
		t.Run(profile, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*rig.Patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, rig.Rempart(t), "test", profile, "--renew-lock")
			cmd.WaitDelay = rig.Patience
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "flows, all right") {
				t.Errorf("rempart test %s: %v; want all flows right\n%s", profile, err, out)
			}
		})
	}
}
