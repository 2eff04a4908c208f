package debian

import (
	"bytes"
	"strings"
	"testing"
)

func TestProgressLine(t *testing.T) {
	var b bytes.Buffer
	tell := ProgressLine(&b)
	tell(Progress{Stage: StageDownload, Name: "libc6", Done: 1_000_000, Total: 4_000_000})
	if want := "\r\x1b[K 25 % of 4.0 MB, downloading libc6"; b.String() != want {
		t.Errorf("line = %q; want %q", b.String(), want)
	}
	b.Reset()
	tell(Progress{Stage: StageDownload, Name: "libc6", Done: 1_000_001, Total: 4_000_000})
	if b.Len() > 0 {
		t.Errorf("a line was drawn again at once: %q", b.String())
	}
	tell(Progress{Stage: StageUnpack, Name: strings.Repeat("x", 200), Done: 4_000_000, Total: 4_000_000})
	if line := strings.TrimPrefix(b.String(), "\r\x1b[K"); len(line) > 80 {
		t.Errorf("line of %d columns; want at most 80", len(line))
	}
	b.Reset()
	tell(Progress{Stage: StageDone})
	if want := "\r\x1b[K"; b.String() != want {
		t.Errorf("at the end %q; want %q", b.String(), want)
	}
}

func TestTracker(t *testing.T) {
	var seen []Progress
	tr := newTracker(func(p Progress) { seen = append(seen, p) })
	tr.finish()
	if len(seen) > 0 {
		t.Errorf("a tracker of nothing tells %v", seen)
	}
	tr.expect(10)
	tr.expect(20)
	a, b := tr.file("a"), tr.file("b")
	a(4)
	b(20)
	a(2) // started over
	a(10)
	tr.finish()
	last := seen[len(seen)-1]
	if len(seen) != 5 || last != (Progress{Stage: StageDone, Done: 30, Total: 30}) || seen[2].Done != 22 {
		t.Errorf("told %+v", seen)
	}
}
