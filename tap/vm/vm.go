package vm

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/tap"
)

// Virtual machines without a TAP speak frames over unix sockets: QEMU's `-netdev stream` (stream.go) and `-netdev dgram`
// (dgram.go), and VDE (vde.go). The other side comes and goes; the port stays, and is down meanwhile. What it sends is foreign: lengths
// are checked, a side that does not read loses frames, and nobody waits for it.

// endpoint is what they have in common: sockets behind one epoll descriptor, which a Poller waits for.
type endpoint struct {
	frame.Segmenter
	ep    int
	paths []string // sockets and folders made, removed by Close, the last first
}

func (e *endpoint) open() (err error) {
	if e.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("tap: %w", err)
	}
	return nil
}

// FD implements frame.Conn.
func (e *endpoint) FD() int { return e.ep }

// Vnet is false: frames have no virtio-net header there.
func (e *endpoint) Vnet() bool { return false }

// Longest implements frame.Conn: what was joined would only have to be taken apart.
func (e *endpoint) GSOMaxSize(uint8) int { return 0 }

func (e *endpoint) watch(fd int, events uint32) error {
	return unix.EpollCtl(e.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// bind makes a socket at path, for root and its group. What a dead switch has left there is replaced; what is alive, or no
// socket, is not.
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
		_ = os.Remove(path) // a failure shows below
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("tap: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("tap: cannot create the socket %s: %w", path, err)
	}
	e.paths = append(e.paths, path)
	if err := os.Chmod(path, 0o660); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("tap: %w", err)
	}
	return fd, nil
}

// alive tells whether a process has the socket at path.
func alive(path string, kind int) bool {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // one that is stopped is alive
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
		_ = os.Remove(e.paths[i]) // gone already is fine
	}
	return nil
}

// sockaddr is an address of the other side, as the kernel gives and takes it.
type sockaddr struct {
	raw unix.RawSockaddrUnix
	n   uint32
}

func (a *sockaddr) known() bool { return a.n > 2 } // more than the family: others cannot be answered

// receive reads one datagram into b and its sender into from; n is 0 when there is none.
func receive(fd int, b []byte, from *sockaddr) (n int, errno syscall.Errno) {
	from.n = uint32(unsafe.Sizeof(from.raw))
	r, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_TRUNC,
		uintptr(unsafe.Pointer(&from.raw)), uintptr(unsafe.Pointer(&from.n)))
	if errno != 0 {
		return 0, errno
	}
	return int(r), 0
}

// sendTo sends one datagram; to is nil on a socket that is connected.
func sendTo(fd int, b []byte, to *sockaddr) frame.Reason {
	if to == nil {
		to = &sockaddr{}
	}
	for {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL,
			uintptr(unsafe.Pointer(&to.raw)), uintptr(to.n)) // without a length, without an address
		switch errno {
		case syscall.EINTR:
			continue
		case syscall.ECONNREFUSED, syscall.ENOENT, syscall.ENOTCONN, syscall.EPERM, syscall.EACCES:
			return frame.PortDown // nobody is there
		}
		return tap.WriteReason(errno)
	}
}

// plainFrame completes what was read behind the room for a virtio-net header; 0 for what is no frame.
func plainFrame(b []byte, n int) int {
	if n <= 0 || n > frame.MaxFrame {
		return 0
	}
	clear(b[:frame.VnetLen])
	return frame.VnetLen + n
}

const retries = 64 // of one Read; each takes an error or a frame off the socket
