package hypervisor

import (
	"net"

	"rempart/firstboot/contract/hardware"
)

// MACs are the hardware addresses of a guest's NICs, one for each link; see hardware.MACs.
func MACs(guest string, links []string) []net.HardwareAddr { return hardware.MACs(guest, links) }
