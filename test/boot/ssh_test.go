package boot

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"rempart/builder/guest"
	"rempart/builder/hypervisor"
	client "rempart/builder/ssh"
	"rempart/builder/virtualnet"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
	"rempart/test/rig"
)

// sshKey makes a key: its private half in a file, its public half as a line.
func sshKey(t *testing.T) (file, line string) {
	t.Helper()
	k := rig.NewKey(t)
	return k.Write(t, t.TempDir()), k.Line
}

// relay makes a port of this machine lead to an address in the virtual network, and returns it.
func relay(t *testing.T, h *virtualnet.Host, from netip.Addr, to netip.AddrPort) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	t.Cleanup(func() { cancel(); l.Close(); wait.Wait() })
	wait.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer near.Close()
				far, err := h.DialTCP(ctx, from, to)
				if err != nil {
					return
				}
				defer far.Close()
				defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
				wait.Go(func() { _, _ = io.Copy(far, near); far.Close() })
				_, _ = io.Copy(near, far)
			})
		}
	})
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// syslogServer keeps what a host of the virtual network is sent.
type syslogServer struct {
	mu  sync.Mutex
	all []string
}

func (s *syslogServer) serve(c net.PacketConn) {
	b := make([]byte, 4096)
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.all = append(s.all, string(b[:n]))
		s.mu.Unlock()
	}
}

func (s *syslogServer) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.all {
		if strings.Contains(m, text) {
			return true
		}
	}
	return false
}

const sshProfile = `rempart: 1
name: gate
memory: 128M
state: 32M
admin: {from: inside, keys: %q, shell: true, console: open}
links:
  out: {address: 203.0.113.2/24, gateway: 203.0.113.1}
  in: {address: [10.3.0.1/24, "fd00:3::1/64"]}
zones: {internet: out, inside: in}
policy:
  - inside -> self: ping
disks: {logs: /srv/logs, tools: {at: /srv/our/tools, exec: true}}
logging: {drops: internet, to: 10.3.0.9, disk: logs}
`

