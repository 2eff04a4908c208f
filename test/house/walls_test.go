package house

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestTopLevel: the top level is the first thing a stranger sees.
func TestTopLevel(t *testing.T) {
	agreed := []string{"builder", "firstboot", "profiles", "overlays", "test",
		"go.mod", "go.sum", "Makefile", "README.md", "LICENSE", "bin"} // bin is what make builds
	entries, err := os.ReadDir(top)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(agreed, e.Name()) {
			t.Errorf("the top level holds %s; want nothing but dot files and %s", e.Name(), strings.Join(agreed, ", "))
		}
	}
}

// plan are the rooms of the house, each with the one question it answers. What lies inside a room is the room's own
// business. A new room is a decision: it belongs into this plan and into the review of whoever adds it.
var plan = map[string]string{
	"builder/bounded":    "how much is kept of what others say?",
	"builder/boot":       "what starts a master before its kernel does?",
	"builder/debian":     "which packages, and how do they get here unaltered?",
	"builder/disk":       "how do bytes become partitions, filesystems and image files?",
	"builder/embedded":   "what are the guest's programs?",
	"builder/files":      "where do a user's files lie, and how do they appear whole?",
	"builder/guest":      "how does a guest live: made, run, and put back on its master?",
	"builder/host":       "what must the machine have that guests run on?",
	"builder/hypervisor": "how is a machine described and driven?",
	"builder/image":      "how do all the parts become one master?",
	"builder/initramfs":  "what does the kernel start first?",
	"builder/kernel":     "which modules does a guest need, and what do they need?",
	"builder/master":     "what exactly is in a master?",
	"builder/packettest": "do real packets go the way the policy says?",
	"builder/ssh":        "how does an admin get into a guest from here?",
	"builder/rootfs":     "what is the root made of?",
	"builder/virtualnet": "where do the packets of a test come from, without root and without a network?",

	"firstboot/admin":    "what may an administrator ask for?",
	"firstboot/announce": "what says that links have changed?",
	"firstboot/block":    "which disks are there, and what are they?",
	"firstboot/boot":     "how does the kernel get from its initramfs to the root?",
	"firstboot/child":    "how do init and its children talk?",
	"firstboot/clock":    "what time is it?",
	"firstboot/cmdline":  "what does the kernel's command line say?",
	"firstboot/console":  "what may be asked on the console?",
	"firstboot/contract": "what must both sides agree on?",
	"firstboot/boottime": "how long has the machine been up?",
	"firstboot/control":  "what may the host ask of a guest?",
	"firstboot/dns":      "which addresses has a name, and who may know?",
	"firstboot/dhcp":     "who is given which address, and what else is such a client told?",
	"firstboot/disks":    "what do the data disks of a profile carry?",
	"firstboot/door":     "who may come in by a local socket?",
	"firstboot/filter":   "which rules and probes is a policy?",
	"firstboot/gpt":      "where are the partitions of a disk that may be hostile?",
	"firstboot/health":   "does the guest do its job?",
	"firstboot/identity": "which guest is this one of all that its master makes?",
	"firstboot/init":     "what does PID 1 do?",
	"firstboot/link":     "how do links, addresses and routes become as the profile says?",
	"firstboot/lists":    "who is in a set whose members are told elsewhere?",
	"firstboot/logging":  "what happened in the guest?",
	"firstboot/module":   "which module drives which device?",
	"firstboot/onlink":   "which links are there to be served?",
	"firstboot/ra":       "what do hosts learn of the router and the prefixes of their link?",
	"firstboot/names":    "who has which name and address?",
	"firstboot/power":    "how does the machine end?",
	"firstboot/refresh":  "how does what changes elsewhere get here, and stay when it cannot?",
	"firstboot/scrub":    "is the whole root still what was built?",
	"firstboot/seed":     "where does randomness come from without a device for it?",
	"firstboot/session":  "where does an admin's shell run?",
	"firstboot/shell":    "what can an admin look around with?",
	"firstboot/secret":   "what does the identity disk hold for a child?",
	"firstboot/ssh":      "how does an admin get in?",
	"firstboot/syslog":   "how does the log get to a server?",
	"firstboot/state":    "is the state disk blank, ours or somebody else's?",
}

func TestPlan(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range ownPackages(t) {
		rooms := strings.SplitN(p.path(), "/", 3)
		if len(rooms) < 2 || rooms[0] != "builder" && rooms[0] != "firstboot" {
			continue
		}
		room := rooms[0] + "/" + rooms[1]
		if plan[room] == "" && !seen[room] {
			t.Errorf("%s is not in the plan of the house", room)
		}
		seen[room] = true
	}
	for room := range plan {
		if !seen[room] {
			t.Errorf("the plan has a room %s that is not there", room)
		}
	}
}

