package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// module is the name of this module, and how the import path of each of its packages begins.
const module = "rempart"

// top is the root of the tree, seen from here.
const top = "../.."

// pkg is what `go list -json` says about a package.
type pkg struct {
	ImportPath, Name, Dir string
	Standard              bool
	Imports, Deps         []string
	TestImports           []string
	XTestImports          []string
	Module                *struct {
		Path, Dir string
		Main      bool
	}
}

// allImports are those of the package and of its tests.
func (p pkg) allImports() []string { return slices.Concat(p.Imports, p.TestImports, p.XTestImports) }

// path is the import path without the module: "builder/disk".
func (p pkg) path() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

// golist runs `go list -json` at the top of the tree.
func golist(t *testing.T, env []string, args ...string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list",
		"-json=ImportPath,Name,Dir,Standard,Imports,Deps,TestImports,XTestImports,Module"}, args...)...)
	cmd.Dir, cmd.Env = top, append(os.Environ(), env...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		t.Fatalf("go list %q: %v\n%s", args, err, complaints.Bytes())
	}
	var packages []pkg
	for d := json.NewDecoder(&out); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) == 0 {
		t.Fatalf("go list %q lists nothing", args)
	}
	return packages
}

var own struct {
	sync.Once
	packages []pkg
}

// ownPackages are all packages of this module.
func ownPackages(t *testing.T) []pkg {
	t.Helper()
	own.Do(func() { own.packages = golist(t, nil, "./...") })
	return own.packages
}

// sources are the Go files of this module, as paths from the top.
func sources(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, p := range ownPackages(t) {
		found, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			files = append(files, filepath.Join(top, p.path(), filepath.Base(f)))
		}
	}
	return files
}

// name is how a file is called in messages: from the top.
func name(file string) string { return strings.TrimPrefix(file, top+"/") }

// below tells whether an import path is prefix or lies below it.
func below(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }
