package admin

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
)

// inNamespace is set where the test runs in a network namespace of its own.
const inNamespace = "REMPART_TEST_IN_NAMESPACE"

// alone runs the calling test again, as a process in a new network namespace with nothing but a loopback that is up,
// and there returns true. Go's resolver asks from many threads: a thread in a namespace would not do.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: needs root to make a network namespace")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in a namespace: %v\n%s", err, out)
	}
	return false
}

// TestPingAndResolve asks hosts and a foreign name server in a namespace of their own.
func TestPingAndResolve(t *testing.T) {
	dnsmasq, err := exec.LookPath("dnsmasq")
	if err != nil {
		t.Skipf("SKIPPED, NOT PASSED: %v", err)
	}
	if !alone(t) {
		return
	}
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, contract.LinkDir), 0o755); err != nil {
		t.Fatal(err)
	}
	server := exec.Command(dnsmasq, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
		"--bind-interfaces", "--listen-address=127.0.0.1,::1", "--pid-file=", "--user=root",
		"--local=/test/", "--host-record=fw.test,192.0.2.9,2001:db8::9")
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	if err := answers("127.0.0.1:53"); err != nil {
		t.Fatal(err)
	}
	run := func(line string) (string, error) {
		args := strings.Fields(line)
		var out bytes.Buffer
		r := ctl.Request{Call: ctl.Call{Args: args}, Stdout: &out, Stderr: &out}
		do := runResolve
		if args[0] == "ping" {
			do = runPing
		}
		err := do(context.Background(), &desk{root: root}, r)
		return out.String(), err
	}
	if _, err := run("resolve fw.test"); err == nil || !strings.Contains(err.Error(), "knows no name server") {
		t.Errorf("resolve without a server = %v; want a hint", err)
	}
	resolv := filepath.Join(root, contract.ResolvPath)
	if err := os.WriteFile(resolv, []byte("search test\nnameserver ::1\nnameserver 127.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ line, out, err string }{
		{"ping 127.0.0.1 --count 2", "2 of 2 came back", ""},
		{"ping ::1 --count 1", "1 of 1 came back", ""},
		{"ping 192.0.2.1", "", "network is unreachable"},
		{"ping", "", "want one address"},
		{"ping 127.0.0.1 --count 0", "", "want 1 to 100"},
		{"resolve fw.test", "192.0.2.9", ""},
		{"resolve fw.test.", "2001:db8::9", ""},
		{"resolve 192.0.2.9", "fw.test.", ""},
		{"resolve nobody.test --server 127.0.0.1", "", "no such host"},
		{"resolve fw.test --server nobody", "", "is no address"},
		{"resolve", "", "want one name"},
	} {
		out, err := run(tt.line)
		if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) ||
			!strings.Contains(out, tt.out) {
			t.Errorf("%s = %q, %v; want %q, %q", tt.line, out, err, tt.out, tt.err)
		}
	}
}

// answers waits until a TCP port is served.
func answers(address string) error {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return conn.Close()
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		time.Sleep(20 * time.Millisecond) // between looks; nothing announces that a port is served
	}
	return errors.New("dnsmasq did not begin to serve")
}
