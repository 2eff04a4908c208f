package main

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"rempart/builder/guest/reprovision"
)

// makeForeign makes the guest web of another system's disk, with more options, in a home and a store of its own.
func makeForeign(t *testing.T, options ...string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("REMPART_GUESTS", filepath.Join(dir, "guests"))
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
	boot := make([]byte, 1<<20)
	copy(boot, "code")
	copy(boot[510:], "\x55\xaa")
	image := filepath.Join(dir, "web.raw")
	if err := os.WriteFile(image, boot, 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"create", "web", "--image", image, "--store", filepath.Join(dir, "masters")}, options...)
	if code, _, errs := rempart(args...); code != exitDone {
		t.Fatalf("rempart %q = %d, %q", args, code, errs)
	}
}

// TestVerifyNamesMaster: a report names the master by the digest that every other command knows it by.
func TestVerifyNamesMaster(t *testing.T) {
	makeForeign(t)
	g, err := openCreated("web")
	if err != nil {
		t.Fatal(err)
	}
	_, out, errs := rempart("verify", "web", "--json")
	if !strings.Contains(out, `"master": "`+g.Master+`"`) {
		t.Errorf("verify --json = %q, %q; want master %s in it", out, errs, g.Master)
	}
	found, err := examineOverlay(t.Context(), g, g.StateDisk())
	if err != nil || !strings.Contains(string(found.Report), `"master": "`+g.Master+`"`) {
		t.Errorf("the report of a change = %s, %v; want master %s in it", found.Report, err, g.Master)
	}
}

// TestVerifyForeignTrust: the key that must have signed the master is asked for whatever kind of guest it is.
func TestVerifyForeignTrust(t *testing.T) {
	makeForeign(t)
	public, _, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := public.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(key, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := rempart("verify", "web"); code != exitDone || !strings.Contains(out, "manifest: NOT signed") {
		t.Errorf("verify = %d, %q, %q; want it done, and told that nobody signed", code, out, errs)
	}
	if code, _, errs := rempart("verify", "web", "--trust", key); code != exitFailed || !strings.Contains(errs, "sign") {
		t.Errorf("verify --trust of a master that nobody signed = %d, %q; want it refused", code, errs)
	}
}

// TestTagMoves: a tag that another master had is not moved without a word, by whichever command.
func TestTagMoves(t *testing.T) {
	makeForeign(t)
	dir := t.TempDir()
	store := filepath.Join(os.Getenv("REMPART_GUESTS"), "..", "masters")
	_, before, _ := rempart("master", "list", "--store", store)
	image := filepath.Join(dir, "web.raw")
	if err := os.WriteFile(image, append([]byte("other"), make([]byte, 1<<20-5)...), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := rempart("create", "web2", "--image", image, "--store", store, "--firmware", "bios")
	if code != exitDone || !strings.Contains(errs, "the tag web meant master") ||
		!strings.Contains(before, strings.Fields(errs[strings.Index(errs, "meant master"):])[2]) {
		t.Errorf("create of another image of the name = %d, %q, %q; want it told what the tag meant, of\n%s", code, out, errs,
			before)
	}
	if code, _, errs := rempart("create", "web3", "--image", image, "--store", store, "--firmware",
		"bios"); code != exitDone ||
		strings.Contains(errs, "meant") {
		t.Errorf("create of the same image again = %d, %q; want no word of the tag", code, errs)
	}
}

// TestSetForeignNet: a link that the guest is asked by whether it is healthy stays where it can be.
func TestSetForeignNet(t *testing.T) {
	makeForeign(t, "--net", "net0=user", "--healthy-tcp", "22")
	code, _, errs := rempart("set", "web", "--net", "net0=none")
	if code != exitUsage || !strings.Contains(errs, "user-mode network") {
		t.Errorf("set --net of the link it is asked by = %d, %q; want it refused", code, errs)
	}
	if code, out, errs := rempart("set", "web", "--memory", "2G"); code != exitDone || !strings.Contains(out, "2048 MiB") {
		t.Errorf("set --memory = %d, %q, %q; want it done", code, out, errs)
	}
}

// TestRollbackWithoutKey: a change is taken back without the key that was to sign its evidence, and goes on only with
// it.
func TestRollbackWithoutKey(t *testing.T) {
	makeForeign(t)
	g, err := lockCreated("web", "a test")
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	o, err := transactionOptions(&console{err: &errs}, g, time.Minute, signingKey{})
	if err == nil {
		_, err = reprovision.Begin(t.Context(), g, reprovision.Plan{Kind: reprovision.Reprovision, To: g.Master,
			State: reprovision.Empty, Size: g.State, Key: filepath.Join(t.TempDir(), "gone")}, o)
	}
	g.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if code, _, errs := rempart("resume", "web"); code != exitFailed || !strings.Contains(errs, "key") {
		t.Errorf("resume without the key = %d, %q; want it refused", code, errs)
	}
	if code, out, errs := rempart("rollback", "web"); code != exitDone || !strings.Contains(out, "as it was before") {
		t.Errorf("rollback without the key = %d, %q, %q; want it done", code, out, errs)
	}
}
