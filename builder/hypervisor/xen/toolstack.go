package xen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"rempart/builder/hypervisor/qemu"
	"rempart/builder/master"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/xenstore"
)

// Toolstack is xl and the tools beside it on the host where guests run.
type Toolstack struct {
	// Run runs a program, found by PATH, and returns its standard output; what it says on standard error is part of the
	// error. nil: on this machine.
	Run func(ctx context.Context, args ...string) ([]byte, error)
	// Held is a lock that xl has from Create on until the guest is gone for good: the xl that stays behind to start the
	// guest again inherits it, and so does all that it starts. Only without Run; nil: none.
	Held *os.File
	// Store opens a connection with xenstore as dom0; nil: this machine's.
	Store func() (io.ReadWriteCloser, error)
}

// run is Run, or the same on this machine.
func (t Toolstack) run(ctx context.Context, args ...string) ([]byte, error) {
	if t.Run != nil {
		return t.Run(ctx, args...)
	}
	return t.local(ctx, nil, args...)
}

// linger is how long what a program leaves behind, such as what a hotplug script started, may keep its output open once
// it has ended. What the program itself said is there by then.
const linger = 5 * time.Second

// local runs a program on this machine, which inherits the files given.
func (t Toolstack) local(ctx context.Context, held []*os.File, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.ExtraFiles, cmd.WaitDelay = held, linger
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return out.Bytes(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(complaints.Bytes()))
	}
	return out.Bytes(), nil
}

// Errors that callers decide on.
var (
	// ErrAbsent: no such guest runs.
	ErrAbsent = errors.New("no such guest of Xen runs")
	// ErrDestroyed: the guest did not end when it was asked to, and was destroyed.
	ErrDestroyed = errors.New("the guest did not end in order and was destroyed")
	// ErrFailed: the guest says that it is closed or degraded.
	ErrFailed = errors.New("the guest failed")
)

// Dry has xl read a configuration and say what it would make of it, as JSON.
func (t Toolstack) Dry(ctx context.Context, config string) ([]byte, error) {
	return t.run(ctx, "xl", "create", "--dryrun", config)
}

// Create starts a guest from a file with its configuration.
func (t Toolstack) Create(ctx context.Context, config string) error {
	if t.Run == nil && t.Held != nil {
		_, err := t.local(ctx, []*os.File{t.Held}, "xl", "create", config)
		return err
	}
	_, err := t.run(ctx, "xl", "create", config)
	return err
}

// Host tells whether the machine whose file system is at root, "/", runs on Xen, as dom0 does
// (Documentation/ABI/stable/sysfs-hypervisor-xen).
func Host(root string) bool {
	b, err := os.ReadFile(filepath.Join(root, "sys/hypervisor/type"))
	return err == nil && strings.TrimSpace(string(b)) == "xen"
}

// Domain is a running guest as xl lists it.
type Domain struct {
	ID     int    `json:"domid"`
	Name   string `json:"name"`
	Mode   Mode   `json:"type"`
	Memory int64  `json:"memory"` // bytes it may have at most
	VCPUs  int    `json:"vcpus"`
	Disks  []Disk `json:"disks"`
	VIFs   []Port `json:"vifs"`
	Kernel string `json:"kernel,omitempty"` // file of the host; empty: its disk has it
}

// Disk is a disk of a running guest.
type Disk struct {
	Target    string `json:"target"`
	Vdev      string `json:"vdev"`
	ReadWrite bool   `json:"read_write"`
}

// Port is a vif of a running guest, by the names xl gives its properties.
type Port struct {
	MAC    string `json:"mac"`
	Bridge string `json:"bridge"`
	Name   string `json:"ifname"`
}

// listed is one entry of `xl list --long`, the part of libxl_domain_config that is of use.
type listed struct {
	Domid  int `json:"domid"`
	Config struct {
		Info struct {
			Type string `json:"type"`
			Name string `json:"name"`
		} `json:"c_info"`
		Build struct {
			MaxVCPUs  int    `json:"max_vcpus"`
			MaxMemory int64  `json:"max_memkb"`
			Kernel    string `json:"kernel"`
		} `json:"b_info"`
		Disks []struct {
			Path      string `json:"pdev_path"`
			Vdev      string `json:"vdev"`
			ReadWrite int    `json:"readwrite"`
		} `json:"disks"`
		NICs []Port `json:"nics"`
	} `json:"config"`
}

// List returns the guests that run, dom0 not among them.
func (t Toolstack) List(ctx context.Context) ([]Domain, error) {
	out, err := t.run(ctx, "xl", "list", "--long")
	if err != nil {
		return nil, err
	}
	return parseList(out)
}

func parseList(out []byte) ([]Domain, error) {
	var all []listed
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, fmt.Errorf("xl list --long: %w in %.80q", err, out)
	}
	var domains []Domain
	for _, l := range all {
		if l.Domid == 0 {
			continue
		}
		// Names go to a terminal: a guest has no say in them, but whoever made it had.
		d := Domain{ID: l.Domid, Name: qemu.Printable(l.Config.Info.Name), Mode: Mode(qemu.Printable(l.Config.Info.Type)),
			Memory: l.Config.Build.MaxMemory << 10, VCPUs: l.Config.Build.MaxVCPUs,
			VIFs: l.Config.NICs, Kernel: l.Config.Build.Kernel}
		for _, disk := range l.Config.Disks {
			d.Disks = append(d.Disks, Disk{disk.Path, disk.Vdev, disk.ReadWrite != 0})
		}
		domains = append(domains, d)
	}
	return domains, nil
}

// MasterOf is the folder of the master that a running guest boots; empty where its disk alone knows.
func (t Toolstack) MasterOf(ctx context.Context, name string) (string, error) {
	domains, err := t.List(ctx)
	if err != nil {
		return "", err
	}
	for _, d := range domains {
		if d.Name == name && filepath.Base(d.Kernel) == master.KernelFile {
			return filepath.Dir(d.Kernel), nil
		}
	}
	return "", nil
}

// ID is the number of a running guest; ErrAbsent when it does not run. dom0 is none, by whatever name: what ends a
// guest would end the host. Whether xl finds no such guest or cannot ask, its exit status does not tell (main_domid of
// xl_info.c): only where it lists the others is a guest absent.
func (t Toolstack) ID(ctx context.Context, name string) (int, error) {
	out, err := t.run(ctx, "xl", "domid", name)
	if err != nil {
		if ctx.Err() != nil {
			return 0, err
		}
		domains, errList := t.List(ctx)
		if errList != nil {
			return 0, fmt.Errorf("whether guest %s runs is not known: %w", name, errors.Join(err, errList))
		}
		for _, d := range domains {
			if d.Name == name { // it has come since
				return d.ID, nil
			}
		}
		return 0, fmt.Errorf("%w: %s: %w", ErrAbsent, name, err)
	}
	id, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		return 0, fmt.Errorf("xl domid %s: want a number, got %.40q", name, out)
	}
	if id == 0 {
		return 0, fmt.Errorf("%w: %s is dom0", ErrAbsent, name)
	}
	return id, nil
}

// readTries bounds how often a node is read that comes and goes between two looks.
const readTries = 3

// read reads nodes of xenstore as they are, one after the other; of several xenstore-read makes one transaction. Line
// ends, which it puts between them, are left out. Whether all exist is asked after they could not be read, and if so
// they are read again: the guest makes and replaces its nodes when it likes.
func (t Toolstack) read(ctx context.Context, paths ...string) ([]byte, error) {
	for try := 1; ; try++ {
		out, err := t.run(ctx, append([]string{"xenstore-read", "-R"}, paths...)...)
		if err == nil {
			return bytes.ReplaceAll(out, []byte("\n"), nil), nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		_, absent := t.run(ctx, append([]string{"xenstore-exists"}, paths...)...)
		if absent != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("%s: %w", paths[0], xenstore.ErrAbsent)
		}
		if try == readTries {
			return nil, err
		}
	}
}

// store is Store, or this machine's.
func (t Toolstack) store(ctx context.Context) (io.ReadWriteCloser, error) {
	if t.Store != nil {
		return t.Store()
	}
	return dom0Store(ctx, xenstoreSocket, xenstore.Device)
}

// Status is what a guest says of itself in one word; ErrAbsent of package xenstore while it has said nothing.
func (t Toolstack) Status(ctx context.Context, id int) (string, error) {
	b, err := t.read(ctx, xenstore.DomainPath(id)+"/"+xenstore.StatusPath)
	return qemu.Printable(string(b)), err
}

