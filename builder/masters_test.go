package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMasterUsage: what is wrong with a call is told before the store is touched.
func TestMasterUsage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	for _, words := range []string{"", "frobnicate", "show", "diff a", "tag a", "list x", "export a", "sign a b"} {
		code, _, errs := rempart(append([]string{"master", "--store", dir}, strings.Fields(words)...)...)
		if code != exitUsage || errs == "" {
			t.Errorf("master %s = %d, %q; want wrong usage", words, code, errs)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("master %s made the store", words)
		}
	}
	for words, want := range map[string]string{
		"list":               "DIGEST",
		"prune":              "0 masters gone",
		"show none":          "no such master",
		"untag none":         "there is no tag",
		"trust junk":         "want NAME --key FILE",
		"import /dev/null":   "importing a master",
		"sign abcdef":        "want --key FILE",
		"tag abcdef UPPER":   "lower-case",
		"export abcdef /x/y": "no such master",
	} {
		_, out, errs := rempart(append([]string{"master", "--store", dir}, strings.Fields(words)...)...)
		if !strings.Contains(out+errs, want) {
			t.Errorf("master %s = %q, %q; want %q", words, out, errs, want)
		}
	}
}

// TestImportTellsWhich: of a file that is no exported master, or only its beginning, it is told which that is.
func TestImportTellsWhich(t *testing.T) {
	dir := t.TempDir()
	makeForeign(t)
	whole := filepath.Join(dir, "whole.tar.zst")
	at := filepath.Join(filepath.Dir(os.Getenv("REMPART_GUESTS")), "masters")
	if code, _, errs := rempart("master", "export", "web", whole, "--store", at); code != exitDone {
		t.Fatalf("master export = %d, %q", code, errs)
	}
	b, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		content []byte
		want    string
	}{
		"text":  {[]byte("root:x:0:0:root:/root:/bin/bash\n"), "no master that was exported"},
		"cut":   {b[:len(b)/2], "cut off"},
		"empty": {nil, "lacks manifest.json"},
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		code, _, errs := rempart("master", "import", file, "--store", filepath.Join(dir, "store"))
		if code != exitFailed || !strings.Contains(errs, file) || !strings.Contains(errs, tt.want) {
			t.Errorf("master import of %s = %d, %q; want 1, with the file and %q", name, code, errs, tt.want)
		}
	}
}
