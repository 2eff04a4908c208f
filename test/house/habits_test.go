package house

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// Bounds of a file a person can hold in mind, and of a line that two windows side by side can show.
const (
	maxLines   = 500
	maxColumns = 120
)

func TestFilesAndLinesAreShort(t *testing.T) {
	for _, file := range sources(t) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
		if len(lines) > maxLines {
			t.Errorf("%s has %d lines; want %d at most: it answers more than one question", name(file), len(lines), maxLines)
		}
		for i, line := range lines {
			if n := utf8.RuneCount(line); n > maxColumns {
				t.Errorf("%s:%d has %d columns; want %d at most", name(file), i+1, n, maxColumns)
			}
		}
	}
}

// unfinished are words that promise work nobody will do.
var unfinished = regexp.MustCompile(`(?i)(//|/\*).*\b(` + "TO" + "DO|FIX" + "ME|X" + "XX" + `)\b`)

func TestNothingIsUnfinished(t *testing.T) {
	for _, file := range sources(t) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if found := unfinished.Find(b); found != nil {
			t.Errorf("%s: %s", name(file), found)
		}
	}
}

// packageDoc is how the doc comment of a package begins (go.dev/doc/comment).
var packageDoc = regexp.MustCompile(`^(Package [a-z0-9_]+|Command [a-z0-9]+) `)

func TestPackagesSayWhatTheyAre(t *testing.T) {
	for _, p := range ownPackages(t) {
		files, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		var docs []string
		for _, file := range files {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != "" {
				docs = append(docs, f.Doc.Text())
			}
		}
		if len(docs) != 1 || !packageDoc.MatchString(docs[0]) {
			t.Errorf("%s has %d package comments (%.60q); want one that begins with Package or Command and the name",
				p.ImportPath, len(docs), docs)
		}
	}
}

// foreign are libraries that tests here do without (F(x) = got; want y is enough), or that stand for a habit that is
// none of this house's.
var foreign = []string{"github.com/stretchr/testify", "go.uber.org/mock", "github.com/golang/mock",
	"github.com/google/go-cmp", "github.com/onsi", "gotest.tools", "github.com/matryer/is", "github.com/pkg/errors",
	"io/ioutil", "unsafe", "C"}

// unsafeUsers may look behind the types, each for a call of the kernel that x/sys has no wrapper for.
var unsafeUsers = map[string]string{
	"firstboot/boot":        "ioctl BLKPG, to make a partition known",
	"firstboot/init/launch": "landlock_create_ruleset and its kin",
	"firstboot/link":        "ioctl SIOCETHTOOL",
	"firstboot/link/packet": "the size of a packet socket's ancillary data",
	"firstboot/seed":        "ioctl RNDADDENTROPY",
	"firstboot/state":       "ioctl EXT4_IOC_RESIZE_FS, and quotactl",
}

func TestImports(t *testing.T) {
	for _, p := range ownPackages(t) {
		for _, imported := range p.allImports() {
			for _, f := range foreign {
				if below(imported, f) && (imported != "unsafe" || unsafeUsers[p.path()] == "") {
					t.Errorf("%s imports %s", p.ImportPath, imported)
				}
			}
		}
	}
}

// TestCalls: only a main may end the process, a library returns errors; and a skipped test says loudly what it did
// not prove.
func TestCalls(t *testing.T) {
	for _, file := range sources(t) {
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		isTest := strings.HasSuffix(file, "_test.go") || below(name(file), "test")
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			selector, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			from, _ := selector.X.(*ast.Ident)
			what := selector.Sel.Name
			where := set.Position(call.Pos())
			switch {
			case from == nil:
			case from.Name == "log" && strings.HasPrefix(what, "Fatal"),
				from.Name == "os" && what == "Exit" && !isTest && f.Name.Name != "main":
				t.Errorf("%s:%d: %s.%s outside a main; return an error", name(file), where.Line, from.Name, what)
			case what == "SkipNow", (what == "Skip" || what == "Skipf") && isTestingName(from.Name) && !loud(call):
				t.Errorf("%s:%d: want t.Skip(%q...): a test that did not run must not pass for one that did",
					name(file), where.Line, skipped)
			}
			return true
		})
	}
}

// verb is a verb of package fmt.
var verb = regexp.MustCompile(`%[-+# 0]*[0-9]*[a-z]`)

// TestFormats: what comes from outside (a name of a profile, a file) is an argument of a format and never a part of
// it, where a per cent sign in it would be obeyed.
func TestFormats(t *testing.T) {
	for _, file := range sources(t) {
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			sum, ok := n.(*ast.BinaryExpr)
			if !ok || sum.Op != token.ADD {
				return true
			}
			isFormat, called := false, false
			for _, part := range parts(sum) {
				switch p := part.(type) {
				case *ast.BasicLit:
					isFormat = isFormat || p.Kind == token.STRING && verb.MatchString(p.Value)
				case *ast.Ident:
					isFormat = isFormat || p.Name == "format"
				case *ast.CallExpr:
					called = true
				}
			}
			if isFormat && called {
				t.Errorf("%s:%d: a format is put together from what a function returns; make that an argument",
					name(file), set.Position(sum.Pos()).Line)
			}
			return false
		})
	}
}

// parts are the terms of a sum.
func parts(e ast.Expr) []ast.Expr {
	if sum, ok := e.(*ast.BinaryExpr); ok && sum.Op == token.ADD {
		return append(parts(sum.X), parts(sum.Y)...)
	}
	return []ast.Expr{e}
}

// How the reason of a skipped test or benchmark begins.
const (
	skipped    = "SKIPPED, NOT PASSED: "
	unmeasured = "SKIPPED, NOT MEASURED: "
)

func isTestingName(s string) bool { return s == "t" || s == "b" || s == "tb" || s == "f" }

// loud tells whether the reason a skip gives begins as agreed.
func loud(call *ast.CallExpr) bool {
	if len(call.Args) == 0 {
		return false
	}
	first := call.Args[0]
	for {
		sum, ok := first.(*ast.BinaryExpr)
		if !ok {
			break
		}
		first = sum.X
	}
	literal, ok := first.(*ast.BasicLit)
	if !ok {
		return false
	}
	reason, err := strconv.Unquote(literal.Value)
	return err == nil && (strings.HasPrefix(reason, skipped) || strings.HasPrefix(reason, unmeasured))
}