// Report is the last report of a guest, which is its claim; ErrAbsent of package xenstore while there is none.
func (t Toolstack) Report(ctx context.Context, id int) (contract.Report, error) {
	b, err := xenstore.LoadReport(func(paths ...string) ([]byte, error) {
		full := make([]string, len(paths))
		for i, path := range paths {
			full[i] = xenstore.DomainPath(id) + "/" + path
		}
		return t.read(ctx, full...)
	})
	if err != nil {
		return contract.Report{}, fmt.Errorf("report of guest %d: %w", id, err)
	}
	var found contract.Report
	n := 0
	if err := qemu.ReadReports(bytes.NewReader(b), func(r contract.Report) { found, n = r, n+1 }); err != nil {
		return contract.Report{}, fmt.Errorf("report of guest %d: %w", id, err)
	}
	if n != 1 {
		return contract.Report{}, fmt.Errorf("%w: guest %d left %d reports; want one", xenstore.ErrProtocol, id, n)
	}
	return found, nil
}

// Commands connects with the channel for commands of a running guest; see package ctl. It needs no network of the
// guest's.
func (t Toolstack) Commands(ctx context.Context, name string) (io.ReadWriteCloser, error) {
	id, err := t.ID(ctx, name)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context) (*xenstore.Conn, error) {
		f, err := t.store(ctx)
		if err != nil {
			return nil, fmt.Errorf("xenstore, which only a Xen host's root reaches: %w", err)
		}
		return xenstore.New(f), nil
	}
	return xenstore.Connect(ctx, dial, xenstore.DomainPath(id))
}

// Await waits until a guest says that it is ready, and returns its report. One that says FAILED may become ready after
// all, when a child succeeds at its next start, and so may one that xl starts again under another number: it has until
// ctx is done.
func (t Toolstack) Await(ctx context.Context, name string) (contract.Report, error) {
	var (
		id     int
		status string
		seen   bool
	)
	for {
		now, err := t.ID(ctx, name)
		if seen && err != nil && ctx.Err() == nil {
			// xl leaves two seconds between the end of a guest and its next start (xl_vmcontrol.c, create_domain), and may
			// fail while it changes what it is asked for.
			seen = false
			select {
			case <-time.After(glance):
				continue
			case <-ctx.Done():
			}
		}
		if err == nil {
			id, seen = now, true
			status, err = t.Status(ctx, id)
			if status == contract.ReadyPrefix {
				return t.Report(ctx, id)
			}
		}
		if err == nil || errors.Is(err, xenstore.ErrAbsent) {
			// The first event comes at once, the second when something has changed. A change between the look above and
			// the watch is caught by bounding it.
			bounded, cancel := context.WithTimeout(ctx, glance)
			_, err = t.run(bounded, "xenstore-watch", "-n", "2", xenstore.DomainPath(id)+"/"+xenstore.StatusPath)
			if bounded.Err() != nil {
				err = nil
			}
			cancel()
		}
		if err != nil || ctx.Err() != nil {
			if status == contract.FailedPrefix {
				r, _ := t.Report(context.WithoutCancel(ctx), id) // what it said last, if it can be had
				return r, fmt.Errorf("%w: %q", ErrFailed, r.Failures)
			}
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return contract.Report{}, fmt.Errorf("guest %s: its status is %q: %w", name, status, err)
		}
	}
}

// glance is how long a change that came between looking and watching goes unnoticed, and what xl may take to start a
// guest again.
const glance = 10 * time.Second

// Shutdown asks a guest to end in order, waits for that, and destroys it when patience is over: then the error wraps
// ErrDestroyed.
func (t Toolstack) Shutdown(ctx context.Context, name string, patience time.Duration) error {
	if _, err := t.ID(ctx, name); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, patience)
	_, err := t.run(bounded, "xl", "shutdown", "--wait", name)
	late := bounded.Err() != nil
	cancel()
	if err == nil || errors.Is(ctx.Err(), context.Canceled) || !late {
		return err
	}
	return errors.Join(fmt.Errorf("%w: it took longer than %v", ErrDestroyed, patience),
		t.Destroy(context.WithoutCancel(ctx), name))
}

// Destroy ends a guest as pulling the plug ends a machine.
func (t Toolstack) Destroy(ctx context.Context, name string) error {
	_, err := t.run(ctx, "xl", "destroy", name)
	return err
}
