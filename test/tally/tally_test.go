package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTally runs the program over packages that pass, fail, skip, crash, hang and do not compile.
func TestTally(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":         "module m\n\ngo 1.26\n",
		"good/a_test.go": test(`t.Run("x", func(t *testing.T) {}); t.Run("y", func(t *testing.T) {})`),
		"some/a_test.go": test(`t.Run("x", func(t *testing.T) {})
			t.Run("y", func(t *testing.T) { t.Skip("SKIPPED, NOT PASSED: no luck") })`),
		"bad/a_test.go":     test(`t.Run("x", func(t *testing.T) { t.Error("worse than expected") })`),
		"wordy/a_test.go":   test(`t.Log("first"); t.Error("1\n2\n3\n4\n5")`),
		"long/a_test.go":    test(`for range 40 { t.Log("on the way") }; t.Fatal("what it fails by")`),
		"alone/a_test.go":   test(`t.Run("x", func(t *testing.T) {}); t.Error("its own")`),
		"crash/a_test.go":   test(`panic("broken to bits")`),
		"exit/a_test.go":    test(`os.Exit(3)`),
		"unsound/a_test.go": test(`undefined()`),
		"silent/a_test.go":  test(``) + "func TestMain(*testing.M) { fmt.Println(\"SKIPPED: no root\"); os.Exit(0) }\n",
		"dropout/a_test.go": test(``) +
			"func TestMain(m *testing.M) { m.Run(); fmt.Println(\"cannot tidy up\"); os.Exit(1) }\n",
		"untested/a.go":     "package a\n",
		"late/late_test.go": test(`select {}`),
		"noted/noted_test.go": test(``) +
			"func TestMain(m *testing.M) { fmt.Println(\"NOTE: look\"); os.Exit(m.Run()) }\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "tally")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, c := range []struct {
		parts string
		code  int
		last  string
		has   []string
	}{
		{"-- all ./good", 0, "2 passed, 0 failed, 0 skipped", []string{"== all\n", "ok   m/good "}},
		{"-- all ./good ./untested", 0, "2 passed, 0 failed, 0 skipped", nil},
		{"-- one ./good -- two ./some", 0, "3 passed, 0 failed, 1 skipped",
			[]string{"== two\n", "== SKIPPED, NOT PASSED\n  m/some TestIt/y: SKIPPED, NOT PASSED: no luck\n"}},
		{"-- one ./bad -- two ./good", 1, "2 passed, 1 failed, 0 skipped",
			[]string{"worse than expected", "== FAILED\n  m/bad TestIt/x\n      a_test.go:12: worse than expected\n"}},
		{"-- all ./wordy", 1, "0 passed, 1 failed, 0 skipped",
			[]string{"  m/wordy TestIt\n      a_test.go:12: first\n" +
				"      a_test.go:12: 1\n      2\n      3\n0 passed"}},
		{"-- all ./long", 1, "0 passed, 1 failed, 0 skipped",
			[]string{"  m/long TestIt\n      a_test.go:12: on the way\n", "      (25 lines)\n",
				"      a_test.go:12: what it fails by\n0 passed"}},
		{"-- all ./alone", 1, "1 passed, 1 failed, 0 skipped", []string{"  m/alone TestIt\n"}},
		{"-- all ./crash ./good", 1, "2 passed, 1 failed, 0 skipped",
			[]string{"broken to bits", "  m/crash TestIt\n      panic: broken to bits"}},
		{"-- all ./exit", 1, "0 passed, 1 failed, 0 skipped", []string{"  m/exit TestIt\n"}},
		{"-- all ./unsound ./good", 1, "2 passed, 1 failed, 0 skipped",
			[]string{"undefined: undefined", "  m/unsound, outside of its tests\n"}},
		{"-- all ./silent", 0, "0 passed, 0 failed, 1 skipped", []string{"  m/silent, all of it: SKIPPED: no root\n"}},
		{"-- all ./dropout", 1, "1 passed, 1 failed, 0 skipped", []string{"cannot tidy up"}},
		{"-- all ./nothing", 1, "0 passed, 1 failed, 0 skipped", []string{"nothing"}},
		{"-- all -timeout 2s ./late", 1, "0 passed, 1 failed, 0 skipped", []string{"  m/late TestIt\n"}},
		{"-- all ./noted", 0, "1 passed, 0 failed, 0 skipped", []string{"\nNOTE: look\n"}},
	} {
		cmd := exec.Command(program, append([]string{filepath.Join(dir, "log")}, strings.Fields(c.parts)...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=")
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		code := 0
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if code != c.code || !strings.HasSuffix(string(out), "\n"+c.last+"\n") {
			t.Errorf("tally %s = %d, %s; want %d and at the end %q", c.parts, code, out, c.code, c.last)
		}
		for _, h := range c.has {
			if !strings.Contains(string(out), h) {
				t.Errorf("tally %s prints %s; want %q in it", c.parts, out, h)
			}
		}
	}
}

// test is a file with one test.
func test(body string) string {
	return "package a\n\nimport (\n\t\"fmt\"\n\t\"os\"\n\t\"testing\"\n)\n\nvar _, _ = fmt.Println, os.Exit\n\n" +
		"func TestIt(t *testing.T) {\n" + body + "\n}\n\n"
}

// FuzzLine holds that no line, of whatever the tests print, stops the count.
func FuzzLine(f *testing.F) {
	f.Add([]byte(`{"Action":"run","Package":"m","Test":"T"}`))
	f.Add([]byte(`{"Action":"fail","Package":"m"}`))
	f.Add([]byte("go: no such thing\n"))
	f.Fuzz(func(_ *testing.T, line []byte) {
		r := &results{out: io.Discard, log: io.Discard}
		r.line(line)
		r.line(line)
		r.endPart()
		r.summary()
	})
}
