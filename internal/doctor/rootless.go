package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/rights"
	"github.com/uvswitch/uvswitch/internal/userns"
)

// isRootless reports whether the switch that is there, or that this user would start, uses nothing of the host.
func (e *Exam) isRootless() bool {
	if e.status != nil {
		return e.status.Uplink.Kind == model.KindSockets
	}
	return !rights.IsAdmin()
}

// rootless checks what the host's administrator can forbid to a switch of an ordinary user.
func (e *Exam) rootless() {
	e.add("rights", OK, "", "the switch needs no right: what leaves goes by sockets of this user")
	if err := userns.Try(); err != nil {
		e.add("namespaces", Fail, userNamespaceRemedy(), "this user cannot create user namespaces, which `uvswitch exec` needs: %v", err)
	} else {
		e.add("namespaces", OK, "", "this user may create user namespaces")
	}
	const pings = "/proc/sys/net/ipv4/ping_group_range"
	var from, to int
	if _, err := fmt.Sscan(setting(pings), &from, &to); err == nil && (os.Getegid() < from || os.Getegid() > to) {
		e.add("pings", Note, "let root run `sysctl net.ipv4.ping_group_range=\"0 2147483647\"`", "containers cannot ping the outside: group %d is not in net.ipv4.ping_group_range", os.Getegid())
	} else if err == nil {
		e.add("pings", OK, "", "containers can ping the outside")
	}
	if start, err := strconv.Atoi(setting("/proc/sys/net/ipv4/ip_unprivileged_port_start")); err == nil && start > 1 {
		e.add("ports", Note, "publish other ports, or let root run `sysctl net.ipv4.ip_unprivileged_port_start=80`", "ports of the host below %d cannot be published", start)
	}
	if t, ok := e.tables()["sockets"]; ok { // of the switch that runs
		remedy, level := "", OK
		if t.Used > t.Limit*9/10 || t.Limit < 1000 {
			remedy, level = "start the switch with a higher limit of open files (`ulimit -n`, limits.conf(5), LimitNOFILE= of its unit)", Warn
		}
		e.add("descriptors", level, remedy, "each connection to the outside takes a socket of the switch, and %d of %d are in use", t.Used, t.Limit)
		return
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		remedy, level := "", OK
		if limit.Max < 4096 {
			remedy, level = "raise the hard limit of open files for this user (limits.conf(5), LimitNOFILE= of its unit)", Warn
		}
		e.add("descriptors", level, remedy, "each connection to the outside takes a descriptor, and %d are allowed", limit.Max)
	}
}

// tables are those of the switch that runs; none if none runs.
func (e *Exam) tables() map[string]api.Table {
	if e.status == nil {
		return nil
	}
	return e.status.Tables
}

// userNamespaceRemedy names the setting of the host that forbids user namespaces.
func userNamespaceRemedy() string {
	switch {
	case setting("/proc/sys/user/max_user_namespaces") == "0":
		return "let root run `sysctl user.max_user_namespaces=10000`"
	case setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		return "let root run `sysctl kernel.unprivileged_userns_clone=1`"
	}
	if _, err := os.Stat("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"); !errors.Is(err, fs.ErrNotExist) {
		return "AppArmor forbids it, as on Ubuntu: let root load a profile for the uvswitch command that allows `userns` (apparmor_parser(8)); docs/rootless.md has one"
	}
	return "a filter of a container or of a service may forbid it: run uvswitch outside of it"
}

func setting(path string) string {
	text, _ := os.ReadFile(path)
	return strings.TrimSpace(string(text))
}