// TestSSH lets OpenSSH, and rempart's own client, into a guest over IPv4 and IPv6, from where its policy lets admins
// in; strangers see nothing, and the log, here and on a syslog server, says that they tried.
func TestSSH(t *testing.T) {
	t.Parallel()
	inProfile, line := sshKey(t)
	onDisk, diskLine := sshKey(t)
	stranger, _ := sshKey(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "gate.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, sshProfile, line+" alice"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := rig.Build(t, file)
	disk := filepath.Join(dir, "identity.raw")
	id, err := guest.EnsureIdentity(disk, "gate-7", m.Profile, []byte(diskLine+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	for i, mac := range hypervisor.MACs(m.Profile.Name, m.Manifest.Links) { // those the rig gives NICs
		for j := range id.Links {
			if id.Links[j].Name == m.Manifest.Links[i] {
				id.Links[j].MAC = mac.String()
			}
		}
	}
	if err := guest.WriteIdentity(disk, id); err != nil {
		t.Fatal(err)
	}
	hostSigner, err := ssh.ParsePrivateKey(id.Secret(identity.ConsumerSSH, identity.SSHHostKey))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	host := func(name string, last byte, addresses ...string) (*virtualnet.Segment, *virtualnet.Host) {
		s := virtualnet.NewSegment(name, log)
		t.Cleanup(s.Close)
		var all []netip.Prefix
		for _, a := range addresses {
			all = append(all, netip.MustParsePrefix(a))
		}
		h, err := s.NewHost(name, net.HardwareAddr{2, 0, 0x5e, 0, 0x55, last}, all)
		if err != nil {
			t.Fatal(err)
		}
		return s, h
	}
	outside, far := host("stranger", 1, "203.0.113.1/24")
	inside, near := host("admin", 2, "10.3.0.9/24", "fd00:3::9/64")
	server := &syslogServer{}
	socket, err := near.UDP(netip.MustParseAddrPort("10.3.0.9:514"), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	go server.serve(socket)

	data := newDataDisks(t)
	g := m.Boot(t, rig.Options{Backends: wires(2), Identity: disk, Data: data})
	outside.PlugGuest(g.Guest.Wires[0])
	inside.PlugGuest(g.Guest.Wires[1])
	r := g.AwaitReady()
	if len(r.Warnings) > 0 {
		t.Errorf("warnings %q; want none", r.Warnings)
	}
	judgeDataDisks(t, r)
	ports := map[string]string{
		"IPv4": relay(t, near, netip.MustParseAddr("10.3.0.9"), netip.MustParseAddrPort("10.3.0.1:22")),
		"IPv6": relay(t, near, netip.MustParseAddr("fd00:3::9"), netip.MustParseAddrPort("[fd00:3::1]:22")),
	}
	hosts := filepath.Join(dir, "known_hosts")
	openssh := func(port, key string, words ...string) *exec.Cmd {
		known := "[127.0.0.1]:" + port + " " + string(ssh.MarshalAuthorizedKey(hostSigner.PublicKey()))
		if err := os.WriteFile(hosts, []byte(known), 0o600); err != nil {
			t.Fatal(err)
		}
		return exec.CommandContext(t.Context(), "ssh", append([]string{"-F", "none", "-p", port, "-i", key,
			"-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "UserKnownHostsFile=" + hosts,
			"-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "127.0.0.1"},
			words...)...)
	}
	for family, port := range ports {
		for _, key := range []string{inProfile, onDisk} {
			out, err := openssh(port, key, "status", "--json").Output()
			var r contract.Report
			if err != nil || json.Unmarshal(out, &r) != nil || r.Name != "gate-7" || !r.Ready {
				t.Errorf("status by %s = %s, %v", family, out, err)
			}
		}
	}
	port := ports["IPv4"]
	out, err := openssh(port, stranger, "status").CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("Permission denied (publickey)")) {
		t.Errorf("with a stranger's key: %v, %s", err, out)
	}
	var exit *exec.ExitError
	if out, err := openssh(port, onDisk, "nonsense").CombinedOutput(); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("a command that is none: %v, %s; want exit status 2", err, out)
	}
	scan, err := exec.CommandContext(t.Context(), "ssh-keyscan", "-T", "120", "-p", port, "127.0.0.1").Output()
	if want := strings.Fields(string(ssh.MarshalAuthorizedKey(hostSigner.PublicKey())))[1]; err != nil ||
		strings.Count(string(scan), "\n") != 1 || !strings.Contains(string(scan), want) {
		t.Errorf("ssh-keyscan = %s, %v; want the identity's key only", scan, err)
	}

	// rempart's own client knows the host key beforehand.
	keys := client.Keys{Files: []string{onDisk}}.Signers
	target := client.Target{Name: "gate-7", Address: "127.0.0.1:" + port, HostKey: hostSigner.PublicKey()}
	c, err := client.Dial(t.Context(), target, keys)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	var said, complained bytes.Buffer
	status, err := client.Run(t.Context(), c, []string{"log", "-n", "100000", "--from", "ssh"},
		client.Streams{Out: &said, Err: &complained}, nil)
	if err != nil || status != 0 || !strings.Contains(said.String(), `comment="\"alice\""`) ||
		!strings.Contains(said.String(), "SSH login failed") {
		t.Errorf("log --from ssh = %d, %v, %s%s; want alice's login and the stranger's failure", status, err, said.String(),
			complained.String())
	}
	useShell(t, c)
	// The same on the console, for whoever has that; a log of before Enter shows that it was quiet till then.
	if strings.Contains(g.ConsoleText(), " $ ") {
		t.Error("there is a prompt on the console before anybody pressed a key")
	}
	if _, err := io.WriteString(g.Guest.Console, "\r"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the prompt of the console", func() bool {
		return strings.Contains(g.ConsoleText(), "gate-7 [read-only] "+contract.ShellDir)
	})
	if _, err := io.WriteString(g.Guest.Console, "echo console-$((6 * 7)); exit\r"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the console's shell to calculate", func() bool {
		return strings.Contains(g.ConsoleText(), "console-42")
	})
	target.HostKey = rig.NewKey(t).Signer.PublicKey()
	if _, err := client.Dial(t.Context(), target, keys); !errors.Is(err, client.ErrHostKey) {
		t.Errorf("with another host key pinned: %v; want ErrHostKey", err)
	}

	// A stranger outside gets no answer, and what drops him is followed live and sent away.
	follow := openssh(port, onDisk, "log", "-f", "-n", "0", "--from", "kernel")
	pipe, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = follow.Process.Kill(); _ = follow.Wait() })
	live := bufio.NewScanner(pipe)
	dropped := make(chan string, 1)
	go func() {
		for live.Scan() {
			if strings.Contains(live.Text(), "drop internet -> self: IN=out") && strings.Contains(live.Text(), "DPT=22 ") {
				dropped <- live.Text()
				return
			}
		}
		close(dropped)
	}()
	// The log tells only what comes after it was asked: the stranger keeps knocking until it is seen.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		for ctx.Err() == nil {
			try, cancel := context.WithTimeout(ctx, time.Second)
			conn, err := far.DialTCP(try, netip.MustParseAddr("203.0.113.1"), netip.MustParseAddrPort("203.0.113.2:22"))
			if cancel(); err == nil {
				conn.Close()
				t.Error("a stranger outside was answered on port 22")
				return
			}
		}
	}()
	select {
	case text, ok := <-dropped:
		if !ok {
			t.Error("log -f ended without the line about the stranger")
		}
		t.Log(text)
	case <-time.After(time.Minute):
		t.Error("log -f never told of the stranger")
	}
	for _, want := range []string{" gate-7 kernel - - [meta ", "drop internet -> self: IN=out",
		" gate-7 policy - - [meta ", "Linux version"} {
		eventually(t, "the syslog server to be sent "+want, func() bool { return server.has(want) })
	}

	// The server comes back when it dies, and what was open goes with it.
	r, _ = g.Report()
	before := childOf(r, "ssh")
	g.Order("kill ssh KILL")
	g.Await("the SSH server to be back", func(r contract.Report) bool {
		now := childOf(r, "ssh")
		return r.Ready && now.Restarts > before.Restarts && now.State == "ready"
	})
	if out, err := openssh(port, onDisk, "status").CombinedOutput(); err != nil ||
		!bytes.Contains(out, []byte("READY gate-7")) {
		t.Errorf("status of a new server = %s, %v", out, err)
	}
	g.PowerOff()
	judgeLeftOnData(t, data)
}

