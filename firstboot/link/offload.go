package link

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"rempart/profiles"
)

// Offload is one thing a NIC may do for the kernel, by its name in ethtool -K.
type Offload string

// offload says by which commands of linux/ethtool.h it is read and set; flag is its bit where several share a command.
type offload struct {
	name     Offload
	get, set uint32
	flag     uint32
}

// flagLRO is ETH_FLAG_LRO of linux/ethtool.h.
const flagLRO = 1 << 15

// offloads in the order to be set: what needs checksums and scatter-gather is switched off before and on after them.
var offloads = []offload{
	{"lro", unix.ETHTOOL_GFLAGS, unix.ETHTOOL_SFLAGS, flagLRO},
	{"tso", unix.ETHTOOL_GTSO, unix.ETHTOOL_STSO, 0},
	{"gso", unix.ETHTOOL_GGSO, unix.ETHTOOL_SGSO, 0},
	{"gro", unix.ETHTOOL_GGRO, unix.ETHTOOL_SGRO, 0},
	{"sg", unix.ETHTOOL_GSG, unix.ETHTOOL_SSG, 0},
	{"tx", unix.ETHTOOL_GTXCSUM, unix.ETHTOOL_STXCSUM, 0},
}

// wantedOffloads are those a profile speaks of, by name.
func wantedOffloads(o profiles.Offloads) map[Offload]bool {
	out := map[Offload]bool{}
	for name, word := range map[Offload]string{"tx": o.TX, "sg": o.SG, "tso": o.TSO, "gso": o.GSO, "gro": o.GRO,
		"lro": o.LRO} {
		if word != "" {
			out[name] = word == profiles.On
		}
	}
	return out
}

// ethtool asks the driver about one value.
func ethtool(name string, command, value uint32) (uint32, error) {
	v := struct{ command, value uint32 }{command, value} // struct ethtool_value
	err := askDriver(name, unsafe.Pointer(&v))
	return v.value, err
}

// askDriver hands the driver of an interface one of the structs of linux/ethtool.h, by struct ifreq.
func askDriver(name string, data unsafe.Pointer) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of the union
	}{data: data}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return errno
	}
	return nil
}

// linkSettings is struct ethtool_cmd.
type linkSettings struct {
	command, supported, advertising              uint32
	speed                                        uint16 // Mb/s, its lower half
	duplex, port, phy, transceiver, autoneg, mdi uint8
	maxTx, maxRx                                 uint32
	speedHigh                                    uint16
	tpMDIX, tpMDIXControl                        uint8
	partner                                      uint32
	_                                            [2]uint32
}

// duplexFull is DUPLEX_FULL, portOther PORT_OTHER of linux/ethtool.h.
const (
	duplexFull = 1
	portOther  = 0xff
	// anySpeed is what a NIC without a speed is said to have, in Mb/s: bonds only compare it.
	anySpeed = 10_000
)

func fullDuplex(name string) bool {
	s := linkSettings{command: unix.ETHTOOL_GSET}
	return askDriver(name, unsafe.Pointer(&s)) == nil && s.duplex == duplexFull
}

// setFullDuplex tells a virtual NIC what it does not know of itself: virtio-net has neither speed nor duplex unless its
// host gives them, and bonding speaks LACP by none of unknown duplex (bond_3ad.c: ad_update_actor_keys).
//
// A NIC that knows modes is left alone: it will say when it has a carrier, and telling it would end its negotiation.
func setFullDuplex(name string) error {
	has := linkSettings{command: unix.ETHTOOL_GSET}
	if err := askDriver(name, unsafe.Pointer(&has)); err == nil && has.supported != 0 {
		return errors.New("LACP needs a NIC of full duplex, and this one has none now: no carrier, or a half-duplex hub")
	}
	s := linkSettings{command: unix.ETHTOOL_SSET, speed: anySpeed, duplex: duplexFull, port: portOther}
	if err := askDriver(name, unsafe.Pointer(&s)); err != nil {
		return fmt.Errorf("LACP needs to know it and the NIC does not say: %w", err)
	}
	return nil
}

// lookOffloads reads what a NIC does. What its driver does not know it does not do.
func lookOffloads(name string) (map[Offload]bool, error) {
	out := map[Offload]bool{}
	for _, o := range offloads {
		v, err := ethtool(name, o.get, 0)
		switch {
		case errors.Is(err, unix.EOPNOTSUPP):
		case err != nil:
			return out, fmt.Errorf("offload %s of %s: %w", o.name, name, err)
		case o.flag != 0:
			out[o.name] = v&o.flag != 0
		default:
			out[o.name] = v != 0
		}
	}
	return out, nil
}

func setOffload(name string, which Offload, on bool) error {
	for _, o := range offloads {
		if o.name != which {
			continue
		}
		value := uint32(0)
		if on {
			value = 1
		}
		if o.flag != 0 {
			flags, err := ethtool(name, o.get, 0)
			if err != nil {
				return err
			}
			value = flags &^ o.flag
			if on {
				value = flags | o.flag
			}
		}
		_, err := ethtool(name, o.set, value)
		return err
	}
	return fmt.Errorf("no offload is called %s", which)
}
