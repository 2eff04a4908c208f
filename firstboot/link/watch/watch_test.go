package watch

import (
	"net/netip"
	"testing"
	"time"
)

func viewOf(valid, preferred time.Duration) View {
	return View{Links: map[string]Link{"lan": {Index: 3, MTU: 1500, Addresses: []Address{
		{Prefix: netip.MustParsePrefix("2001:db8::1/64"), Valid: valid, Preferred: preferred}}}},
		Out: map[string]bool{"wan": true}}
}

func TestSame(t *testing.T) {
	for _, c := range []struct {
		name      string
		told, now View
		passed    time.Duration
		want      bool
	}{
		{"nothing happens", viewOf(time.Hour, time.Minute), viewOf(time.Hour, time.Minute), 0, true},
		{"time passes", viewOf(time.Hour, 10*time.Minute), viewOf(55*time.Minute, 5*time.Minute), 5 * time.Minute, true},
		{"for ever", viewOf(Forever, Forever), viewOf(Forever, Forever), time.Hour, true},
		{"extended", viewOf(time.Hour, time.Minute), viewOf(time.Hour, time.Minute), 30 * time.Second, false},
		{"deprecated by somebody", viewOf(time.Hour, time.Hour), viewOf(time.Hour, 0), 0, false},
		{"deprecated by time", viewOf(time.Hour, time.Minute), viewOf(59*time.Minute, 0), time.Minute, true},
		{"an end", viewOf(Forever, Forever), viewOf(time.Hour, 0), 0, false},
		{"no way out", viewOf(Forever, Forever), View{Links: viewOf(Forever, Forever).Links, Out: map[string]bool{}}, 0,
			false},
		{"gone", viewOf(Forever, Forever), View{Links: map[string]Link{}, Out: map[string]bool{"wan": true}}, 0, false},
	} {
		if got := same(c.told, c.now, c.passed); got != c.want {
			t.Errorf("%s: same = %v; want %v", c.name, got, c.want)
		}
	}
}

// TestLook: whatever machine this runs on has no link that is not told as the kernel has it.
func TestLook(t *testing.T) {
	v, err := Look()
	if err != nil {
		t.Fatal(err)
	}
	for name, l := range v.Links {
		if name == "lo" || l.Index <= 0 || l.LinkLocal.IsValid() && !l.LinkLocal.IsLinkLocalUnicast() {
			t.Errorf("Look: link %s is %+v", name, l)
		}
	}
}
