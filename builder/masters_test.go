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
