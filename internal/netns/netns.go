// Package netns finds network namespaces and runs functions inside them.
//
// It creates and deletes no namespace, and it configures no device (package link does).
//
// Sources: network_namespaces(7), setns(2), ip-netns(8).
package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotFound is wrapped by errors about a namespace that does not exist.
var ErrNotFound = errors.New("no such network namespace")

// ErrNotPermitted is wrapped by errors about a namespace that this process may not enter.
var ErrNotPermitted = errors.New("this process may not enter other network namespaces")

// Original is the path of the namespace that the process was started in. The namespace is opened before any thread can
// have moved: /proc/self/ns/net is the main thread's namespace, and Do may be running on the main thread.
var Original = func() string {
	fd, err := unix.Open(ofThread, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "/proc/self/ns/net"
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd)
}()

const ofThread = "/proc/thread-self/ns/net"

// Path resolves the name that a user gives to a namespace: a name (as `ip netns` makes them), a path, or pid:N. The empty
// string is the original namespace. The error wraps ErrNotFound.
func Path(ns string) (string, error) {
	path := ns
	switch {
	case ns == "":
		return Original, nil
	case strings.HasPrefix(ns, "pid:"):
		path = filepath.Join("/proc", ns[len("pid:"):], "ns/net")
	case !strings.ContainsRune(ns, '/'):
		path = filepath.Join("/run/netns", ns)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err == nil && fs.Type != unix.NSFS_MAGIC {
		return "", fmt.Errorf("%w: %s is not a namespace", ErrNotFound, path)
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrPermission) {
		return path, nil // who enters it may see it
	} else if err != nil && strings.HasPrefix(ns, "pid:") {
		return "", fmt.Errorf("%w: %q (the form is pid:NUMBER, with the number of a running process)", ErrNotFound, ns)
	} else if err != nil {
		return "", fmt.Errorf("%w: %q (`ip netns` lists named ones; create one with `ip netns add %s`)", ErrNotFound, ns, filepath.Base(ns))
	}
	return path, nil
}

// Same reports whether two paths name the same namespace.
func Same(a, b string) (bool, error) {
	if a == b {
		return true, nil
	}
	x, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Stat(b)
	if err != nil {
		return false, err
	}
	return os.SameFile(x, y), nil
}

// DoApart runs fn on a thread inside a new network namespace, and waits. The namespace lasts as long as something that fn has opened in it. The
// error wraps ErrNotPermitted without CAP_SYS_ADMIN.
func DoApart(fn func() error) error { return do(thread.leave, fn) }

// Do runs fn on a thread inside the network namespace at path, and waits. Whatever fn opens belongs to that namespace;
// goroutines that fn starts run elsewhere. The error wraps ErrNotPermitted where entering needs a right that the process
// lacks: the original namespace never does.
func Do(path string, fn func() error) error {
	return do(func(t thread) error { return t.enter(path) }, fn)
}

func do(goThere func(thread) error, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		t := takeThread()
		defer t.giveBack()
		if err := goThere(t); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}
