package sockets

import (
	"errors"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/share"
)

// system is what the engine waits with: an epoll that has all sockets, an event for calls of others, and a timer.
type system struct {
	epoll, event, timer int
	ticking             bool
}

func (s *system) open() (err error) {
	s.epoll, s.event, s.timer = -1, -1, -1
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		s.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err == nil {
		s.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	}
	if err == nil {
		err = errors.Join(s.add(s.event, 0, tag(isEvent, 0), unix.EPOLLIN), s.add(s.timer, 0, tag(isTimer, 0), unix.EPOLLIN))
	}
	if err != nil {
		_ = s.close()
	}
	return err
}

// tickTime is how often deadlines are looked at.
const tickTime = 100 * time.Millisecond

// tick starts or stops the timer.
func (s *system) tick(on bool) {
	if s.ticking == on {
		return
	}
	s.ticking = on
	var every unix.Timespec
	if on {
		every = unix.NsecToTimespec(int64(tickTime))
	}
	_ = unix.TimerfdSettime(s.timer, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil)
}

func (s *system) close() error {
	for _, fd := range []int{s.event, s.timer, s.epoll} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	s.epoll, s.event, s.timer = -1, -1, -1
	return nil
}

// add watches a descriptor. Events are told once (edge-triggered): data that was peeked at stays in its socket.
func (s *system) add(fd int, index, pad int32, events uint32) error {
	return unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events | unix.EPOLLET&0xffffffff, Fd: index, Pad: pad})
}

//uvswitch:hot
func (s *system) wait(events []unix.EpollEvent) (int, error) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(s.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EINTR:
		return 0, nil
	}
	return 0, errno
}

func (s *system) setEvent() {
	one := [8]byte{1}
	_, _ = unix.Write(s.event, one[:])
}

func (s *system) clearEvent() {
	var b [8]byte
	_, _ = unix.Read(s.event, b[:])
}

func (s *system) clearTimer() {
	var b [8]byte
	_, _ = unix.Read(s.timer, b[:])
}

// calls are functions that wait for the worker.
type calls struct {
	mu      sync.Mutex // Lock 59
	list    []func()
	stopped bool // the worker has ended: whoever calls runs the function
}

// add reports whether fn waits for the worker now.
func (c *calls) add(fn func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		c.list = append(c.list, fn)
	}
	return !c.stopped
}

func (c *calls) run() {
	c.mu.Lock()
	list := c.list
	c.list = nil
	c.mu.Unlock()
	for _, fn := range list {
		fn()
	}
}

// peek reads n bytes at most without taking them from the socket, from where the last peek ended.
//
//uvswitch:hot
func peek(fd int32, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// peek2 is peek into two places.
//
//uvswitch:hot
func peek2(fd int32, a, b []byte) (int, syscall.Errno) {
	iov := [2]unix.Iovec{{Base: &a[0]}, {Base: &b[0]}}
	iov[0].SetLen(len(a))
	iov[1].SetLen(len(b))
	m := unix.Msghdr{Iov: &iov[0]}
	m.SetIovlen(len(iov))
	n, _, errno := syscall.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&m)), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return int(n), errno
}

// discard takes n bytes from the socket.
//
//uvswitch:hot
func discard(fd int32, n uint32) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, uintptr(n), unix.MSG_TRUNC|unix.MSG_DONTWAIT, 0, 0)
}

// sendAll sends pieces of data.
//
//uvswitch:hot
func sendAll(fd int32, iov []unix.Iovec) (int, syscall.Errno) {
	m := unix.Msghdr{Iov: &iov[0]}
	m.SetIovlen(len(iov))
	n, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&m)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return int(n), errno
}

// queued is how many bytes the peer of a TCP socket has not acknowledged.
//
//uvswitch:hot
func queued(fd int32) int {
	var n int32
	_, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return 0
	}
	return int(n)
}

//uvswitch:hot
func sendBuffer(fd int32) int {
	var n int32
	size := uint32(unsafe.Sizeof(n))
	_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, uintptr(unsafe.Pointer(&n)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// sockaddr is an address for connect(2) and bind(2).
func sockaddr(a frame.Addr6, port uint16) unix.Sockaddr {
	if ip := netipOf(a); ip.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: ip.As4()}
	}
	return &unix.SockaddrInet6{Port: int(port), Addr: a.Netip().As16()}
}

// endpoint is the address and the port that the kernel has told.
func endpoint(sa unix.Sockaddr) (a frame.Addr6, port uint16) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return map4(frame.LoadAddr(sa.Addr[:])), uint16(sa.Port)
	case *unix.SockaddrInet6:
		return frame.LoadAddr6(sa.Addr[:]), uint16(sa.Port)
	}
	return a, 0
}

func familyOf(a frame.Addr6) int {
	if is4(a) {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// pieces are buffers of 64 KiB for what sockets did not take at once. Memory that was never used takes no room.
type pieces struct {
	shares share.Pool // by port

	mem  []byte
	free []int32
	made int32
}

const (
	pieceSize = 64 << 10
	maxPieces = 1024
)

// get returns the number of a piece for a port; false if it has its part, or all are in use.
func (p *pieces) get(owner frame.PortID) (int32, bool) {
	if !p.shares.Take(owner) {
		return 0, false
	}
	i, ok := p.take()
	if !ok {
		p.shares.Return(owner)
	}
	return i, ok
}

func (p *pieces) take() (int32, bool) {
	if n := len(p.free); n > 0 {
		i := p.free[n-1]
		p.free = p.free[:n-1]
		return i, true
	}
	if p.mem == nil {
		mem, err := unix.Mmap(-1, 0, pieceSize*maxPieces, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err != nil {
			return 0, false
		}
		p.mem = mem
	}
	if p.made == maxPieces {
		return 0, false
	}
	p.made++
	return p.made - 1, true
}

func (p *pieces) put(i int32, owner frame.PortID) {
	p.shares.Return(owner)
	p.free = append(p.free, i)
}

func (p *pieces) of(i int32) []byte { return p.mem[int(i)*pieceSize : int(i+1)*pieceSize] }

func (p *pieces) close() {
	if p.mem != nil {
		_ = unix.Munmap(p.mem)
		p.mem = nil
	}
}
