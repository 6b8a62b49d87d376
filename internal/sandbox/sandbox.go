// Package sandbox takes from this process what a running switch never needs: system calls, files, and capabilities. Whoever takes over
// the process by a fault then starts no program by itself, enters no namespace and opens no file of others.
//
// Package rights lists what is kept, and what is denied. A child process that was started before the sandbox is outside of it.
// SECURITY.md says what a process inside can still do.
//
// Sources: seccomp(2), landlock(7), capabilities(7).
package sandbox

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"

	"github.com/uvswitch/uvswitch/internal/rights"
)

// Enter closes the sandbox around every thread of this process, for good. paths are the files and folders that stay open; one that does not
// exist is left out. The text says in words what holds, and what the kernel lacks. An error means that the process is in no known state.
func Enter(paths []rights.Path) (text string, err error) {
	var parts []string
	for _, wall := range []struct {
		name  string
		close func() (holds string, err error)
	}{
		{"capabilities", dropCapabilities},
		{"landlock", func() (string, error) { return restrictPaths(paths) }},
		{"seccomp", filterCalls},
	} {
		holds, err := wall.close()
		switch {
		case errors.Is(err, unix.EPERM): // whoever started this process has a sandbox of their own
			holds = "no " + wall.name + " (another filter forbids it)"
		case errors.Is(err, errMissing):
			holds = "no " + wall.name + " (the kernel has none, or was started without it)"
		case err != nil:
			return "", fmt.Errorf("sandbox: %s: %w", wall.name, err)
		}
		parts = append(parts, holds)
	}
	return strings.Join(parts, ", "), nil
}

// errMissing is for a kernel that cannot do what is asked.
var errMissing = errors.New("the kernel lacks it")

func restrictPaths(paths []rights.Path) (string, error) {
	abi, err := ll.LandlockGetABIVersion()
	if errors.Is(err, unix.EPERM) {
		return "", err
	}
	if err != nil || abi < 1 {
		return "", errMissing
	}
	return fmt.Sprintf("landlock (version %d)", abi), landlock.V5.BestEffort().RestrictPaths(rules(paths)...)
}

const (
	readable = ll.AccessFSReadFile | ll.AccessFSReadDir
	devices  = ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSIoctlDev
	settings = ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSReadDir
	sockets  = ll.AccessFSMakeSock | ll.AccessFSMakeDir | ll.AccessFSRemoveFile | ll.AccessFSRemoveDir | ll.AccessFSReadDir
	kept     = settings | sockets | ll.AccessFSMakeReg
)

var accessOf = map[rights.Access]landlock.AccessFSSet{
	rights.Read: readable, rights.Device: devices, rights.Settings: settings, rights.Sockets: sockets, rights.Keep: kept,
}

func rules(paths []rights.Path) (all []landlock.Rule) {
	for _, p := range paths {
		access := accessOf[p.Access]
		var st unix.Stat_t
		switch err := unix.Stat(p.Name, &st); {
		case err == unix.EACCES: // this user cannot get there anyway, as to the folder of a Docker engine
			continue
		case err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR:
			access &= ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSIoctlDev
		}
		all = append(all, landlock.PathAccess(access, p.Name).IgnoreIfMissing())
		if strings.HasPrefix(p.Name, "/proc/") { // else the kernel may forget this inode, and with it the rule, when memory is short
			_, _ = unix.Open(p.Name, unix.O_PATH|unix.O_CLOEXEC, 0)
		}
	}
	return all
}

// What a call gets that the filter does not let pass.
const (
	denied  = seccomp.ActionErrno | seccomp.Action(unix.EPERM)
	missing = seccomp.ActionErrno | seccomp.Action(unix.ENOSYS)
)

