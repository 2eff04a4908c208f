package debian

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// testKey is made once: it takes a moment.
var testKey = sync.OnceValue(newTestKey)

func newTestKey() *openpgp.Entity {
	key, err := openpgp.NewEntity("test archive", "", "archive@example.org",
		&packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		panic(err)
	}
	return key
}

// testPackage is one package of a test archive.
type testPackage struct {
	name, version, arch string
	fields              string // further lines of its paragraph: "Depends: x\n"
	suite               string // empty for trusty
	packing             string // of data.tar: "", "gz", "xz", "zst"; empty means gz
	files               map[string]string
}

// trusty is the release of test archives: no name Debian ever used.
const trusty = "trusty"

func (p testPackage) pool() string {
	version := p.version
	if _, rest, ok := strings.Cut(version, ":"); ok {
		version = rest
	}
	return "pool/main/" + p.name[:1] + "/" + p.name + "/" + p.name + "_" + version + "_" + p.arch + ".deb"
}

func (p testPackage) paragraph() string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\n%s", p.name, p.version, p.arch, p.fields)
}

// deb is the package as a .deb.
func (p testPackage) deb(t testing.TB) []byte {
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	must(t, w.WriteHeader(&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}))
	names := make([]string, 0, len(p.files))
	for name := range p.files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		must(t, w.WriteHeader(&tar.Header{Name: "./" + name, Typeflag: tar.TypeReg, Mode: 0o644,
			Size: int64(len(p.files[name]))}))
		_, err := io.WriteString(w, p.files[name])
		must(t, err)
	}
	must(t, w.Close())
	var control bytes.Buffer
	w = tar.NewWriter(&control)
	text := p.paragraph() + "Description: a test\n"
	must(t, w.WriteHeader(&tar.Header{Name: "./control", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}))
	_, err := io.WriteString(w, text)
	must(t, err)
	must(t, w.Close())
	packing := p.packing
	if packing == "" {
		packing = "gz"
	}
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range []struct {
		name    string
		content []byte
	}{
		{"debian-binary", []byte("2.0\n")},
		{"control.tar.xz", pack(t, "xz", control.Bytes())},
		{"data.tar." + packing, pack(t, packing, data.Bytes())},
	} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.content))
		b.Write(m.content)
		if len(m.content)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func pack(t testing.TB, packing string, content []byte) []byte {
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch packing {
	case "gz":
		w = gzip.NewWriter(&b)
	case "xz":
		w, err = xz.NewWriter(&b)
	case "zst":
		w, err = zstd.NewWriter(&b)
	default:
		t.Fatalf("packing %q", packing)
	}
	must(t, err)
	_, err = w.Write(content)
	must(t, err)
	must(t, w.Close())
	return b.Bytes()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testArchive is a signed archive as a map of files, and knobs to get it wrong.
type testArchive struct {
	key      *openpgp.Entity
	release  map[string]func(string) string // by suite: changes the text before it is signed
	date     time.Time
	packages []testPackage
}

func newTestArchive(packages ...testPackage) *testArchive {
	return &testArchive{key: testKey(), release: map[string]func(string) string{}, date: time.Now().Add(-time.Hour),
		packages: packages}
}

// files are all files of the archive by path.
func (a *testArchive) files(t testing.TB) map[string][]byte {
	files := map[string][]byte{}
	index := map[string]*strings.Builder{}
	for _, suite := range suitesOf(trusty) {
		index[suite] = &strings.Builder{}
	}
	for _, p := range a.packages {
		content := p.deb(t)
		files[p.pool()] = content
		suite := p.suite
		if suite == "" {
			suite = trusty
		}
		fmt.Fprintf(index[suite], "%sFilename: %s\nSize: %d\nSHA256: %x\n\n", p.paragraph(), p.pool(), len(content),
			sha256.Sum256(content))
	}
	for suite, text := range index {
		packed := pack(t, "xz", []byte(text.String()))
		sum := fmt.Sprintf("%x", sha256.Sum256(packed))
		dir := "dists/" + suite + "/main/binary-amd64"
		files[dir+"/Packages.xz"] = packed
		files[dir+"/by-hash/SHA256/"+sum] = packed
		label := "Debian"
		if strings.HasSuffix(suite, securitySuffix) {
			label = "Debian-Security"
		}
		release := fmt.Sprintf("Origin: Debian\nLabel: %s\nSuite: stable\nCodename: %s\nDate: %s\nAcquire-By-Hash: yes\n"+
			"Architectures: all amd64\nNo-Support-for-Architecture-all: Packages\nComponents: main\nSHA256:\n"+
			" %s %d main/binary-amd64/Packages.xz\n",
			label, suite, a.date.UTC().Format(time.RFC1123), sum, len(packed))
		if change := a.release[suite]; change != nil {
			release = change(release)
		}
		files["dists/"+suite+"/InRelease"] = sign(t, a.key, release)
	}
	return files
}

func sign(t testing.TB, key *openpgp.Entity, text string) []byte {
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, key.PrivateKey, nil)
	must(t, err)
	_, err = io.WriteString(w, text)
	must(t, err)
	must(t, w.Close())
	return b.Bytes()
}

// write lays the archive into a directory.
func (a *testArchive) write(t testing.TB, dir string) {
	for name, content := range a.files(t) {
		file := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, content, 0o644))
	}
}

// testServer serves files and counts and logs requests. Hooks may answer in place of it.
type testServer struct {
	*httptest.Server
	mu       sync.Mutex
	files    map[string][]byte
	requests []string
	hook     func(w http.ResponseWriter, r *http.Request, content []byte) bool
}

func serve(t testing.TB, files map[string][]byte) *testServer {
	s := &testServer{files: files}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		s.mu.Lock()
		line := name
		if from := r.Header.Get("Range"); from != "" {
			line += " " + from
		}
		s.requests = append(s.requests, line)
		content, ok := s.files[name]
		hook := s.hook
		s.mu.Unlock()
		if hook != nil && hook(w, r, content) {
			return
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, path.Base(name), time.Time{}, bytes.NewReader(content))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *testServer) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// newTestStore is a store that believes the test key and does not wait long.
func newTestStore(t testing.TB, mirror string) *Store {
	return newTestStoreAt(t, t.TempDir(), mirror)
}

func newTestStoreAt(t testing.TB, cache, mirror string) *Store {
	s, err := OpenStore(Options{CacheDir: cache, Mirror: mirror, AptDir: filepath.Join(t.TempDir(), "no-apt")})
	must(t, err)
	s.keys = openpgp.EntityList{testKey()}
	s.backoff = time.Millisecond
	s.stallTimeout = 500 * time.Millisecond
	return s
}

// twoPackages are enough for most tests: tool depends on lib.
func twoPackages() []testPackage {
	return []testPackage{
		{name: "tool", version: "1.2-3", arch: "amd64", fields: "Depends: lib (>= 1:1)\n",
			files: map[string]string{"usr/bin/tool": strings.Repeat("tool ", 40_000)}},
		{name: "lib", version: "1:2~rc1-1", arch: "all", packing: "xz", files: map[string]string{"usr/share/lib/a": "aaa",
			"usr/share/lib/b": ""}},
	}
}

var toolRoot = []Root{{"tool", FollowAll, "a test"}}

// files lists what a cache holds, without the indices.
func cacheFiles(t testing.TB, s *Store) []string {
	var found []string
	err := filepath.WalkDir(s.options.CacheDir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(p, "/indices/") {
			found = append(found, strings.TrimPrefix(p, s.options.CacheDir+"/"))
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return found
}
