package netns

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// A thread is the calling goroutine's own OS thread. It may leave the original namespace, and the rule about such threads
// stands here alone: only a thread that is back in the original namespace is used for other goroutines again. A thread that
// cannot return ends with its goroutine, and the kernel then ends the processes that it has started with PR_SET_PDEATHSIG.
type thread struct{}

// takeThread binds the calling goroutine to its thread. Call giveBack on the same goroutine.
func takeThread() thread {
	runtime.LockOSThread()
	return thread{}
}

// enter moves the thread into the namespace at path. Entering the original namespace from itself needs no right.
func (thread) enter(path string) error {
	if same, err := Same(path, Original); err == nil && same && isHome() {
		return nil
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%w (%s); this needs CAP_SYS_ADMIN", ErrNotPermitted, path)
		}
		return fmt.Errorf("entering namespace %s: %w", path, err)
	}
	return nil
}

// leave moves the thread into a new namespace.
func (thread) leave() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("%w: cannot make one: %w; this needs CAP_SYS_ADMIN", ErrNotPermitted, err)
	}
	return nil
}

// giveBack returns the thread to the original namespace and to the scheduler. On a failure the thread stays locked, so that
// it ends with its goroutine.
func (thread) giveBack() {
	if isHome() || goHome() == nil {
		runtime.UnlockOSThread()
	}
}

// isHome reports whether the calling thread is in the original namespace.
func isHome() bool {
	same, err := Same(ofThread, Original)
	return err == nil && same
}

func goHome() error {
	fd, err := unix.Open(Original, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, unix.CLONE_NEWNET)
}
