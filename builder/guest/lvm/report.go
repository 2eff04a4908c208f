package lvm

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Group is a volume group.
type Group struct {
	Name   string
	Extent int64 // bytes: the size of each volume is a multiple
	Free   int64 // bytes
}

// Volume is a logical volume.
type Volume struct {
	Name   string
	Size   int64  // bytes
	Pool   string // its thin pool; empty: it is none of a pool
	Origin string // of which it is a snapshot; empty: of none
	Active bool   // it has a device
	Open   bool   // somebody has the device open: a mount, a hypervisor, another mapping
	// IsPool tells that it is a thin pool, and Zero that what a pool gives to a volume is zero at first.
	IsPool, Zero bool
	ReadOnly     bool
	Invalid      bool    // a thick snapshot that was full, and is lost
	Used         float64 // percent of it that hold data: of thin volumes, thin pools and thick snapshots; else 0
}

// Places of lv_attr (lvs(8), "Notes").
const (
	attrType       = 0 // "t": thin pool
	attrPermission = 1 // "r", and "R" where the activation alone is read-only
	attrState      = 4 // "I", "S": invalid snapshot
	attrZero       = 7 // "z"
	attrLen        = 10
)

// Group reports a volume group.
func (t Tools) Group(ctx context.Context, name string) (Group, error) {
	out, err := t.run(ctx, "vgs", "--reportformat", "json", "--units", "b", "--nosuffix", "--options",
		"vg_name,vg_extent_size,vg_free", name)
	if err != nil {
		return Group{}, err
	}
	return parseGroup(out, name)
}

// Volumes reports those of a volume group, by name.
func (t Tools) Volumes(ctx context.Context, group string) (map[string]Volume, error) {
	out, err := t.run(ctx, "lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "--options",
		"lv_name,lv_size,lv_attr,pool_lv,origin,lv_active,lv_device_open,data_percent", group)
	if err != nil {
		return nil, err
	}
	return parseVolumes(out)
}

// report is what lvm2 prints as JSON: every value is text.
type report struct {
	Report []struct {
		VG []struct {
			Name   string `json:"vg_name"`
			Extent string `json:"vg_extent_size"`
			Free   string `json:"vg_free"`
		} `json:"vg"`
		LV []struct {
			Name   string `json:"lv_name"`
			Size   string `json:"lv_size"`
			Attr   string `json:"lv_attr"`
			Pool   string `json:"pool_lv"`
			Origin string `json:"origin"`
			Active string `json:"lv_active"`
			Open   string `json:"lv_device_open"`
			Used   string `json:"data_percent"`
		} `json:"lv"`
	} `json:"report"`
}

func parseGroup(b []byte, name string) (g Group, err error) {
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return g, fmt.Errorf("%w: %w", ErrReport, err)
	}
	for _, part := range r.Report {
		for _, vg := range part.VG {
			if vg.Name != name {
				continue
			}
			g.Name = name
			if g.Extent, err = size(vg.Extent); err == nil {
				g.Free, err = size(vg.Free)
			}
			if err == nil && g.Extent == 0 {
				err = fmt.Errorf("%w: extents of no bytes", ErrReport)
			}
			return g, err
		}
	}
	return g, fmt.Errorf("%w: nothing about volume group %s", ErrReport, name)
}

func parseVolumes(b []byte) (map[string]Volume, error) {
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReport, err)
	}
	all := map[string]Volume{}
	for _, part := range r.Report {
		for _, lv := range part.LV {
			n, err := size(lv.Size)
			if err != nil || lv.Name == "" || len(lv.Attr) < attrLen {
				return nil, fmt.Errorf("%w: volume %.140q of %.40q bytes with attributes %.40q", ErrReport, lv.Name, lv.Size,
					lv.Attr)
			}
			v := Volume{Name: lv.Name, Size: n, Pool: lv.Pool, Origin: lv.Origin, Active: lv.Active != "", Open: lv.Open != "",
				IsPool: lv.Attr[attrType] == 't', Zero: lv.Attr[attrZero] == 'z',
				ReadOnly: strings.ContainsRune("rR", rune(lv.Attr[attrPermission])),
				Invalid:  strings.ContainsRune("IS", rune(lv.Attr[attrState]))}
			if lv.Used != "" {
				if v.Used, err = strconv.ParseFloat(lv.Used, 64); err != nil || !(v.Used >= 0 && v.Used <= 100) {
					return nil, fmt.Errorf("%w: volume %.140q is used by %.40q percent", ErrReport, lv.Name, lv.Used)
				}
			}
			all[lv.Name] = v
		}
	}
	return all, nil
}

// size reads a number of bytes.
func size(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%w: %.40q is no number of bytes", ErrReport, text)
	}
	return n, nil
}
