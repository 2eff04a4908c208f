package boot

import (
	"slices"
	"strings"
	"testing"

	"rempart/firstboot/contract"
)

func TestCmdline(t *testing.T) {
	for arch, want := range map[string][]string{
		"amd64": {"console=ttyS0,115200", "console=hvc0", "oops=panic", "no_timer_check"},
		"arm64": {"console=ttyAMA0,115200", "console=hvc0", "oops=panic"},
	} {
		a, err := ArchOf(arch)
		if err != nil {
			t.Fatal(err)
		}
		line := Cmdline(a, contract.Verity{DataBlocks: 1})
		words := strings.Fields(line)
		for _, w := range want {
			if !slices.Contains(words, w) {
				t.Errorf("Cmdline(%s) = %q; want %s in it", arch, line, w)
			}
		}
		if arch != "amd64" && slices.Contains(words, "no_timer_check") {
			t.Errorf("Cmdline(%s) = %q; want nothing of a timer it has not got", arch, line)
		}
	}
}
