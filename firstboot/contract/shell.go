package contract

// The shell of a guest whose profile allows one.
const (
	// ShellPath is the program; the other names it has are ShellCommands and GuestCommand, beside it.
	ShellPath = "/usr/bin/shell"
	// GuestCommand has the guest's own commands carried out.
	GuestCommand = "guest"
	// ShellDir is where sessions are at home, in memory, and ShellSocket where they are asked for.
	ShellDir    = "/run/rempart/shell"
	ShellSocket = ShellDir + "/socket"
)

// ShellCommands are the programs that the shell is by other names, sorted.
func ShellCommands() []string {
	return []string{"base64", "cat", "chmod", "cp", "find", "grep", "gunzip", "gzcat", "gzip", "head", "ls", "mkdir",
		"mktemp", "mv", "rm", "shasum", "tail", "tar", "touch", "wc", "xargs"}
}
