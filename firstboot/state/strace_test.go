package state

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// call is a write of mke2fs as strace prints it with all of its bytes in hexadecimal.
var call = regexp.MustCompile(`pwrite64\(\d+, "((?:\\x[0-9a-f]{2})*)", (\d+), (\d+)\)`)

// zeroed is a range mke2fs has the kernel make zero.
var zeroed = regexp.MustCompile(`fallocate\(\d+, [A-Z_|]+, (\d+), (\d+)\)`)

// stagesByStrace formats a disk once under strace and returns the disk as it is after each of the writes, ours
// included.
func stagesByStrace(t *testing.T, strace string, size int64) map[string][]byte {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	script := filepath.Join(t.TempDir(), "mke2fs")
	// A thin wrapper, so that the arguments traced are those of the real format.
	text := fmt.Sprintf("#!/bin/sh\nexec %s -f -xx -s 10000000 -e trace=pwrite64,fallocate -o %s %s \"$@\"\n", strace, log,
		tool(t, "mke2fs", "e2fsprogs"))
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	traced := tools(t)
	traced.Mke2fs = script
	file := image(t, size)
	if r := traced.Prepare(context.Background(), file, size); r.Action != Formatted {
		out, _ := exec.Command(strace, "-V").CombinedOutput()
		t.Fatalf("Prepare under strace = %+v\n%s", r, out)
	}
	finished, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	stages := map[string][]byte{}
	disk := make([]byte, size)
	n := 0
	stage := func(what string) {
		stages[fmt.Sprintf("%03d %s", n, what)] = bytes.Clone(disk)
		n++
	}
	mark := newMarker([16]byte(finished[superOffset+atUUID:]))
	stage("nothing written")
	copy(disk[size-window:], mark)
	stage("marked at the end")
	copy(disk, mark)
	stage("marked at the beginning")
	trace, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(trace)) {
		if m := call.FindStringSubmatch(line); m != nil {
			b, err := strconv.Unquote(`"` + m[1] + `"`)
			if err != nil {
				t.Fatal(err)
			}
			at, _ := strconv.ParseInt(m[3], 10, 64)
			if len(b) > 4096 {
				// A large write may be cut in its middle by a power cut.
				copy(disk[at:], b[:len(b)/2/512*512])
				stage(fmt.Sprintf("half of %d bytes at %d", len(b), at))
			}
			copy(disk[at:], b)
			stage(fmt.Sprintf("%d bytes at %d", len(b), at))
		} else if m := zeroed.FindStringSubmatch(line); m != nil {
			at, _ := strconv.ParseInt(m[1], 10, 64)
			length, _ := strconv.ParseInt(m[2], 10, 64)
			clear(disk[at : at+length])
			stage(fmt.Sprintf("%d zeros at %d", length, at))
		}
	}
	clear(disk[size-window : size-window+markerSize])
	stage("mark taken from the end")
	clear(disk[:bootBlock])
	stage("mark taken away")
	if !bytes.Equal(disk, finished) {
		t.Fatal("the writes traced do not add up to the disk that was made: the test does not see all of them")
	}
	return stages
}
