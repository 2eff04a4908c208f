package guest

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"rempart/builder/hypervisor"
)

// TestKeepVars: the variables of firmware stay as the guest left them, unless another build of it could not read them.
func TestKeepVars(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vars")
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	for _, tt := range []struct {
		template, wrote string // wrote is what the guest made of it since
		format          hypervisor.Format
		want            string
		warns           bool
	}{
		{"blank", "entry", hypervisor.Raw, "blank", false},
		{"BLANK", "other", hypervisor.Raw, "entry", false},
		{"larger", "again!", hypervisor.Raw, "larger", true},
		{"qcow2 of any size", "", hypervisor.QCOW2, "again!", false},
	} {
		said.Reset()
		if err := keepVars(path, []byte(tt.template), tt.format, log); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil || string(b) != tt.want || (said.Len() > 0) != tt.warns {
			t.Errorf("with %q the guest has %q, %v, told %q; want %q", tt.template, b, err, said.String(), tt.want)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file is %v, %v; want it for its owner only", info, err)
		}
		if err := os.WriteFile(path, []byte(tt.wrote), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := keepVars(filepath.Join(path, "x"), nil, hypervisor.Raw, nil); err == nil {
		t.Error("keepVars below a file = nil; want an error")
	}
}
