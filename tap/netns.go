package tap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoNamespace is wrapped by errors about a namespace that does not exist.
var ErrNoNamespace = errors.New("no such network namespace")

// ErrMayNotEnter is wrapped by errors about a namespace that this process may not enter.
var ErrMayNotEnter = errors.New("tap: this process may not enter other network namespaces")

// Own is the path of the namespace that the process was started in. It is opened before any thread can have moved:
// /proc/self/ns/net is the main thread's, and In may be running on that.
var Own = func() string {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "/proc/self/ns/net"
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd)
}()

// NamespacePath resolves how a user names a namespace: a name (as `ip netns` makes them), a path, or pid:N. The
// empty string is the caller's own.
func NamespacePath(ns string) (string, error) {
	path := ns
	switch {
	case ns == "":
		return Own, nil
	case strings.HasPrefix(ns, "pid:"):
		path = filepath.Join("/proc", ns[len("pid:"):], "ns/net")
	case !strings.ContainsRune(ns, '/'):
		path = filepath.Join("/run/netns", ns)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err == nil && fs.Type != unix.NSFS_MAGIC {
		return "", fmt.Errorf("%w: %s is something else", ErrNoNamespace, path)
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: %q (`ip netns` lists those with names; make one with `ip netns add %s`)", ErrNoNamespace, ns, filepath.Base(ns))
	}
	return path, nil
}

// In runs fn on a thread that is in the network namespace at path. What fn opens belongs there; goroutines that
// it starts do not.
func In(path string, fn func() error) error {
	done := make(chan error, 1)
	if isOwn(path) { // where threads are that nobody has locked: entering it again would need CAP_SYS_ADMIN
		go func() {
			runtime.LockOSThread()
			err := fn()
			if comeHome() == nil { // else the thread ends with this goroutine, and with it what it has started (PR_SET_PDEATHSIG)
				runtime.UnlockOSThread()
			}
			done <- err
		}()
		return <-done
	}
	go func() {
		runtime.LockOSThread()
		back, err := enter(path)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		err = fn()
		if back() == nil { // else the thread ends with this goroutine, still locked
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// comeHome takes this thread back to the process's own namespace, if it has left that.
func comeHome() error {
	if isOwn("/proc/thread-self/ns/net") {
		return nil
	}
	fd, err := unix.Open(Own, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, unix.CLONE_NEWNET)
}

func isOwn(path string) bool {
	if path == Own {
		return true
	}
	own, err := os.Stat(Own)
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(own, there)
}

// enter moves this thread into a namespace and returns the way back.
func enter(path string) (back func() error, err error) {
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("tap: this thread's namespace: %w", err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(own)
		return nil, fmt.Errorf("tap: namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		unix.Close(own)
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("%w (%s): it needs CAP_SYS_ADMIN", ErrMayNotEnter, path)
		}
		return nil, fmt.Errorf("tap: entering namespace %s: %w", path, err)
	}
	return func() error {
		defer unix.Close(own)
		return unix.Setns(own, unix.CLONE_NEWNET)
	}, nil
}
