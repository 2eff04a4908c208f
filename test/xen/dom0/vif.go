package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/vishvananda/netlink"

	"rempart/firstboot/contract/xenstore"
)

// vifScript stands in for Xen's hotplug script vif-bridge, for the reason that blockScript gives: it puts a vif on its
// bridge, with the name and the MTU it is to have. Emulated NICs are left to the original.
func vifScript(args []string) error {
	device := os.Getenv("vif")
	if len(args) == 0 || device == "" || slices.Contains(args, "type_if=tap") {
		return original()
	}
	if args[0] != "online" {
		return nil // the kernel takes it off its bridge when it goes
	}
	f, err := os.OpenFile(xenstore.Device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	conn := xenstore.New(f)
	defer conn.Close()
	ctx, base := context.Background(), os.Getenv("XENBUS_PATH")
	name, err := conn.Now().Read(ctx, base+"/bridge")
	if err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(string(name))
	if err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("%s: %w", device, err)
	}
	own, err := conn.Now().Read(ctx, base+"/vifname")
	if err != nil && !errors.Is(err, xenstore.ErrAbsent) {
		return err
	}
	if len(own) > 0 && string(own) != device {
		if err := netlink.LinkSetName(link, string(own)); err != nil {
			return fmt.Errorf("naming %s %s: %w", device, own, err)
		}
	}
	err = errors.Join(
		// The address that no bridge takes for its own: it has the lowest of its ports.
		netlink.LinkSetHardwareAddr(link, net.HardwareAddr{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}),
		netlink.LinkSetMTU(link, bridge.Attrs().MTU),
		netlink.LinkSetMaster(link, bridge),
		netlink.LinkSetUp(link))
	if err != nil {
		return fmt.Errorf("%s on %s: %w", device, name, err)
	}
	return conn.Now().Write(ctx, base+"/hotplug-status", []byte("connected"))
}
