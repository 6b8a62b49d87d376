// Package vm connects virtual machines that use no TAP. They exchange frames over unix sockets: QEMU's `-netdev stream`
// (Stream) and `-netdev dgram` (Dgram), and VDE (VDE).
//
// A machine may connect and disconnect; its port stays, and is down meanwhile. Input from machines is untrusted: lengths
// are checked. A machine that does not read loses frames, and nothing waits for it.
package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/rights"
	"github.com/uvswitch/uvswitch/tap"
)

// endpoint is the common part of all ports: sockets behind one epoll descriptor, on which a Poller waits.
type endpoint struct {
	frame.Segmenter
	ep    int
	paths []string // sockets and directories created; Close removes them in reverse order
}

func (e *endpoint) open() (err error) {
	if e.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("tap: %w", err)
	}
	return nil
}

// FD implements frame.Conn.
func (e *endpoint) FD() int { return e.ep }

// Vnet implements frame.Conn. It is false: frames on these sockets have no virtio-net header.
func (e *endpoint) Vnet() bool { return false }

// GSOMaxSize implements frame.Conn. It is 0: a coalesced packet would only have to be segmented again here.
func (e *endpoint) GSOMaxSize(uint8) int { return 0 }

func (e *endpoint) watch(fd int, events uint32) error {
	return unix.EpollCtl(e.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// again makes the epoll descriptor report fd once more, if fd is readable. A Read that leaves something unread calls it: a Poller waits for changes, and
// would not come back.
// To change what is watched would not do: fd is on the list of ready ones already (linux fs/eventpoll.c, ep_modify).
func (e *endpoint) again(fd int, events uint32) {
	_ = unix.EpollCtl(e.ep, unix.EPOLL_CTL_DEL, fd, nil)
	_ = e.watch(fd, events) // a dead one is noticed by the next Read
}

// bind creates a socket at path with mode 0660. It replaces a socket that a dead switch has left there. A socket that a
// process still uses, and any other file, is an error.
func (e *endpoint) bind(path string, kind int) (int, error) {
	if len(path) >= len(unix.RawSockaddrUnix{}.Path) {
		return -1, fmt.Errorf("tap: the path %s is too long for a unix socket; the limit is 107 characters", path)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return -1, fmt.Errorf("tap: %s exists and is not a socket; choose another path", path)
		}
		if alive(path, kind) {
			return -1, fmt.Errorf("tap: %w: another process listens on %s; choose another path", tap.ErrExists, path)
		}
		_ = os.Remove(path) // if it fails, Bind fails
	}
	if err := checkFolder(path); err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("tap: %w", err)
	}
	if err := rights.ForGroup(func() error { return unix.Bind(fd, &unix.SockaddrUnix{Name: path}) }); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("%w: create the folder %s first", err, filepath.Dir(path))
		}
		return -1, fmt.Errorf("tap: cannot create the socket %s: %w", path, err)
	}
	e.paths = append(e.paths, path)
	return fd, nil
}

// checkFolder refuses a folder in which every user may put another file in place of path.
func checkFolder(path string) error {
	folder := filepath.Dir(path)
	info, err := os.Stat(folder)
	if err == nil && info.Mode()&0o002 != 0 && info.Mode()&os.ModeSticky == 0 {
		return fmt.Errorf("tap: every user may replace files in %s; choose a folder that others cannot write, or set its sticky bit: chmod +t %s", folder, folder)
	}
	return nil // if there is none, bind(2) says so
}

// alive reports whether a process has the socket at path open.
func alive(path string, kind int) bool {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // a stopped process counts as alive
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return !errors.Is(unix.Connect(fd, &unix.SockaddrUnix{Name: path}), unix.ECONNREFUSED)
}

func (e *endpoint) close(fds ...int) error {
	for _, fd := range append(fds, e.ep) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	for i := len(e.paths) - 1; i >= 0; i-- {
		_ = os.Remove(e.paths[i]) // it may have been removed already
	}
	return nil
}

// sockaddr is the address of the other side, in the kernel's form.
type sockaddr struct {
	raw unix.RawSockaddrUnix
	n   uint32
}

func (a *sockaddr) known() bool { return a.n > 2 } // longer than the family alone: a socket without a name cannot be answered

// receive reads one datagram into b and its sender into from. n is the datagram's length in bytes, even if b is shorter;
// errno is EAGAIN when there is no datagram.
func receive(fd int, b []byte, from *sockaddr) (n int, errno syscall.Errno) {
	from.n = uint32(unsafe.Sizeof(from.raw))
	r, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_TRUNC,
		uintptr(unsafe.Pointer(&from.raw)), uintptr(unsafe.Pointer(&from.n)))
	if errno != 0 {
		return 0, errno
	}
	return int(r), 0
}

// sendTo sends one datagram. to is nil if the socket is connected.
func sendTo(fd int, b []byte, to *sockaddr) frame.Reason {
	if to == nil {
		to = &sockaddr{}
	}
	for {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL,
			uintptr(unsafe.Pointer(&to.raw)), uintptr(to.n)) // length 0: no address
		switch errno {
		case syscall.EINTR:
			continue
		case syscall.ECONNREFUSED, syscall.ENOENT, syscall.ENOTCONN, syscall.EPERM, syscall.EACCES:
			return frame.PortDown // nobody receives at that address
		}
		return tap.WriteReason(errno)
	}
}

// plainFrame puts a zero virtio-net header before the n bytes that were read and returns the length with it; 0 if n is not
// the length of a frame.
func plainFrame(b []byte, n int) int {
	if n <= 0 || n > frame.MaxFrame {
		return 0
	}
	clear(b[:frame.VnetLen])
	return frame.VnetLen + n
}

const retries = 64 // system calls per Read at most; each takes an error or a frame off the socket
