//go:build !guest

package profiles

import (
	"strconv"

	"gopkg.in/yaml.v3"
)

// Patterns of data disks, for editors.
var (
	diskPattern  = `^[a-z0-9-]{1,` + strconv.Itoa(MaxDiskName) + `}$`
	mountPattern = `^` + DisksDir + `(/[A-Za-z0-9_][A-Za-z0-9._-]{0,` + strconv.Itoa(maxMountName-1) + `}){1,` +
		strconv.Itoa(maxMountDepth) + `}$`
)

// diskFields are the keys of a data disk.
func diskFields() table[Disk] {
	return table[Disk]{
		{name: "at", doc: "Where it is mounted, below " + DisksDir + ". Default: " + DisksDir + "/NAME.",
			kind: textLike(mountPattern), decode: readMount},
		{name: "exec", doc: "true: programs on it may be run. Default: false.", kind: yesOrNo(),
			decode: func(r *reader, v value, d *Disk) { d.Exec, _ = r.boolean(v) }},
		{name: "optional", doc: "true: the guest is READY without it. Default: false; whatever becomes of the disk, the" +
			" guest does all that does not need it.", kind: yesOrNo(),
			decode: func(r *reader, v value, d *Disk) { d.Optional, _ = r.boolean(v) }},
		{name: "read-only", doc: "true: mounted read-only, and never formatted, checked or grown; what its journal holds" +
			" is written all the same unless it is attached read-only. Default: false.", kind: yesOrNo(),
			decode: func(r *reader, v value, d *Disk) { d.ReadOnly, _ = r.boolean(v) }},
	}
}

func readDisks(r *reader, v value, p *Profile) {
	const what = "a mapping such as logs: /srv/logs, or tools: {at: /srv/tools, read-only: true}"
	whole := len(r.findings)
	r.filled(v, what)
	for _, entry := range r.entries(v, what, MaxDisks) {
		d := Disk{Name: entry.key.Value, At: entry.keyPos()}
		before := len(r.findings)
		if entry.node.Kind == yaml.MappingNode {
			diskFields().read(r, entry, &d)
		} else {
			readMount(r, entry, &d)
		}
		if d.Mount == "" {
			if d.Mount = DisksDir + "/" + d.Name; len(r.findings) > before {
				r.places.spoil("disks.%s.at", d.Name)
			}
		}
		p.Disks = append(p.Disks, d)
	}
	if len(r.findings) > whole {
		r.places.spoil("disks")
	}
}

func readMount(r *reader, v value, d *Disk) {
	if text, ok := r.word(v, "a folder below "+DisksDir+" such as "+DisksDir+"/logs"); ok {
		d.Mount = text
		r.places.put(v.pos(), "disks.%s.at", d.Name)
		if text == "" {
			r.expected(v, "a folder below "+DisksDir, "")
		}
	}
}

// readLogDisk reads which data disk the log is kept on.
func readLogDisk(r *reader, v value, l *Logging) {
	if text, ok := r.word(v, "the name of a data disk"); ok {
		l.Disk = text
		r.places.put(v.pos(), "logging.disk")
		if text == "" {
			r.expected(v, "the name of a data disk", "")
		}
	}
}
