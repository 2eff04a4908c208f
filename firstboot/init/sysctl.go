package pid1

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// sysctls harden the kernel and keep a small guest alive; Documentation/admin-guide/sysctl. The net ones are the link
// child's. What a panic leads to is the host's business and is not touched.
var sysctls = []struct{ name, value string }{
	{"kernel/kptr_restrict", "2"},
	{"kernel/dmesg_restrict", "1"},
	{"kernel/unprivileged_bpf_disabled", "1"},
	{"net/core/bpf_jit_harden", "2"}, // belongs to bpf, not to any link
	{"kernel/kexec_load_disabled", "1"},
	{"kernel/perf_event_paranoid", "3"},
	{"kernel/yama/ptrace_scope", "3"},
	{"kernel/sysrq", "0"},
	{"kernel/unprivileged_userns_clone", "0"},
	{"user/max_user_namespaces", "0"},
	{"kernel/ctrl-alt-del", "0"},  // as a signal to PID 1, which stops in order
	{"kernel/panic_on_oops", "1"}, // a kernel that stumbled must not go on filtering; the host decides what then
	{"dev/tty/ldisc_autoload", "0"},
	{"fs/protected_symlinks", "1"},
	{"fs/protected_hardlinks", "1"},
	{"fs/protected_fifos", "2"},
	{"fs/protected_regular", "2"},
	{"fs/suid_dumpable", "0"},
	{"vm/mmap_min_addr", "65536"},
	{"vm/unprivileged_userfaultfd", "0"},
	// Overcommit is heuristic, which Go's reservations need, and memory is kept free for packets that arrive.
	{"vm/overcommit_memory", "0"},
	{"vm/oom_kill_allocating_task", "0"},
	{"vm/panic_on_oom", "0"},
}

// setSysctls writes all; a kernel that lacks one is no failure.
func setSysctls(root string) error {
	var failed []error
	for _, s := range sysctls {
		file := filepath.Join(root, "proc/sys", s.name)
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = f.WriteString(s.value)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("sysctl %s=%s: %w", strings.ReplaceAll(s.name, "/", "."), s.value, err))
		}
	}
	return errors.Join(failed...)
}
