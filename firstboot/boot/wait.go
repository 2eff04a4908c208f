package main

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/power"
)

// waitForPowerButton keeps the machine still, for its console to be read, and switches it off when asked to.
func (s *stage) waitForPowerButton() {
	for {
		s.obeyButtons(-1)
		if s.buttons == nil {
			s.watchButtons()
			time.Sleep(fallback)
		}
	}
}

// watchButtons opens the power button. Only a machine that waits needs it.
func (s *stage) watchButtons() {
	if s.plug != nil {
		_ = s.plug.loader.Load("button") // where the initramfs has them
		_ = s.plug.loader.Load("evdev")
	}
	s.buttons = power.Buttons("/dev")
}

// obeyButtons waits up to timeout milliseconds (-1: for ever) for the power button and switches the machine off when it
// is pressed.
func (s *stage) obeyButtons(timeout int) {
	if len(s.buttons) == 0 {
		return
	}
	pressed, err := power.Pressed(s.buttons, timeout)
	if pressed {
		s.say("boot stage: power button: switching off")
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	if err != nil { // a button that went away; what is there now is opened again
		closeAll(s.buttons)
		s.buttons = nil
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
