// Package userns starts this program again inside user namespaces, where an ordinary user may create and configure devices.
//
// Go programs have several threads, and a process with several threads may not enter a user namespace (setns(2)). So a new namespace comes
// with clone(2), and a forked process of one thread enters one that exists.
//
// Sources: user_namespaces(7), ioctl_ns(2).
package userns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/rights"
)

const self = "/proc/self/exe"

// New returns a command that runs this program with args in a network namespace and a mount namespace of its own. An ordinary user gets a user
// namespace, too, in which that user is root.
func New(args ...string) *exec.Cmd {
	c := exec.Command(self, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if !rights.MayEnterNamespaces() || !rights.IsAdmin() {
		c.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return c
}

// Try reports whether New works here: it runs a command that does nothing.
func Try() error { return New("version").Run() }

// explain adds to an error of starting the command of New what the host's administrator can do about it.
func explain(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EUSERS) {
		return fmt.Errorf("this user may not create a user namespace: %w; `uvswitch doctor` says which setting of the host forbids it", err)
	}
	return err
}

// there says in the environment that RunInOwners or RunBeside has started this program.
const there = "UVSWITCH_IN_USER_NAMESPACE"

// RunInOwners runs this program again, with the same arguments and files, where this user may create devices for the network namespace at path: in
// the user namespace that owns it, and in a new network namespace there. TAPs are created in that one, and then moved. env is added to the
// environment. ran is false if this process need not go there. An error of the program that ran is an *exec.ExitError.
func RunInOwners(path string, env ...string) (ran bool, err error) {
	if IsThere() || rights.MayEnterNamespaces() {
		return false, nil
	}
	owner, err := ownerOf(path)
	if errors.Is(err, fs.ErrPermission) {
		return true, fmt.Errorf("%w: the process belongs to another user, whose namespaces this user may not enter; run the command as that user, or as root", err)
	}
	if err != nil {
		return false, nil // who opens the namespace next says why
	}
	defer owner.Close()
	return true, runThere(context.Background(), place{enter: [2]entrance{{owner.Fd(), unix.CLONE_NEWUSER}}, freshNet: true}, os.Args, env)
}

// RunBeside runs this program again, with the same files and with args (the first one is the program's name), in the user, mount and network
// namespaces of a process of this user. env is added to the environment. When ctx is done, the program gets SIGTERM. An error of the program that ran
// is an *exec.ExitError.
func RunBeside(ctx context.Context, pid int, args []string, env ...string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return runThere(ctx, place{enter: [2]entrance{{uintptr(fd), unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET}}}, args, env)
}

// namespaces are the user namespace and the network namespace that a process had at some time. It may leave them.
type namespaces struct{ user, net *os.File } // user is nil if it is this process's own, which cannot be entered

// openNamespaces opens those that a process has now.
func openNamespaces(pid int) (n namespaces, err error) {
	own, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return n, err
	}
	if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid)); err != nil || its != own {
		if n.user, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", pid)); err != nil {
			return n, err
		}
	}
	n.net, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	return n, err
}

// run runs this program again in the namespaces, as RunBeside does.
func (n *namespaces) run(args []string) error {
	net := entrance{n.net.Fd(), unix.CLONE_NEWNET}
	at := place{enter: [2]entrance{net}}
	if n.user != nil { // first, since the right to enter the other one comes with it
		at.enter = [2]entrance{{n.user.Fd(), unix.CLONE_NEWUSER}, net}
	}
	defer runtime.KeepAlive(n)
	return runThere(context.Background(), at, args, nil)
}

// IsThere reports whether this program was started by RunInOwners or RunBeside.
func IsThere() bool { return os.Getenv(there) != "" }

// A place is where a program runs.
type place struct {
	enter    [2]entrance // one after another
	folder   *byte       // the working directory
	parent   uintptr     // the process that starts it
	freshNet bool        // in a new network namespace
}

// An entrance is what setns(2) takes: a descriptor of a namespace or of a process (pidfd_open(2)), and the kinds of namespaces; 0: none.
type entrance struct{ fd, kinds uintptr }

