// Package rights lists what a running switch needs of the system, with its user and its reason: capabilities, and paths. The
// daemon's check at start, doctor, and the tests of the systemd unit are made from these tables.
//
// Source: capabilities(7).
package rights

import (
	"fmt"
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
}

// Capabilities lists every capability that the switch uses.
var Capabilities = []Capability{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "TAP devices, addresses, routes, BPF programs", Required, "", true},
	{unix.CAP_NET_RAW, "CAP_NET_RAW", "packet sockets", Required, "", true},
	{unix.CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE", "publishing host ports below 1024", Optional, "host ports below 1024 cannot be published", true},
	{unix.CAP_BPF, "CAP_BPF", "the uplink's programs", Optional, "only `--uplink-kind tap` and `--uplink none` work, and `uvswitch port add --device` does not", true},
	{unix.CAP_PERFMON, "CAP_PERFMON", "the uplink's programs", Optional, "the kernel may refuse the uplink's programs", true},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "entering network namespaces", Optional, "the switch creates no device in a namespace by itself; `uvswitch port add --netns`, run as root, does", false},
}

// A Path is a file or a folder that the switch uses.
type Path struct {
	Name  string
	User  string
	Write bool
}

// Paths lists what the switch reads and writes outside of its own process.
var Paths = []Path{
	{"/dev/net/tun", "TAP devices", true},
	{"/proc", "listening sockets of the host, processes that hold them", false},
	{"/run/netns", "namespaces by name", false},
	{"/sys/fs/cgroup", "programs for the host's own clients of published ports", false},
	{"/run/uvswitch", "the control socket", true},
	{"/run/docker/plugins", "Docker's plugin socket (run --docker)", true},
	{"/var/lib/uvswitch", "the state of Docker's networks (run --docker)", true},
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

// Check returns an error that names the required capabilities which this process lacks.
func Check() error {
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
	return fmt.Errorf("uvswitch run needs %s; run it as root, or as the systemd service, which gets them from its unit", strings.Join(missing, " and "))
}

// MayEnterNamespaces reports whether this process may enter other network namespaces.
func MayEnterNamespaces() bool {
	e, err := Own()
	return err == nil && e.Has(unix.CAP_SYS_ADMIN)
}
