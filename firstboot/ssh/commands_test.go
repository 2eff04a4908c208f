package ssh

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"rempart/firstboot/contract"
)

func TestOwnCommands(t *testing.T) {
	r := contract.Report{Name: "gw", Ready: true, Settled: true, Root: contract.RootReport{ReadOnlyDisk: true},
		Policy: "loaded", Links: []contract.LinkReport{{Name: "lan0", Up: true, Addresses: []string{"10.0.0.1/24"}}}}
	c := &commands{root: t.TempDir(), status: &status{report: r}}
	if got := c.Prompt(); got != "gw [read-only]" {
		t.Errorf("Prompt = %q", got)
	}
	c.status.report.Root.ReadOnlyDisk = false
	if got := c.Prompt(); got != "gw [WRITABLE]" {
		t.Errorf("Prompt = %q", got)
	}
	for _, x := range []struct {
		line, stdout, stderr string // parts
		status               int
	}{
		{"help", "status", "", 0},
		{"status", "link: lan0  up 10.0.0.1/24\nREADY gw", "", 0},
		{"status --json", `"name": "gw"`, "", 0},
		{"status --jsn", "", "-json", exitUsage},
		{"status x", "", `unexpected "x"`, exitUsage},
		{"log -n x", "", "begin with so many", exitUsage},
		{"log", "", "no such file", exitFailed},
		{"rm -rf /", "", `no command "rm"`, exitUsage},
	} {
		args, err := split(x.line)
		if err != nil {
			t.Fatal(err)
		}
		var out, errOut bytes.Buffer
		got := c.Run(t.Context(), Call{Args: args, Stdout: &out, Stderr: &errOut})
		if got != x.status || !strings.Contains(out.String(), x.stdout) || !strings.Contains(errOut.String(), x.stderr) {
			t.Errorf("%s = %q, %q, %d; want %q, %q, %d", x.line, out.String(), errOut.String(), got, x.stdout, x.stderr,
				x.status)
		}
		if x.line == "status --json" {
			var back contract.Report
			if err := json.Unmarshal(out.Bytes(), &back); err != nil || back.Name != "gw" {
				t.Errorf("status --json = %s: %v", out.String(), err)
			}
		}
	}
}
