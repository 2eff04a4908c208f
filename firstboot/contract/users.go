package contract

// User is an account that firstboot's children run as. The builder writes it to /etc/passwd and /etc/group of the
// root, where it only serves to show names instead of numbers: nobody can log in to it.
type User struct {
	Name string
	ID   uint32 // user id, and the id of the group of the same name
	Home string // absolute path; "/" where it owns nothing
}

// Ids of the accounts. 900 to 919 lie in the range that Debian policy 9.2.2 leaves to system accounts (100 to 999)
// and above what its packages take from the low end. They never change their meaning: files on state disks are
// owned by these numbers.
const (
	UIDRoot     = 0
	UIDPolicy   = 900 // loads the policy
	UIDLink     = 901 // links, addresses, routes, the DHCP client
	UIDControl  = 902 // the control channel to the host
	UIDHealth   = 903 // health probes
	UIDScrub    = 904 // reads the whole root once
	UIDDHCP     = 905 // DHCP server
	UIDDNS      = 906 // DNS forwarder
	UIDRA       = 907 // router advertisements
	UIDSSH      = 908 // SSH, before a session has a user
	UIDTime     = 909 // NTP client
	UIDBan      = 910 // dynamic bans
	UIDState    = 911 // makes and checks the filesystem of the state disk
	UIDIdentity = 912 // reads the identity disk
	UIDLog      = 914 // keeps the log
	UIDSyslog   = 915 // sends the log to a server
	UIDAdmin    = 916 // carries out what administrators ask for
	UIDShell    = 917 // shells of administrators
	UIDConsole  = 918 // the prompt of the console
	UIDLists    = 919 // takes lists from elsewhere and keeps them
	UIDNobody   = 65534
)

// Users returns all accounts of the root, in the order of their ids.
func Users() []User {
	return []User{
		{"root", UIDRoot, "/root"},
		{"rempart-policy", UIDPolicy, "/"},
		{"rempart-link", UIDLink, "/"},
		{"rempart-control", UIDControl, "/"},
		{"rempart-health", UIDHealth, "/"},
		{"rempart-scrub", UIDScrub, "/"},
		{"rempart-dhcp", UIDDHCP, "/"},
		{"rempart-dns", UIDDNS, "/"},
		{"rempart-ra", UIDRA, "/"},
		{"rempart-ssh", UIDSSH, "/"},
		{"rempart-time", UIDTime, "/"},
		{"rempart-ban", UIDBan, "/"},
		{"rempart-state", UIDState, "/"},
		{"rempart-identity", UIDIdentity, "/"},
		{"rempart-log", UIDLog, "/"},
		{"rempart-syslog", UIDSyslog, "/"},
		{"rempart-admin", UIDAdmin, "/"},
		{"rempart-shell", UIDShell, ShellDir},
		{"rempart-console", UIDConsole, "/"},
		{"rempart-lists", UIDLists, "/"},
		{"nobody", UIDNobody, "/"},
	}
}