// useShell sits at the shell of a guest: it says what the kernel says of the root, runs programs and the guest's own
// commands, and gives nobody more rights than it should.
func useShell(t *testing.T, c *ssh.Client) {
	t.Helper()
	typed, keys := io.Pipe()
	shown, screen := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		status, err := client.Run(t.Context(), c, nil, client.Streams{In: typed, Out: screen, Err: screen},
			&client.Terminal{Kind: "xterm", Columns: 200, Rows: 50})
		if err == nil && status != 7 {
			err = fmt.Errorf("the shell ended with status %d; want 7", status)
		}
		screen.Close()
		ended <- err
	}()
	late := time.AfterFunc(rig.Patience, func() { screen.CloseWithError(errors.New("that took too long")) })
	defer late.Stop()
	seen := ""
	await := func(text string) {
		t.Helper()
		b := make([]byte, 4096)
		for !strings.Contains(seen, text) {
			n, err := shown.Read(b)
			if seen += string(b[:n]); err != nil {
				t.Fatalf("waiting for %q at the shell: %v in %q", text, err, seen)
			}
		}
		_, seen, _ = strings.Cut(seen, text)
	}
	const prompt = "gate-7 [read-only] " + contract.ShellDir
	await(prompt)
	for _, x := range []struct{ line, want string }{
		{"echo $((6 * 7)) >/tmp/x; cat /tmp/x | grep -c 4.; rm /tmp/x", "\n1\r\n"},
		{"ls /usr/bin | wc", "\r\n"},
		{"status | grep READY", "READY gate-7"},
		{"confirm", "no change waits"},
		{"cat /run/rempart/identity/ssh/host_ed25519 || echo kept", "\nkept\r\n"},
		{"echo x > /etc/x || echo 'not written'", "\nnot written\r\n"},
		{"echo kept-$((6 * 7)) >/srv/logs/admin/x; cat /srv/logs/admin/x", "\nkept-42\r\n"},
		{"cat /srv/logs/log/00000000000000000001.log || echo 'not read'", "\nnot read\r\n"},
		{"echo x >/srv/logs/x || echo 'not in its root'", "\nnot in its root\r\n"},
		{"/srv/our/tools/prog", "\nran-42\r\n"},
		{"cp /srv/our/tools/prog /srv/logs/admin/prog; chmod 755 /srv/logs/admin/prog; ls /srv/logs/admin", "prog\r\n"},
		{"/srv/logs/admin/prog || echo 'not run there'", "\nnot run there\r\n"},
		{"echo going; while true; do true; done", "\ngoing\r\n"}, // it has the terminal: Ctrl-C is a signal
	} {
		if _, err := io.WriteString(keys, x.line+"\r"); err != nil {
			t.Fatal(err)
		}
		await(x.want)
	}
	if _, err := io.WriteString(keys, "\x03"); err != nil { // ends the endless one, and nothing else
		t.Fatal(err)
	}
	await(prompt)
	if _, err := io.WriteString(keys, "exit 7\r"); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, shown) }()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
