package boot

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"rempart/firstboot/contract/ctl"
	"rempart/test/rig"
)

// TestCapture captures in a running guest what comes by its first link, by the hypervisor's channel and by SSH, and
// has tcpdump read it.
func TestCapture(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	g, a := bootWithAdmin(t, m, rig.Options{})
	g.AwaitReady()
	c := a.mustConnect(t)
	defer c.Close()

	// Each connection is more than ten packets, so captures end by their count.
	captured := make(chan string)
	go func() {
		status, out, errs, err := g.TryCtl(nil, "capture", "lan0", "--count", "10", "--port", "22", "--seconds", "60")
		if status != ctl.Done || err != nil || !strings.Contains(errs, "10 packets") {
			t.Errorf("capture = %d, %v, %q; want 10 packets", status, err, errs)
		}
		captured <- out
	}()
	var out string
	for ended := false; !ended; {
		a.mustConnect(t).Close()
		select {
		case out = <-captured:
			ended = true
		default:
		}
	}
	text := tcpdump(t, []byte(out))
	if n := strings.Count(text, "\n"); n != 10 || strings.Count(text, "192.168.0.101.22") != 10 {
		t.Errorf("tcpdump reads\n%s\nwant 10 packets of the guest's SSH", text)
	}

	// What carries the capture is left out, so it does not feed on itself.
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var file, errs bytes.Buffer
	s.Stdout, s.Stderr = &file, &errs
	if err := s.Run("capture lan0 --count 1000 --seconds 5"); err != nil {
		t.Fatalf("capture by SSH: %v: %s", err, errs.String())
	}
	if text := tcpdump(t, file.Bytes()); strings.Contains(text, "192.168.0.101.22 ") || !strings.Contains(errs.String(),
		"leaving out SSH") {
		t.Errorf("a capture by SSH holds itself:\n%s\n%s", text, errs.String())
	}
	for _, tt := range []struct{ line, want string }{
		{"capture", "want the name of one link"},
		{"capture nonsense", "there is no link"},
		{"capture lan0 --count 0", "want 1 to"},
		{"capture lan0 --seconds 100000", "want 1 to"},
		{"capture lan0 --host nobody", "is no address"},
		{"capture lan0 --port 70000", "want 1 to 65535"},
	} {
		if status, _, errs := g.Ctl(nil, strings.Fields(tt.line)...); status == ctl.Done || !strings.Contains(errs, tt.want) {
			t.Errorf("%s = %d, %q; want %q", tt.line, status, errs, tt.want)
		}
	}
	g.PowerOff()
}

// tcpdump reads a capture.
func tcpdump(t *testing.T, file []byte) string {
	t.Helper()
	cmd := exec.Command("tcpdump", "-nn", "-r", "-")
	cmd.Stdin = bytes.NewReader(file)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tcpdump: %v", err)
	}
	return string(out)
}