// filterCalls denies the calls of rights.DeniedCalls and sockets of families that rights.Families lacks, with EPERM, on every thread.
func filterCalls() (string, error) {
	if _, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0); errors.Is(err, unix.EINVAL) {
		return "", errMissing
	}
	native, err := arch.GetInfo("")
	if err != nil {
		return "", err
	}
	deny := seccomp.SyscallGroup{Action: denied}
	for _, name := range rights.DeniedCalls {
		if _, ok := native.SyscallNames[name]; ok {
			deny.Names = append(deny.Names, name)
		}
	}
	var families seccomp.ArgumentConditions
	for _, f := range rights.Families {
		families = append(families, seccomp.Condition{Argument: 0, Operation: seccomp.NotEqual, Value: uint64(f)})
	}
	namespaces := seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsSet, Value: newNamespaces}}
	others := seccomp.ArgumentConditions{{Argument: 1, Operation: seccomp.NotEqual, Value: 0}}
	deny.NamesWithCondtions = []seccomp.NameWithConditions{{Name: "socket", Conditions: families}, {Name: "clone", Conditions: namespaces}, {Name: "setpriority", Conditions: others}}
	policy := seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{
		deny, {Action: missing, Names: []string{"clone3"}}, // its flags are not visible; without it programs use clone
	}}
	program, err := policy.Assemble()
	if err != nil {
		return "", err
	}
	const callOffset, archOffset, arg1Offset = 0, 4, 24 // in struct seccomp_data, little-endian
	program = append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: archOffset, Size: 4}, // calls by another ABI of the same kernel have other numbers
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(native.ID), SkipTrue: 1},
		bpf.RetConstant{Val: uint32(denied)},
		// ioctl(terminal, TIOCSTI) types for the user. The kernel looks at the lower half of the argument only.
		bpf.LoadAbsolute{Off: callOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_IOCTL, SkipTrue: 4},
		bpf.LoadAbsolute{Off: arg1Offset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.TIOCSTI, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: tioclinux, SkipTrue: 1},
		bpf.RetConstant{Val: uint32(denied)},
	}, program...)
	raw, err := bpf.Assemble(program)
	if err != nil {
		return "", err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, x := range raw {
		filter[i] = unix.SockFilter{Code: x.Op, Jt: x.Jt, Jf: x.Jf, K: x.K}
	}
	if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return "", errno
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return "", errno
	}
	if thread != 0 {
		return "", fmt.Errorf("thread %d has a filter of its own", thread)
	}
	return "seccomp", nil
}

// dropBounds takes the capabilities that are not kept from every program that a fault might start (capabilities(7), "Capability bounding set"). effective
// are the lower ones in effect: without CAP_SETPCAP the kernel refuses.
func dropBounds(keep [2]uint32, effective uint32) error {
	if effective&(1<<unix.CAP_SETPCAP) == 0 {
		return nil
	}
	for bit := uintptr(0); bit <= unix.CAP_LAST_CAP; bit++ {
		if keep[bit/32]&(1<<(bit%32)) != 0 {
			continue
		}
		if _, _, errno := psx.Syscall3(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, bit, 0); errno != 0 && errno != unix.EINVAL { // EINVAL: an older kernel does not know it
			return errno
		}
	}
	return nil
}

const tioclinux = 0x541c // linux/include/uapi/asm-generic/ioctls.h

const newNamespaces = unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUSER | unix.CLONE_NEWUTS

// dropCapabilities keeps those that a running switch uses.
func dropCapabilities() (string, error) {
	keep := [2]uint32{}
	bits := slices.Clone(rights.KeptByRoot)
	for _, c := range rights.Capabilities {
		if !c.AtStart {
			bits = append(bits, c.Bit)
		}
	}
	for _, bit := range bits {
		keep[bit/32] |= 1 << (bit % 32)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&head, &have[0]); err != nil {
		return "", err
	}
	if err := dropBounds(keep, have[0].Effective); err != nil {
		return "", err
	}
	drop := uint32(0)
	for i := range have {
		drop |= have[i].Effective&^keep[i] | have[i].Permitted&^keep[i] | have[i].Inheritable&^keep[i]
		have[i].Effective &= keep[i]
		have[i].Permitted &= keep[i]
		have[i].Inheritable &= keep[i]
	}
	if drop == 0 { // a unit's filter may deny the call
		return "capabilities", nil
	}
	if _, _, errno := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&have[0])), 0); errno != 0 {
		return "", errno
	}
	return "capabilities", nil
}
