// Package rights lists what a running switch needs of the system, with its user and its reason: capabilities, and paths. The
// daemon's check at start, doctor, and the tests of the systemd unit are made from these tables.
//
// Source: capabilities(7).
package rights

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A Need says what happens without a right.
type Need uint8

const (
	Required Need = iota // the switch does not start
	Optional             // a feature is missing; Without says which
)

// A Capability is one capability and what uses it.
type Capability struct {
	Bit     int
	Name    string
	User    string // what uses it
	Need    Need
	Without string // of an optional one: what does not work
	Unit    bool   // the systemd unit gives it
	AtStart bool   // a running switch does not use it: the sandbox drops it
}

// Capabilities lists every capability that the switch uses.
var Capabilities = []Capability{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "TAP devices, addresses, routes, BPF programs", Required, "", true, false},
	{unix.CAP_NET_RAW, "CAP_NET_RAW", "packet sockets", Required, "", true, false},
	{unix.CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE", "publishing host ports below 1024", Optional, "host ports below 1024 cannot be published", true, false},
	{unix.CAP_BPF, "CAP_BPF", "the uplink's programs", Optional, "only `--uplink-kind tap` and `--uplink none` work, and `uvswitch port add --device` does not", true, false},
	{unix.CAP_PERFMON, "CAP_PERFMON", "the uplink's programs", Optional, "the kernel may refuse the uplink's programs", true, false},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "entering network namespaces", Optional, "the switch creates no device in a namespace by itself; `uvswitch port add --netns`, run as root, does", false, true},
}

// KeptByRoot lists the capabilities that a running switch of root keeps besides, for what a service's own user has no need of.
var KeptByRoot = []int{
	unix.CAP_DAC_OVERRIDE, // sockets of virtual machines in folders of other users
	unix.CAP_IPC_LOCK,     // memory of io_uring beyond the limit of locked memory
	unix.CAP_SYS_NICE,     // a higher priority of a worker that waits for a CPU for long; DeniedCalls has the rest of what it allows
}

// A Path is a file or a folder that the switch uses.
type Path struct {
	Name   string
	User   string
	Access Access
}

// Access is what is done with a file, or with everything in a folder.
type Access uint8

const (
	Read     Access = iota // files and folders are read
	Device                 // a device is read, written and asked by ioctl
	Settings               // files that exist are written
	Sockets                // sockets and folders are created; files and folders are removed
	Keep                   // files are created, written, renamed and removed
)

const nameServers = "the host's name servers"

const forVMs = "sockets of virtual machines"

// Paths lists what the switch reads and writes outside of its own process. The sandbox lets a running switch do nothing else; options
// such as the folder of the configuration file come on top.
var Paths = []Path{
	{"/dev/net/tun", "TAP devices", Device},
	{"/proc/self", "sockets of the host, as this process sees them", Read},
	{"/proc/stat", "the time of the boot, for metrics", Read},
	{"/proc/sys", "settings of the kernel", Read},
	{"/proc/sys/net", "settings of the switch's own devices", Settings},
	{"/sys", "devices, CPUs, programs for the host's own clients of published ports", Read},
	{"/run/netns", "namespaces by name", Read},
	{"/etc/resolv.conf", nameServers, Read},
	{"/run/systemd/resolve", nameServers, Read},
	{"/run/resolvconf", nameServers, Read},
	{"/run/NetworkManager", nameServers, Read},
	{"/etc/localtime", "the time zone of the log", Read},
	{"/usr/share/zoneinfo", "the time zone of the log", Read},
	{"/run", forVMs, Sockets},
	{"/tmp", forVMs, Sockets},
	{"/var/tmp", forVMs, Sockets},
	{"/run/uvswitch", "the control socket", Sockets},
	{"/run/docker/plugins", "Docker's plugin socket (run --docker)", Sockets},
	{"/var/lib/uvswitch", "leases of addresses, the state of Docker's networks (run --state)", Keep},
}

// SocketFolders names the folders in which sockets of virtual machines may be made.
func SocketFolders() string {
	var names []string
	for _, p := range Paths {
		if p.Access == Sockets && p.User == forVMs {
			names = append(names, p.Name)
		}
	}
	return strings.Join(names, ", ")
}

// Families are the socket families that the switch uses.
var Families = []int{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET}

// DeniedCalls are system calls that a running switch never makes, by name.
var DeniedCalls = []string{
	// Other programs: a fault starts none, and reads the memory of none.
	"execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "process_madvise", "kcmp",
	// Namespaces and mounts. A child process, started before, enters namespaces.
	"setns", "unshare", "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "open_tree_attr", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
	"open_by_handle_at", "name_to_handle_at",
	// The kernel, its keys and its clock.
	"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "keyctl", "add_key", "request_key",
	"settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "syslog",
	"sethostname", "setdomainname", "iopl", "ioperm", "modify_ldt", "vhangup", "personality",
	// CPUs, memory and disks of other programs. A thread may change its own priority.
	"sched_setscheduler", "sched_setparam", "sched_setattr", "sched_setaffinity", "ioprio_set", "migrate_pages", "move_pages", "mbind", "set_mempolicy",
	// Modes, owners and attributes of files: landlock does not see these changes.
	"chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchownat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat",
	"removexattr", "lremovexattr", "fremovexattr", "removexattrat",
	// Kernel interfaces with a history of faults.
	"userfaultfd", "perf_event_open", "fanotify_init", "lookup_dcookie", "remap_file_pages", "vmsplice",
}

// Effective is a set of capabilities.
type Effective [2]uint32

// Own reads the capabilities that this process has in effect.
func Own() (e Effective, err error) {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&head, &have[0]); err != nil {
		return e, fmt.Errorf("cannot read the capabilities of this process: %w", err)
	}
	return Effective{have[0].Effective, have[1].Effective}, nil
}

// Has reports whether a capability, by its number, is in the set.
func (e Effective) Has(bit int) bool { return e[bit/32]&(1<<(bit%32)) != 0 }

// Missing lists the capabilities of one need that are not in the set.
func (e Effective) Missing(n Need) (out []Capability) {
	for _, c := range Capabilities {
		if c.Need == n && !e.Has(c.Bit) {
			out = append(out, c)
		}
	}
	return out
}

// IsAdmin reports whether this process has the capabilities that are required of a switch which uses the host's devices, over its own network namespace:
// in a user namespace, a process may have them only over others (user_namespaces(7)).
func IsAdmin() bool {
	e, err := Own()
	return err == nil && e.Missing(Required) == nil && ownsNetwork()
}

// ownsNetwork reports whether the network namespace of this process belongs to its user namespace, or to one below.
func ownsNetwork() bool {
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return true // without /proc, nothing is known
	}
	defer ns.Close()
	fd, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return !errors.Is(err, unix.EPERM)
	}
	return unix.Close(fd) == nil
}

// Check returns an error that names the required capabilities which this process lacks. what needs them, and instead says how to do without.
func Check(what, instead string) error {
	e, err := Own()
	if err != nil {
		return err
	}
	var missing []string
	for _, c := range e.Missing(Required) {
		missing = append(missing, fmt.Sprintf("%s (%s)", c.Name, c.User))
	}
	if missing == nil {
		return nil
	}
	return fmt.Errorf("%s needs %s; run the switch as root, or as the systemd service, which gets them from its unit; %s", what, strings.Join(missing, " and "), instead)
}

// MayEnterNamespaces reports whether this process may enter other network namespaces.
func MayEnterNamespaces() bool {
	e, err := Own()
	return err == nil && e.Has(unix.CAP_SYS_ADMIN)
}
