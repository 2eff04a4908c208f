package rig

// LVMFile is where lvm2 has its configuration, and LVMAlone is one for machines of tests, without udev: it makes its
// device nodes itself, and has no daemons.
const (
	LVMFile  = "/etc/lvm/lvm.conf"
	LVMAlone = `devices { obtain_device_list_from_udev=0 external_device_info_source="none" use_devicesfile=0 }
activation { udev_sync=0 udev_rules=0 monitoring=0 reserved_memory=64 use_mlockall=0 }
global { event_activation=0 use_lvmpolld=0 }
backup { backup=0 archive=0 }
`
)
