package segment

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func open(t *testing.T, dir string, limit int64) *Store {
	t.Helper()
	s, err := Open(Place{filepath.Join(dir, "log"), limit}, Place{filepath.Join(dir, "spare"), 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func write(t *testing.T, s *Store, from, n int) {
	t.Helper()
	for i := range n {
		if err := s.Append(Entry{Time: time.Unix(0, 0), From: "test", Severity: Info,
			Text: fmt.Sprintf("line %d", from+i)}); err != nil {
			t.Fatal(err)
		}
	}
}

func readAll(t *testing.T, r *Reader) (all []Entry) {
	t.Helper()
	for {
		got, err := r.Read()
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			return all
		}
		all = append(all, got...)
	}
}

// wantLines checks that entries are numbered and worded "line FIRST" to "line LAST".
func wantLines(t *testing.T, got []Entry, first, last int) {
	t.Helper()
	if len(got) != last-first+1 {
		t.Fatalf("read %d entries; want %d to %d: %v", len(got), first, last, got)
	}
	for i, e := range got {
		if e.Number != uint64(first+i) || e.Text != fmt.Sprintf("line %d", first+i) {
			t.Fatalf("entry %d = %v; want line %d", i, e, first+i)
		}
	}
}

func size(t *testing.T, dir string) (sum int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "log", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	return sum
}

func TestLogGoesOnOverOpens(t *testing.T) {
	dir := t.TempDir()
	for i := range 5 {
		s := open(t, dir, 1<<20)
		write(t, s, 1+100*i, 100)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir, 1<<20)
	wantLines(t, readAll(t, s.ReadFrom(0)), 1, 500)
	wantLines(t, readAll(t, s.ReadLast(10)), 491, 500)
	wantLines(t, readAll(t, s.ReadFrom(250)), 250, 500)
	if files, _ := filepath.Glob(filepath.Join(dir, "log", "*")); len(files) != 1 {
		t.Errorf("five opens made %v; want one segment", files)
	}
}

func TestSizeIsBounded(t *testing.T) {
	dir := t.TempDir()
	const limit = 64 << 10
	s := open(t, dir, limit)
	for i := range 100 {
		write(t, s, 1+100*i, 100)
		if n := size(t, dir); n > limit {
			t.Fatalf("after %d entries the log holds %d bytes; want %d at most", 100*(i+1), n, limit)
		}
	}
	if n := size(t, dir); n < limit/2 {
		t.Errorf("a full log holds %d bytes; want more than half of %d", n, limit)
	}
	all := readAll(t, s.ReadLast(1<<40))
	wantLines(t, all, int(all[0].Number), 10000)
	slow := readAll(t, s.ReadFrom(1))
	if want := fmt.Sprintf("%d entries were gone before they were read", all[0].Number-1); slow[0].Text != want ||
		slow[0].Number != all[0].Number-1 {
		t.Errorf("a reader from the start is told %v; want %q", slow[0], want)
	}
	wantLines(t, slow[1:], int(all[0].Number), 10000)
}

// TestTornTail cuts the last segment at every byte of its last lines, and lays rubbish after it: what was whole stays,
// and the log goes on.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1<<20)
	write(t, s, 1, 20)
	s.Close()
	files, _ := filepath.Glob(filepath.Join(dir, "log", "*.log"))
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	ends := []int{}
	for i, c := range b {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	whole := func(n int) (lines int) {
		for _, e := range ends {
			if e <= n {
				lines++
			}
		}
		return lines
	}
	for cut := ends[16]; cut <= len(b); cut++ {
		for _, tail := range []string{"", "rubbish", "\x00rubbish\n", strings.Repeat("\x00", 5000), "99 1"} {
			if err := os.WriteFile(files[0], []byte(string(b[:cut])+tail), 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir, 1<<20)
			n := whole(cut)
			write(t, s, n+1, 3)
			wantLines(t, readAll(t, s.ReadFrom(0)), 1, n+3)
			s.Close()
		}
	}
}

func TestDamageInTheMiddleCostsOnlyItself(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1<<20)
	write(t, s, 1, 30)
	s.Close()
	files, _ := filepath.Glob(filepath.Join(dir, "log", "*.log"))
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(b), "\n")
	lines[9] = strings.Repeat("\x00", 9000) + "\n"
	if err := os.WriteFile(files[0], []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	got := readAll(t, open(t, dir, 1<<20).ReadFrom(0))
	wantLines(t, got[:9], 1, 9)
	wantLines(t, got[9:], 11, 30)
}

// TestPlantedFiles: the disk may have been in a stranger's hands.
func TestPlantedFiles(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	if err := os.MkdirAll(filepath.Join(log, "00000000000000000007.log"), 0o755); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(dir, "outside")
	for name, text := range map[string]string{
		filepath.Join(log, "99999999999999999999.log"): "x",
		filepath.Join(log, "09999999999999999999.log"): "x",
		filepath.Join(log, "00000000000000000000.log"): "x",
		filepath.Join(log, "readme"):                   "x",
		outside:                                        "keep",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"00000000000000000001.log", "00000000000000000009.log"} {
		if err := os.Symlink("../outside", filepath.Join(log, name)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(Place{log, 1 << 20}, Place{filepath.Join(dir, "spare"), 1 << 20})
	if err != nil && !errors.Is(err, ErrSpare) {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Append(Entry{From: "test", Text: "line 1"}); err != nil && !errors.Is(err, ErrSpare) {
		t.Fatal(err)
	}
	wantLines(t, readAll(t, s.ReadFrom(0)), 1, 1)
	if b, err := os.ReadFile(outside); err != nil || string(b) != "keep" {
		t.Errorf("a link in the log's directory led to %q, %v; want it untouched", b, err)
	}
}

// TestSpare: the place becomes unusable under the log, which goes on in the other and tells so once; readers notice
// nothing, and at the next open the numbers go on.
func TestSpare(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 8<<10) // segments of 1 KiB: soon a new one is wanted
	write(t, s, 1, 5)
	r := s.ReadFrom(0)
	wantLines(t, readAll(t, r), 1, 5)
	if err := os.RemoveAll(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	told := 0
	for i := 6; i <= 100; i++ {
		err := s.Append(Entry{From: "test", Text: fmt.Sprintf("line %d", i)})
		switch {
		case errors.Is(err, ErrSpare):
			told++
		case err != nil:
			t.Fatal(err)
		}
	}
	if told != 1 {
		t.Errorf("told %d times that the log moved; want once", told)
	}
	wantLines(t, readAll(t, r), 6, 100)
	s.Close()
	s = open(t, dir, 8<<10)
	write(t, s, 101, 1)
	all := readAll(t, s.ReadLast(50))
	wantLines(t, all, int(all[0].Number), 101)
	if len(all) < 50 {
		t.Errorf("after the next open there are %d entries; want 50", len(all))
	}
}

func TestReadersFollow(t *testing.T) {
	s := open(t, t.TempDir(), 1<<20)
	const n, readers = 2000, 4
	var wait sync.WaitGroup
	for range readers {
		r := s.ReadFrom(1)
		wait.Go(func() {
			defer r.Close()
			var all []Entry
			for len(all) < n {
				changed := s.Changed()
				got, err := r.Read()
				if err != nil {
					t.Error(err)
					return
				}
				if all = append(all, got...); len(got) == 0 {
					<-changed
				}
			}
			for i, e := range all {
				if e.Number != uint64(i+1) {
					t.Errorf("entry %d has number %d", i+1, e.Number)
					return
				}
			}
		})
	}
	write(t, s, 1, n)
	wait.Wait()
	for _, from := range []uint64{n + 1, n + 5, 1<<64 - 1} {
		r := s.ReadFrom(from)
		write(t, s, n+1, 1)
		got, err := r.Read()
		r.Close()
		if err != nil || len(got) != 1 {
			t.Errorf("ReadFrom(%d) = %v, %v; want the next entry", from, got, err)
		}
	}
}

func TestEntry(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	for _, c := range []struct {
		e    Entry
		want string
	}{
		{Entry{1, at, 1500 * time.Millisecond, Info, "link", "lan0: up"},
			"1 2026-01-02T03:04:05.000006Z 1.500000 6 link lan0: up"},
		{Entry{2, at, 0, Warning, "a b\n", "two\nlines\x1b[2J\u2028é"},
			"2 2026-01-02T03:04:05.000006Z 0.000000 4 a-b- two lines?[2J?é"},
		{Entry{3, at, 0, Error, "", ""}, "3 2026-01-02T03:04:05.000006Z 0.000000 3 - "},
	} {
		if got := c.e.String(); got != c.want {
			t.Errorf("String = %q; want %q", got, c.want)
		}
		if got, err := Parse(c.want); err != nil || got.String() != c.want {
			t.Errorf("Parse(%q) = %v, %v", c.want, got, err)
		}
	}
	long := Entry{1, at, 0, Info, strings.Repeat("f", 100), strings.Repeat("é", 2000)}.String()
	if _, err := Parse(long); err != nil || len(long) > maxLine {
		t.Errorf("a long entry is a line of %d bytes that Parse takes with %v", len(long), err)
	}
	for _, bad := range []string{"", "x", "0 2026-01-02T03:04:05.000006Z 1.500000 6 link up",
		"01 2026-01-02T03:04:05.000006Z 1.500000 6 link up", "1 2026-01-02T03:04:05Z 1.500000 6 link up",
		"1 2026-01-02T03:04:05.000006Z 1.5 6 link up", "1 2026-01-02T03:04:05.000006Z 1.500000 8 link up",
		"1 2026-01-02T03:04:05.000006Z 1.500000 6 li_nk up", "1 2026-01-02T03:04:05.000006Z 1.500000 6 link a\tb",
		"1 2026-01-02T03:04:05.000006Z 1.500000 6 link", "1 2026-01-02T03:04:05.000006Z 01.500000 6 link up"} {
		if e, err := Parse(bad); !errors.Is(err, ErrEntry) {
			t.Errorf("Parse(%q) = %v, %v; want ErrEntry", bad, e, err)
		}
	}
}

func FuzzEntry(f *testing.F) {
	f.Add("1 2026-01-02T03:04:05.000006Z 1.500000 6 link lan0: up")
	f.Add("2 2026-01-02T03:04:05.000006Z 0.000000 4 - \xff\x00")
	f.Fuzz(func(t *testing.T, line string) {
		e, err := Parse(line)
		if err != nil {
			e = Entry{Number: 1, Severity: Info, From: line, Text: line}
		} else if e.String() != line {
			t.Errorf("Parse(%q).String() = %q", line, e.String())
		}
		s := e.String()
		if back, err := Parse(s); err != nil || back.String() != s || strings.ContainsAny(s, "\n\x1b") {
			t.Errorf("Parse(%q) = %v, %v", s, back, err)
		}
	})
}
