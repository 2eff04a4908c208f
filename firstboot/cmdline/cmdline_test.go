package cmdline

import (
	"strings"
	"testing"
)

func TestOne(t *testing.T) {
	for _, c := range []struct {
		line, key, want string
		ok, fails       bool
	}{
		{"quiet console=ttyS0", "console", "ttyS0", true, false},
		{"quiet", "console", "", false, false},
		{"a=1 a=1", "a", "1", true, false},
		{"a=1 a=2", "a", "", false, true},
		{`a="x y" b=2`, "a", "x y", true, false},
		{`"a=x y" b=2`, "a", "x y", true, false},
		{"b=1 -- b=2", "b", "1", true, false},
		{"b= ", "b", "", true, false},
		{"b", "b", "", true, false},
		{"\n\tb=3\n", "b", "3", true, false},
		{"ab=1", "b", "", false, false},
		{"x=" + strings.Repeat("y", Max) + " b=1", "b", "", false, false},
	} {
		got, ok, err := Parse(c.line).One(c.key)
		if got != c.want || ok != c.ok || (err != nil) != c.fails {
			t.Errorf("Parse(%.40q).One(%q) = %q, %v, %v; want %q, %v, fails %v", c.line, c.key, got, ok, err, c.want, c.ok,
				c.fails)
		}
	}
}

func TestModuleParameters(t *testing.T) {
	line := Parse(`virtio_mmio.device=512@0xfeb00e00:12 virtio-mmio.device=512@0xfeb00c00:11 other.x=1 virtio_mmio.=2 ` +
		`virtio_mmio.debug virtio_mmio.note="a b" virtio_mmio=5 -- virtio_mmio.device=no`)
	for module, want := range map[string]string{
		"virtio_mmio": `device=512@0xfeb00e00:12 device=512@0xfeb00c00:11 debug note="a b"`,
		"virtio-mmio": `device=512@0xfeb00e00:12 device=512@0xfeb00c00:11 debug note="a b"`,
		"other":       "x=1",
		"virtio":      "",
	} {
		if got := line.ModuleParameters(module); got != want {
			t.Errorf("ModuleParameters(%q) = %q; want %q", module, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`console=ttyS0 rempart.verity=00,1 a="b c" x."y z"=2 -- init`)
	f.Fuzz(func(t *testing.T, line string) {
		args := Parse(line)
		total := 0
		for _, a := range args {
			total += len(a.Key) + len(a.Value)
			if strings.ContainsAny(a.Key+a.Value, `"`) {
				t.Errorf("Parse(%q) kept a quote in %+v", line, a)
			}
			args.ModuleParameters(a.Key)
			_, _, _ = args.One(a.Key)
		}
		if total > len(line) || total > Max {
			t.Errorf("Parse(%q) made %d bytes of %d", line, total, len(line))
		}
	})
}
