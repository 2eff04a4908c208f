package house

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// licences are what a dependency may be under: those that ask for no more than a notice. The words are of the texts
// themselves.
var licences = map[string]*regexp.Regexp{
	"Apache-2.0": regexp.MustCompile(`Apache License\s+Version 2\.0`),
	"BSD": regexp.MustCompile(`Redistribution and use in source and binary forms, with or without\s+` +
		`modification, are permitted`),
	"MIT": regexp.MustCompile(`Permission is hereby granted, free of charge, to any person obtaining\s+a copy`),
}

// strings that turn a permissive text into another.
var reciprocal = regexp.MustCompile(`(?i)GNU (Lesser |Affero )?General Public License|Mozilla Public License|` +
	`Server Side Public License|Business Source License|Commons Clause`)

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying)(\.(md|txt))?$`)

// TestLicences reads the licence of every module whose code is linked, tests and tools included.
func TestLicences(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range golist(t, nil, "-deps", "-test", "./...", "tool") {
		if p.Module == nil || p.Module.Main || seen[p.Module.Path] {
			continue
		}
		seen[p.Module.Path] = true
		if kind, why := licenceOf(p.Module.Dir); kind == "" {
			t.Errorf("%s: %s; want a licence that asks for no more than a notice", p.Module.Path, why)
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d modules were looked at", len(seen))
	}
}

// licenceOf names the licence of the module in dir, or says why there is none.
func licenceOf(dir string) (kind, why string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err.Error()
	}
	for _, e := range entries {
		if !licenceFile.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err.Error()
		}
		if found := reciprocal.Find(text); found != nil {
			return "", e.Name() + " mentions the " + string(found)
		}
		for name, words := range licences {
			if words.Match(text) {
				return name, ""
			}
		}
		return "", e.Name() + " is none that is known here"
	}
	return "", "no licence file in " + dir
}

func TestLicenceOf(t *testing.T) {
	for text, want := range map[string]string{
		"Apache License\n   Version 2.0, January 2004":                                          "Apache-2.0",
		"Permission is hereby granted, free of charge, to any person obtaining a copy\nof this": "MIT",
		"GNU GENERAL PUBLIC LICENSE Version 2":                                                  "",
		"Apache License\n Version 2.0\nwith the Commons Clause":                                 "",
		"All rights reserved": "",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, why := licenceOf(dir); got != want {
			t.Errorf("licenceOf(%.30q) = %q, %q; want %q", text, got, why, want)
		}
	}
	if got, why := licenceOf(t.TempDir()); got != "" {
		t.Errorf("licenceOf an empty folder = %q, %q; want none", got, why)
	}
}

// testOnly are direct requirements that nothing but tests and tools use.
var testOnly = map[string]string{
	"github.com/santhosh-tekuri/jsonschema/v6": "judges every built-in profile by the schema that is printed",
	"golang.org/x/net":                         "ICMP and BPF of the network tests",
	"golang.zx2c4.com/wireguard":               "a peer of tunnels that is none of ours",
	"golang.zx2c4.com/wireguard/wgctrl":        "looks at tunnels, and changes them behind the link child's back",
}

// TestRequirementsAreUsed: what go.mod requires directly is imported by a program, or is said to be for tests alone.
func TestRequirementsAreUsed(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json")
	cmd.Dir = top
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	var programs, tests []string
	for _, p := range ownPackages(t) {
		programs = append(programs, p.Imports...)
		tests = slices.Concat(tests, p.TestImports, p.XTestImports)
	}
	uses := func(imports []string, path string) bool {
		return slices.ContainsFunc(imports, func(i string) bool { return below(i, path) })
	}
	for _, r := range mod.Require {
		switch used, only := uses(programs, r.Path), testOnly[r.Path] != ""; {
		case r.Indirect:
		case !used && !uses(tests, r.Path):
			t.Errorf("go.mod requires %s, which nothing imports; go mod tidy", r.Path)
		case !used && !only:
			t.Errorf("go.mod requires %s for tests alone; say why in testOnly, or do without", r.Path)
		}
	}
	for path := range testOnly {
		if !slices.ContainsFunc(mod.Require, func(r struct {
			Path     string
			Indirect bool
		}) bool {
			return r.Path == path
		}) {
			t.Errorf("testOnly names %s, which go.mod does not require", path)
		}
	}
	for _, path := range strings.Fields(`github.com/diskfs/go-diskfs github.com/u-root/u-root github.com/google/nftables
		github.com/vishvananda/netlink github.com/spf13/pflag gopkg.in/yaml.v3`) {
		if !uses(programs, path) {
			t.Errorf("no program uses %s, one of the parts this house is built on", path)
		}
	}
}