// contracts are the packages of firstboot that the builder may know, each with the reason. They are pure: values in,
// values out, as TestContractsArePure shows.
var contracts = map[string]string{
	"rempart/firstboot/contract":          "what the two sides must agree on: names, command line, reports",
	"rempart/firstboot/contract/hardware": "the addresses a host gives NICs and a guest finds them by",
	"rempart/firstboot/contract/ctl":      "how commands travel to a guest and back",
	"rempart/firstboot/contract/live":     "a changed profile on its way into a running guest",
	"rempart/firstboot/contract/identity": "the format of the identity disk",
	"rempart/firstboot/contract/xenstore": "where a guest of Xen leaves its report, and the protocol to get there",
	"rempart/firstboot/gpt":               "one hardened reader of partition tables for both sides",
	"rempart/firstboot/filter":            "rules and probes a policy becomes: checked, printed, tried before a guest is",

	"rempart/firstboot/contract/xenstore/storetest": "the same in memory, for the tests of both sides",
}

// TestWalls: profiles and overlays are the ground floor, the two sides do not know each other but for contracts, and
// nothing knows the tests.
func TestWalls(t *testing.T) {
	for _, p := range ownPackages(t) {
		for i, imported := range p.allImports() {
			isTest := i >= len(p.Imports)
			if !below(imported, module) || imported == p.ImportPath {
				continue
			}
			_, contract := contracts[imported]
			side := strings.Split(p.path(), "/")[0]
			wrong := false
			switch side {
			case "profiles", "overlays":
				wrong = !below(imported, module+"/"+side)
			case "firstboot":
				wrong = below(imported, module+"/builder") || below(imported, module+"/overlays")
			case "builder":
				wrong = below(imported, module+"/firstboot") && !contract
			}
			if wrong || below(imported, module+"/test") && side != "test" {
				t.Errorf("%s imports %s (in a test: %v): there is a wall between them", p.ImportPath, imported, isTest)
			}
		}
	}
}

// impure are packages that reach outside the process.
var impure = []string{"os/exec", "net/http", "golang.org/x/sys/unix", "github.com/vishvananda/netlink",
	"github.com/mdlayher/netlink", "github.com/google/nftables", "log", "log/slog"}

func TestContractsArePure(t *testing.T) {
	var paths []string
	for path := range contracts {
		paths = append(paths, path)
	}
	// As a guest builds them: what profiles need to be read (YAML, zone files) is the workstation's.
	for _, p := range golist(t, nil, append([]string{"-tags", "guest"}, paths...)...) {
		for _, dep := range p.Deps {
			if slices.ContainsFunc(impure, func(s string) bool { return below(dep, s) }) {
				t.Errorf("%s depends on %s; want it pure, the builder imports it", p.ImportPath, dep)
			}
			if below(dep, module+"/firstboot") && contracts[dep] == "" {
				t.Errorf("%s depends on %s, which is no contract; the builder would link it too", p.ImportPath, dep)
			}
		}
	}
}

// TestGuestLinks: what is in a guest's programs costs its RAM and can be attacked.
func TestGuestLinks(t *testing.T) {
	unwanted := []string{module + "/builder", module + "/overlays", module + "/test", "gopkg.in/yaml.v3", "net/http",
		"text/template", "html", "encoding/xml", "database", "go", "testing", "gvisor.dev",
		"github.com/diskfs", "github.com/spf13", "github.com/erofs"}
	// The boot stage has to be small and has nothing to do with any network.
	bootStage := append([]string{"net", "crypto/tls", "encoding/json", "os/exec", "log", "github.com/google/nftables",
		"github.com/vishvananda/netlink", "github.com/mdlayher/netlink", "github.com/insomniacslk/dhcp",
		module + "/profiles"}, unwanted...)
	for program, banned := range map[string][]string{"./firstboot": unwanted, "./firstboot/boot": bootStage} {
		for _, arch := range []string{"amd64", "arm64"} {
			env := []string{"GOOS=linux", "GOARCH=" + arch, "CGO_ENABLED=0"}
			for _, p := range golist(t, env, "-tags", "guest", "-deps", program) {
				// net/netip is arithmetic on addresses, without a single system call.
				isBanned := slices.ContainsFunc(banned, func(s string) bool { return below(p.ImportPath, s) })
				if isBanned && p.ImportPath != "net/netip" {
					t.Errorf("%s for %s links %s", program, arch, p.ImportPath)
				}
			}
		}
	}
}
