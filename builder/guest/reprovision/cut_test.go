package reprovision

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// cutVariable has TestKilled wait at a point for the end of the whole machine, as PLAN:POINT:BACK with _ for spaces;
// the next call looks at what that left first. With no words it only does that. CutFolder has the world meanwhile.
const (
	cutVariable       = "REMPART_TEST_CUT"
	cutFolderVariable = "REMPART_TEST_CUT_FOLDER"
	cutListVariable   = "REMPART_TEST_CUT_LIST" // has it say which points there are
)

// What is said on the console: where the power is to be cut, which points there are, and what became of one.
const (
	cutHere   = "CUT HERE"
	cutPoints = "CUT POINTS "
	cutGood   = "CUT GOOD "
)

// cut is one point at which the power is cut.
type cut struct {
	Plan, Point string
	Back        bool
}

func cutPower(t *testing.T, words string) {
	folder := os.Getenv(cutFolderVariable)
	note, dir := filepath.Join(folder, "cut.json"), filepath.Join(folder, "world")
	if b, err := os.ReadFile(note); err == nil {
		var last cut
		if err := json.Unmarshal(b, &last); err != nil {
			t.Fatal(err)
		}
		w, err := openWorld(dir)
		if err == nil {
			err = w.runner().Stop(t.Context()) // the power cut did
		}
		if err != nil {
			t.Fatal(err)
		}
		w.judge(t, last.Plan, last.Point, last.Back, true)
		if t.Failed() {
			return
		}
		fmt.Printf("\n%s%+v: %s; %s\n", cutGood, last, w.fate(t), w.kept(t))
		if err := os.Remove(note); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if words == "" {
		return
	}
	parts := strings.Split(strings.ReplaceAll(words, "_", " "), ":")
	if len(parts) != 3 || killed[parts[0]].plan == nil {
		t.Fatalf("%s is %q; want PLAN:POINT:BACK", cutVariable, words)
	}
	next := cut{parts[0], parts[1], parts[2] == "back"}
	if _, list := os.LookupEnv(cutListVariable); list {
		points := enumerate(t, next.Plan)
		fmt.Printf("\n%s%s: %s\n", cutPoints, next.Plan, strings.Join(points, ", "))
	}
	b, err := json.Marshal(next)
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	w, err := grownWorld(dir, next.Plan)
	if err == nil {
		err = os.WriteFile(note, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Sync() // what was there before is not what is tested
	err = w.run(killed[next.Plan].plan(w), func(point string) {
		if point == next.Point {
			fmt.Println("\n" + cutHere)
			select {}
		}
	})
	t.Fatalf("%s ended before %q: %v", next.Plan, next.Point, err)
}
