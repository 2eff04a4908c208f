package build

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMasterStore publishes a master, moves it to another store as one file, and has it signed and verified on the way.
func TestMasterStore(t *testing.T) {
	dir := t.TempDir()
	here, there, file := filepath.Join(dir, "here"), filepath.Join(dir, "there"), filepath.Join(dir, "fw.tar.zst")
	key := filepath.Join(dir, "key")
	if out, err := exec.Command("minisign", "-G", "-W", "-p", key+".pub", "-s", key).CombinedOutput(); err != nil {
		t.Fatalf("minisign -G: %v (apt-get install minisign)\n%s", err, out)
	}
	for _, step := range []struct {
		words string
		code  int
		want  string
	}{
		{"build " + profile + " --publish --renew-lock --store " + here, 0, "published as fw-1"},
		{"master list --store " + here, 0, "nobody trusted"},
		{"master verify fw-1 --store " + here, 1, "not signed"},
		{"master sign fw-1 --key " + key + " --store " + here, 0, ""},
		{"master export fw-1 " + file + " --store " + here, 0, ""},
		{"master import " + file + " --store " + there, 1, "not signed by a trusted key"},
		{"master trust me --key " + key + ".pub --store " + there, 0, ""},
		{"master import " + file + " --store " + there, 0, "signed by me"},
		{"master verify fw-1 --store " + there, 0, "every byte as its manifest says, signed by me"},
		{"master tag fw-1 stable --store " + there, 0, ""},
		{"master diff fw-1 stable --store " + there, 0, ""},
		{"master rm fw-1 --store " + there, 0, ""},
		{"master show stable --store " + there, 1, "no such master"},
	} {
		cmd := exec.Command(rempart(t), strings.Fields(step.words)...)
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != step.code || !strings.Contains(string(out), step.want) {
			t.Fatalf("rempart %s = %d\n%s\nwant %d and %q", step.words, cmd.ProcessState.ExitCode(), out, step.code, step.want)
		}
	}
}
