package link

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// driverOf is the driver of the interface called name, with - for _ as in module names, which drivers write either way.
func driverOf(root, name string) string {
	target, err := os.Readlink(filepath.Join(root, "sys/class/net", name, "device/driver"))
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(filepath.Base(target), "_", "-")
}

// busOf finds where the interface called name sits: the path of its device below /sys/devices and its port. Empty
// for an interface without a device.
func busOf(root, name string) (bus string, port int) {
	class := filepath.Join(root, "sys/class/net", name)
	target, err := filepath.EvalSymlinks(filepath.Join(class, "device"))
	if err != nil {
		return "", 0
	}
	devices, err := filepath.EvalSymlinks(filepath.Join(root, "sys/devices"))
	if err != nil {
		return "", 0
	}
	bus, err = filepath.Rel(devices, target)
	if err != nil || strings.HasPrefix(bus, "..") {
		return "", 0
	}
	// One device may have several ports (sysfs-class-net: dev_port); a missing or broken file is port 0.
	if b, err := os.ReadFile(filepath.Join(class, "dev_port")); err == nil {
		port, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	return bus, port
}
