package kernel

import (
	"context"
	"maps"
	"slices"

	"rempart/profiles"
)

// BootWants are the modules of the initramfs: what finds, verifies and mounts the root, and nothing else, for each
// byte of it takes guest memory twice while it is unpacked. virtio-scsi is not among them (with the SCSI layer 800
// KB): a master's system disk is virtio-blk, a Xen virtual disk, or NVMe, which Debian builds in.
func BootWants() []Want {
	return []Want{
		{Name: "virtio_pci", Why: "the bus of QEMU's devices; brings virtio_ring, _modern_dev and _legacy_dev"},
		{Name: "virtio_mmio", Why: "the bus of QEMU's microvm"},
		{Name: "virtio_blk", Why: "disks of QEMU"},
		{Name: "xen_blkfront", Optional: true, Why: "disks of Xen; arm64 kernels may lack it"},
		{Name: "nvme", Optional: true, Why: "disks of clouds; built in where it is there"},
		{Name: "pvpanic*", Optional: true, Why: "a root that is corrupt panics the kernel before it could load this later"},
		{Name: "button", Why: "a guest that cannot find its root can still be switched off in order"},
		{Name: "evdev", Why: "the same: the events of the power button"},
		{Name: "dm_verity", Why: "checks each block of the root; brings dm_mod, dm_bufio, reed_solomon"},
		{Name: "erofs", Why: "the root's file system; brings libcrc32c"},
		{Name: "crc32c_generic", Optional: true, Why: "libcrc32c asks for it by name; built into the cloud kernel"},
		{Name: "sha256_ssse3", Optional: true, Why: "x86: verity hashes several times as fast with it"},
		{Name: "sha2_ce", Optional: true, Why: "arm64: the same"},
	}
}

// bootLoads are the modules of the initramfs that no device announces, in the order to load them: the fast SHA-256
// first, for dm-verity takes the best one it finds when a table is loaded.
func bootLoads() []string {
	return []string{"sha256_ssse3", "sha2_ce", "crc32c_generic", "dm_verity", "erofs"}
}

// RootWants are the modules a guest may load later. All that filters or shapes packets is there, whether a profile
// uses it today or not: a changed policy must not need another master. What the profile needs at once is Preload.
func RootWants() []Want {
	return []Want{
		// Devices of hypervisors.
		{Name: "virtio_net", Why: "NICs of QEMU; brings failover"},
		{Name: "xen_netfront", Optional: true, Why: "NICs of Xen"},
		{Name: "virtio_console", Why: "the control channel"},
		{Name: "virtio_rng", Why: "entropy: without it the first boot waits seconds"},
		{Name: "quota_v2", Why: "keeps each child to its share of the state disk; brings quota_tree"},
		{Name: "virtio_balloon", Optional: true, Why: "gives memory back to the host"},
		{Name: "softdog", Optional: true, Why: "watchdog where the hypervisor has none"},
		{Name: "i6300esb", Optional: true, Why: "watchdog of QEMU"},
		{Name: "xen_wdt", Optional: true, Why: "watchdog of Xen"},
		{Name: "vmxnet3", Optional: true, Why: "NICs of VMware, and of QEMU that stands in for it"},
		{Name: "e1000", Optional: true, Why: "NICs of hypervisors without virtio; not in the cloud kernel"},
		{Name: "e1000e", Optional: true, Why: "the same"},
		{Name: "8139cp", Optional: true, Why: "the same, the default of old Xen HVM guests"},

		// Packet filter.
		{Name: "nf_*", Why: "connection tracking with its helpers, NAT, flow tables, logging"},
		{Name: "nft_*", Except: []string{"nft_compat"}, Why: "nf_tables expressions; all but the bridge to iptables"},
		{Name: "nfnetlink", Why: "the way rules come in"},
		{Name: "nfnetlink_log", Why: "log to user space"},
		{Name: "nfnetlink_queue", Why: "verdicts from user space"},
		{Name: "nfnetlink_osf", Optional: true, Why: "passive fingerprints, which nft_osf asks for"},

		// Kinds of links.
		{Name: "8021q", Why: "VLANs"},
		{Name: "bonding", Why: "bonds"},
		{Name: "bridge", Why: "bridges between interfaces of the guest"},
		{Name: "br_netfilter", Why: "layer 3 rules on bridged packets"},
		{Name: "dummy", Why: "links of the guest's own"},
		{Name: "veth", Why: "links into the namespaces of services"},
		{Name: "macvlan", Why: "several MACs on one NIC"},
		{Name: "vrf", Why: "routing domains"},
		{Name: "tun", Why: "tunnels in user space"},
		{Name: "wireguard", Why: "tunnels in the kernel"},

		// Shaping.
		{Name: "ifb", Why: "shapes what comes in"},
		{Name: "sch_cake", Why: "fair shaping of an uplink in one piece"},
		{Name: "sch_fq", Why: "pacing"},
		{Name: "sch_htb", Why: "shares of a rate"},
		{Name: "sch_ingress", Why: "the hook that ifb needs"},
		{Name: "sch_prio", Why: "strict priorities"},
		{Name: "sch_tbf", Why: "a plain rate limit"},
		{Name: "cls_fw", Why: "classes by the marks of the policy"},
		{Name: "cls_matchall", Why: "everything into one class"},
		{Name: "act_mirred", Why: "sends packets to ifb"},
		{Name: "act_police", Why: "drops above a rate"},
		{Name: "tcp_bbr", Optional: true, Why: "proxies over long ways"},

		// Checksums and ciphers that the above find by name when they are there.
		{Name: "crc32c_intel", Optional: true, Why: "x86: SCTP and ext4 checksums"},
		{Name: "crct10dif_pclmul", Optional: true, Why: "x86: checksums"},
	}
}

