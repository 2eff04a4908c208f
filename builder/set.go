package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"rempart/builder/guest/carry"
	"rempart/builder/guest/home"
	"rempart/builder/guest/running"
	"rempart/builder/hypervisor"
)

// setCommand is `rempart set`.
func setCommand() *command {
	return &command{
		name:     "set",
		synopsis: "GUEST OPTIONS",
		summary:  "change what a guest is made of: memory, processors, network, data disks, what is kept",
		help: `
The options are those of ` + "`rempart create`" + `; what is not named stays. Everything is checked before anything is
written, and all of it changes at once. A guest that runs has it from its next start on. Its master is changed by
` + "`rempart upgrade`" + `, its state disk by ` + "`rempart resize`" + `, its policy by ` + "`rempart apply`" + `.`,
		words: createdNames,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			return guestCommand(newSetting(flags).run)(flags)
		},
	}
}

// setting is one call of `rempart set`.
type setting struct {
	flags                          *pflag.FlagSet
	memory, firmware, accel        string
	cpus                           int
	nets, data, detach, keep, drop []string
}

// newSetting declares the options.
func newSetting(flags *pflag.FlagSet) *setting {
	s := &setting{flags: flags}
	flags.StringVarP(&s.memory, "memory", "m", "", "RAM, such as 128M; profile: what the profile says")
	flags.IntVar(&s.cpus, "cpus", 0, fmt.Sprintf("processors, 1 to %d", hypervisor.MaxVCPUs))
	flags.StringVarP(&s.firmware, "firmware", "f", "", "how it boots: bios, uefi, direct or microvm")
	flags.StringVar(&s.accel, "accel", "", "kvm, tcg or auto")
	oneOf(flags, "firmware", hypervisor.Firmwares())
	oneOf(flags, "accel", []hypervisor.Accel{hypervisor.Auto, hypervisor.KVM, hypervisor.TCG})
	flags.StringArrayVar(&s.nets, "net", nil, "plug a link in: LINK=WHAT; may be given again")
	flags.StringArrayVar(&s.data, "data", nil, "attach a disk image: NAME=FILE[,ro]; may be given again")
	flags.StringArrayVar(&s.detach, "no-data", nil, "detach the data disk of this name; its file stays")
	flags.StringArrayVar(&s.keep, "keep", nil, "carry the files of this place over when it is reprovisioned: "+
		strings.Join(kept(carry.Places()), ", "))
	flags.StringArrayVar(&s.drop, "no-keep", nil, "no longer carry the files of this place over")
	return s
}

func (s *setting) run(ctx context.Context, c *console, name string) error {
	if s.flags.NFlag() == 0 {
		return usageError{"want what to change, such as --memory 256M"}
	}
	g, err := lockUnchanged(name, "rempart set")
	if err != nil {
		return err
	}
	defer g.Unlock()
	was := g.Description
	if err := s.change(&g.Description); err != nil {
		return err
	}
	m, _, err := masterOf(g)
	if err != nil {
		return err
	}
	backends, err := pluggable(m.Profile, &g.Description, g.NetOptions())
	if err != nil {
		return err
	}
	if g.Image != nil {
		if err := askable(g.Image, backends); err != nil {
			return usageError{"--net: it is asked at a port of its own whether it is healthy: " + err.Error()}
		}
	}
	if err := g.Save(); err != nil {
		return err
	}
	say := func(what string, before, now any) {
		if b, n := fmt.Sprint(before), fmt.Sprint(now); b != n {
			fmt.Fprintf(c.out, "%s: %s %s -> %s\n", name, what, b, n)
		}
	}
	say("memory", inMiB(was.Memory), inMiB(g.Memory))
	say("processors", max(was.VCPUs, 1), max(g.VCPUs, 1))
	say("firmware", was.Firmware, g.Firmware)
	say("accelerator", was.Accel, g.Accel)
	say("network", (&home.Guest{Description: was}).NetOptions(), g.NetOptions())
	say("data disks", dataWords(was.Data), dataWords(g.Data))
	say("kept", kept(was.Keep), kept(g.Keep))
	if err := sayData(ctx, c, g, m.Profile); err != nil {
		return err
	}
	switch _, err := g.Running(); {
	case err == nil:
		fmt.Fprintf(c.out, "%s runs as it was; this waits for its next start\n", name)
	case !errors.Is(err, running.ErrAbsent):
		return err
	}
	return nil
}

func inMiB(n int64) string {
	if n == 0 {
		return "of the profile"
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

func dataWords(all []home.Data) []string {
	words := []string{}
	for _, d := range all {
		word := d.Name + "=" + d.Path
		if d.ReadOnly {
			word += ",ro"
		}
		words = append(words, printable(word))
	}
	return words
}

// change lays the options on a description.
func (s *setting) change(d *home.Description) error {
	var err error
	switch s.memory {
	case "":
	case "profile":
		d.Memory = 0
	default:
		if d.Memory, err = parseSize("--memory", s.memory); err != nil {
			return err
		}
	}
	if s.flags.Changed("cpus") {
		if s.cpus < 1 || s.cpus > hypervisor.MaxVCPUs {
			return usageError{fmt.Sprintf("--cpus %d: want 1 to %d", s.cpus, hypervisor.MaxVCPUs)}
		}
		d.VCPUs = s.cpus
	}
	if s.firmware != "" {
		if d.Firmware, err = hypervisor.ParseFirmware(s.firmware); err != nil {
			return usageError{"--" + err.Error()}
		}
	}
	if s.accel != "" {
		if d.Accel, err = hypervisor.ParseAccel(s.accel); err != nil {
			return usageError{"--accel: " + err.Error()}
		}
	}
	nets := maps.Clone(d.Nets)
	for _, n := range s.nets {
		link, what, ok := strings.Cut(n, "=")
		if !ok {
			return usageError{fmt.Sprintf("--net %s: want LINK=WHAT", n)}
		}
		if nets == nil {
			nets = map[string]string{}
		}
		nets[link] = what
	}
	d.Nets = nets
	if err := s.changeData(d); err != nil {
		return err
	}
	return s.changeKept(d)
}

func (s *setting) changeData(d *home.Description) error {
	all := slices.Clone(d.Data)
	for _, name := range s.detach {
		at := slices.IndexFunc(all, func(have home.Data) bool { return have.Name == name })
		if at < 0 {
			return usageError{fmt.Sprintf("--no-data %s: it has no data disk of that name", name)}
		}
		all = slices.Delete(all, at, at+1)
	}
	more, err := dataDisks(s.data)
	if err != nil {
		return err
	}
	for _, disk := range more {
		if at := slices.IndexFunc(all, func(have home.Data) bool { return have.Name == disk.Name }); at >= 0 {
			all[at] = disk
		} else {
			all = append(all, disk)
		}
	}
	d.Data = all
	return nil
}

func (s *setting) changeKept(d *home.Description) error {
	all := slices.Clone(d.Keep)
	for _, place := range s.drop {
		at := slices.Index(all, strings.TrimPrefix(place, stateDir))
		if at < 0 {
			return usageError{fmt.Sprintf("--no-keep %s: it is not kept", place)}
		}
		all = slices.Delete(all, at, at+1)
	}
	for _, place := range s.keep {
		if place = strings.TrimPrefix(place, stateDir); !slices.Contains(all, place) {
			all = append(all, place)
		}
	}
	if err := carry.Check(all); err != nil {
		return usageError{"--keep: " + err.Error()}
	}
	d.Keep = all
	return nil
}