// runThere runs this program again, with the same files, and waits for its end.
func runThere(ctx context.Context, at place, args, env []string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return err
	}
	envv, err := syscall.SlicePtrFromStrings(append(append(os.Environ(), there+"=1"), env...))
	if err != nil {
		return err
	}
	name, err := syscall.BytePtrFromString(exe)
	if err != nil {
		return err
	}
	folder, err := os.Getwd()
	if err != nil {
		folder = "/"
	}
	if at.folder, err = syscall.BytePtrFromString(folder); err != nil {
		return err
	}
	at.parent = uintptr(os.Getpid())
	runtime.LockOSThread() // the program ends with the thread that has forked
	defer runtime.UnlockOSThread()
	pid, err := fork(at, name, &argv[0], &envv[0])
	if err != nil {
		return err
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = p.Signal(unix.SIGTERM) })()
	state, err := p.Wait()
	if err == nil && state.ExitCode() == notEntered {
		return errors.New("the namespace is not one of this user's: it belongs to root, or to another user; a user makes namespaces with `unshare -Urn`, bubblewrap or `uvswitch exec`")
	}
	if err == nil && !state.Success() {
		err = &exec.ExitError{ProcessState: state}
	}
	return err
}

// fork runs a program in a place, as nsenter(1) would. The program keeps the capabilities of the place's user namespace also if this user is not root
// there (capabilities(7), "ambient"). Its exit status is notEntered if the kernel refuses.
func fork(at place, name *byte, argv, envv **byte) (pid int, err error) {
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	var all, before [1]uint64
	all[0] = ^uint64(0)
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&before)), 8, 0, 0) // a signal's handler needs the other threads
	pid, errno := inChild(&at, name, argv, envv, &before)
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&before)), 0, 8, 0, 0)
	if errno != 0 {
		return 0, fmt.Errorf("cannot start a process: %w", errno)
	}
	return pid, nil
}

// notEntered is the exit status of a child that could not enter a place, or could not run the program there.
const notEntered = 125

// inChild forks. In the child, which has one thread, only system calls are made.
//
//go:norace
//go:noinline
func inChild(at *place, name *byte, argv, envv **byte, mask *[1]uint64) (int, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return int(pid), errno
	}
	for i := 0; i < len(at.enter) && errno == 0 && at.enter[i].kinds != 0; i++ {
		_, _, errno = syscall.RawSyscall(unix.SYS_SETNS, at.enter[i].fd, at.enter[i].kinds, 0) // of a process all in one call: the right to enter the others comes with the user namespace
	}
	if errno == 0 && at.freshNet {
		_, _, errno = syscall.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWNET, 0, 0)
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(at.folder)), 0, 0)        // to enter a mount namespace leads to its root
	_, _, _ = syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0) // setns has cleared an earlier one (linux kernel/cred.c, commit_creds)
	if parent, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); parent != at.parent {       // it has ended before
		errno = unix.ESRCH
	}
	var head unix.CapUserHeader
	var caps [2]unix.CapUserData
	head.Version = unix.LINUX_CAPABILITY_VERSION_3
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&caps)), 0)
	}
	caps[0].Inheritable, caps[1].Inheritable = caps[0].Permitted, caps[1].Permitted
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&caps)), 0)
	}
	for bit := uintptr(0); bit <= unix.CAP_LAST_CAP; bit++ {
		_, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, bit, 0, 0, 0) // fails for one that the process has not
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(mask)), 0, 8, 0, 0)
	if errno == 0 {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(argv)), uintptr(unsafe.Pointer(envv)))
	}
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, notEntered, 0, 0)
	}
}

// ownerOf opens the user namespace that owns the network namespace at path: who is root there may create devices in that network namespace.
func ownerOf(path string) (*os.File, error) {
	ns, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	fd, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return nil, fmt.Errorf("cannot find the user namespace that owns %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), "user namespace"), nil
}