// hardwareWants are what the kernel for hardware needs beyond the other: the drivers of NICs that are passed through to
// a guest, or emulated, and what the cloud kernel has built in. NICs that do nothing without firmware, which is not
// part of Debian's main archive, are left out.
func hardwareWants() []Want {
	drivers := []struct{ name, why string }{
		{"8139too", "the same, an older revision"},
		{"igb", "Intel 82575 and later; emulated by QEMU"},
		{"igbvf", "its virtual functions"},
		{"igc", "Intel I225"},
		{"ixgbe", "Intel, 10 Gbit/s"},
		{"ixgbevf", "its virtual functions"},
		{"i40e", "Intel, 40 Gbit/s"},
		{"iavf", "its virtual functions, and those of later ones"},
		{"ice", "Intel, 100 Gbit/s; without firmware in a mode that does less"},
		{"r8169", "Realtek, 1 to 2.5 Gbit/s"},
		{"tg3", "Broadcom, 1 Gbit/s"},
		{"bnxt_en", "Broadcom, 10 Gbit/s and more"},
		{"mlx4_en", "Mellanox ConnectX-3"},
		{"mlx5_core", "Mellanox ConnectX-4 and later"},
		{"atlantic", "Aquantia"},
		{"pcnet32", "emulated by QEMU and VirtualBox"},
	}
	wants := []Want{{Name: "ext4", Optional: true, Why: "the state disk; built into the cloud kernel"}}
	for _, d := range drivers {
		wants = append(wants, Want{Name: d.name, Optional: true, Why: d.why})
	}
	return wants
}

// BootSet returns the modules of the initramfs.
func (k *Kernel) BootSet(ctx context.Context) (*Set, error) { return k.Select(ctx, BootWants()) }

// RootSet returns the modules of the root: those of the initramfs, for a guest can look at what it booted with, and
// everything it may load later; with hardware also what drives NICs that are no hypervisor's.
func (k *Kernel) RootSet(ctx context.Context, hardware bool) (*Set, error) {
	wants := append(BootWants(), RootWants()...)
	if hardware {
		wants = append(wants, hardwareWants()...)
	}
	return k.Select(ctx, wants)
}

// BootLoads names the modules of the initramfs that no device announces and the boot stage must load by name, in
// order, as far as this kernel has them as modules.
func (k *Kernel) BootLoads() []string {
	var names []string
	for _, name := range bootLoads() {
		if _, ok := k.files[name]; ok {
			names = append(names, name)
		}
	}
	return names
}

// Preload names the modules that a guest with this profile loads before its first child, so that the children, which
// may not load modules, find all they need: the policy is one transaction and cannot wait for a module in its midst.
// Drivers of NICs are not among them, those are found by device. The order is a sensible one to load them in; each
// brings what it depends on. A nil profile gives what every profile needs.
func Preload(p *profiles.Profile) []string {
	names := []string{
		"button", "evdev", // the power button
		"virtio_console", // the control channel
		"virtio_rng",
		"nf_tables",
		"nft_objref",               // named counters
		"nft_ct",                   // answers to what was accepted
		"nft_limit",                // ICMP and log rates
		"nft_log", "nf_log_syslog", // drops on the console
		"nft_reject_inet",      // polite refusal
		"nft_fib_inet",         // anti-spoofing, local addresses
		"nf_conntrack_netlink", // forgetting flows of an older policy
	}
	if p != nil && p.Kernel == profiles.KernelFull {
		names = append(names, "ext4") // of the state disk; built into the cloud kernel
	}
	if p != nil && slices.ContainsFunc(p.Policy, func(r profiles.Rule) bool { return r.Connections > 0 }) {
		names = append(names, "nft_connlimit")
	}
	if p != nil && slices.ContainsFunc(p.Links, func(l profiles.Link) bool { return p.Filters(&l) }) {
		names = append(names, "nf_conntrack_bridge") // answers to what was accepted between members of a bridge
	}
	if p == nil || len(p.Masquerade) > 0 || len(p.Forwards) > 0 || len(p.NAT.Sources) > 0 || len(p.NAT.Mappings) > 0 {
		if p != nil && slices.ContainsFunc(p.Forwards, func(f profiles.Forward) bool { return len(f.Others) > 0 }) {
			names = append(names, "nft_hash")
		}
		names = append(names, "nft_chain_nat", "nft_nat", "nft_masq", "nft_redir")
	}
	if p != nil && p.FlowTable {
		names = append(names, "nf_flow_table_inet", "nft_flow_offload")
	}
	if p != nil && p.SynProxies() {
		names = append(names, "nft_synproxy")
	}
	if p != nil {
		for _, h := range p.Helpers() {
			names = append(names, "nf_conntrack_"+string(h), "nf_nat_"+string(h))
		}
	}
	return append(names, linkModules(p)...)
}

// linkModules make the kinds of links that a profile has. The kernel would load them when the first is made, which is
// when the links come up and a slow module would keep them down.
func linkModules(p *profiles.Profile) []string {
	if p == nil {
		return nil
	}
	need := map[string]bool{}
	for _, l := range p.Links {
		need["8021q"] = need["8021q"] || l.VLAN != nil
		need["bonding"] = need["bonding"] || l.Bond != nil
		need["bridge"] = need["bridge"] || l.Bridge != nil
		need["macvlan"] = need["macvlan"] || l.Macvlan != nil
		need["dummy"] = need["dummy"] || l.Dummy
		need["wireguard"] = need["wireguard"] || l.WireGuard != nil
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(need)) {
		if need[name] {
			names = append(names, name)
		}
	}
	return names
}
