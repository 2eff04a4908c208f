package pid1

import (
	"testing"

	"rempart/firstboot/child"
)

func TestHeapLimit(t *testing.T) {
	for _, c := range []struct {
		own, most int64
		want      string
	}{{0, 0, ""}, {8 << 20, 0, "8388608"}, {0, 16 << 20, "12582912"}, {8 << 20, 24 << 20, "8388608"},
		{24 << 20, 16 << 20, "12582912"}} {
		if got := heapLimit(child.Spec{MemoryLimit: c.own}, c.most); got != c.want {
			t.Errorf("heapLimit(%d, %d) = %q; want %q", c.own, c.most, got, c.want)
		}
	}
}
