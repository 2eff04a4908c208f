package main

import (
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/power"
)

// waitForPowerButton keeps the machine still, for its console to be read, and switches it off when asked to.
func (s *stage) waitForPowerButton() {
	if s.plug != nil {
		_ = s.plug.loader.Load("button") // where the initramfs has them
		_ = s.plug.loader.Load("evdev")
	}
	for {
		buttons := power.Buttons("/dev")
		if len(buttons) == 0 {
			time.Sleep(time.Hour)
			continue
		}
		for {
			pressed, err := power.Pressed(buttons, -1)
			if pressed {
				s.say("boot stage: power button: switching off")
				_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
			}
			if err != nil {
				break
			}
		}
		for _, b := range buttons {
			b.Close()
		}
		time.Sleep(time.Second)
	}
}
