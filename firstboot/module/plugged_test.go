package module

import "testing"

func TestNeedsDriver(t *testing.T) {
	for event, want := range map[string]bool{
		"add@/devices/pci0/x\x00ACTION=add\x00MODALIAS=pci:v8086\x00": true,
		"add@/devices/x/net/eth0\x00ACTION=add\x00SUBSYSTEM=net\x00":  false,
		"remove@/devices/pci0/x\x00MODALIAS=pci:v8086\x00":            false,
		"libudev\x00MODALIAS=x":                                       false,
		"":                                                            false,
	} {
		if got := needsDriver([]byte(event)); got != want {
			t.Errorf("needsDriver(%q) = %v; want %v", event, got, want)
		}
	}
}
