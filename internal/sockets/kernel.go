package sockets

import (
	"errors"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Kernel is the host's kernel, as TCP sees it. Descriptors are those that it has returned. Linux is the real one; tests have another one, in virtual
// time.
type Kernel interface {
	// FD is readable when Wait has events; -1 if nobody waits.
	FD() int
	// Watch makes Wait tell events of a descriptor, each once (edge-triggered): data that was peeked at stay in the socket. fd and pad are told with them.
	// A second call for the descriptor replaces the events.
	Watch(socket int32, fd, pad int32, events uint32) error
	// Wait returns how many events there are, without waiting.
	Wait(events []unix.EpollEvent) (int, error)
	// Wake makes an event of kind isEvent. Any goroutine may call it.
	Wake()
	// Tick starts or stops events of kind isTimer, one each TickTime.
	Tick(on bool)

	// Connect begins a connection by a prepared socket, with a traffic class if tos is not 0. peeks is what Prepare has said.
	Connect(to frame.Addr6, port uint16, tos int) (socket int32, peeks bool, err error)
	// Prepare sets the options of a socket. Accepted connections inherit those of their listening socket. If the process ends before it calls End, the
	// kernel resets the connection. peeks says whether the kernel keeps an offset of Peek. Any goroutine may call it.
	Prepare(socket int32) (peeks bool)
	// Accept takes a connection that waits at a listening socket. own is where the client has connected to.
	Accept(door int) (socket int32, own, peer End, err error)
	// Failed takes the error of a socket (SO_ERROR).
	Failed(socket int32) syscall.Errno
	// Peek reads what follows the last Peek, without taking it from the socket.
	Peek(socket int32, b []byte) (int, syscall.Errno)
	// PeekFrom is Peek where the kernel keeps no offset: it reads the first skip bytes, too, and counts them.
	PeekFrom(socket int32, skip int, b []byte) (int, syscall.Errno)
	// Rewind makes the next Peek begin at the first byte.
	Rewind(socket int32)
	// Discard takes n bytes from the socket, or all that are there.
	Discard(socket int32, n uint32)
	// Send sends pieces of data, as far as the socket takes them.
	Send(socket int32, data []unix.Iovec) (int, syscall.Errno)
	// Queued is how many bytes the peer has not acknowledged.
	Queued(socket int32) int
	// SendBuffer is the size of the socket's buffer, in bytes.
	SendBuffer(socket int32) int
	// Shutdown ends the direction to the peer.
	Shutdown(socket int32)
	// End closes a socket: by a reset, or so that the peer still gets what was sent.
	End(socket int32, reset bool)

	Close() error
}

// An End is an address and a port.
type End struct {
	Addr frame.Addr6
	Port uint16
}

// Linux is the kernel of this host.
type Linux struct {
	epoll, event, timer int
	ticking             bool
	thrown              []byte // what PeekFrom reads again

	NoPeekOffset bool // for tests: as a kernel that knows no SO_PEEK_OFF for TCP
}

// NewLinux opens what an engine waits with: an epoll that has all sockets, an event for calls of others, and a timer.
func NewLinux() (*Linux, error) {
	l := &Linux{epoll: -1, event: -1, timer: -1, thrown: make([]byte, rereadSize)}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		l.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err == nil {
		l.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	}
	if err == nil {
		err = errors.Join(l.Watch(int32(l.event), 0, tag(isEvent, 0), unix.EPOLLIN), l.Watch(int32(l.timer), 0, tag(isTimer, 0), unix.EPOLLIN))
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// TickTime is how often deadlines are looked at.
const TickTime = 100 * time.Millisecond

// Tick implements Kernel.
func (l *Linux) Tick(on bool) {
	if l.ticking == on {
		return
	}
	l.ticking = on
	var every unix.Timespec
	if on {
		every = unix.NsecToTimespec(int64(TickTime))
	}
	_ = unix.TimerfdSettime(l.timer, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil)
}

// Close implements Kernel.
func (l *Linux) Close() error {
	for _, fd := range []int{l.event, l.timer, l.epoll} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	l.epoll, l.event, l.timer = -1, -1, -1
	return nil
}

// FD implements Kernel.
func (l *Linux) FD() int { return l.epoll }

// Watch implements Kernel.
func (l *Linux) Watch(socket int32, fd, pad int32, events uint32) error {
	ev := unix.EpollEvent{Events: events | unix.EPOLLET&0xffffffff, Fd: fd, Pad: pad}
	err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, int(socket), &ev)
	if err == unix.EEXIST {
		err = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_MOD, int(socket), &ev)
	}
	return err
}

// Wait implements Kernel.
//
//uvswitch:hot
func (l *Linux) Wait(events []unix.EpollEvent) (int, error) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	switch errno {
	case 0:
	case unix.EINTR:
		return 0, nil
	default:
		return 0, errno
	}
	for i := range events[:n] {
		switch kindOf(&events[i]) {
		case isEvent:
			clearCount(l.event)
		case isTimer:
			clearCount(l.timer)
		}
	}
	return int(n), nil
}

// clearCount makes an eventfd or a timerfd unreadable.
func clearCount(fd int) {
	var b [8]byte
	_, _ = unix.Read(fd, b[:])
}

// Wake implements Kernel.
func (l *Linux) Wake() {
	one := [8]byte{1}
	_, _ = unix.Write(l.event, one[:])
}

// Connect implements Kernel.
func (l *Linux) Connect(to frame.Addr6, port uint16, tos int) (socket int32, peeks bool, _ error) {
	fd, err := unix.Socket(familyOf(to), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return -1, false, err
	}
	peeks = l.Prepare(int32(fd))
	if tos != 0 {
		_ = setTOS(fd, to, tos)
	}
	if err := unix.Connect(fd, sockaddr(to, port)); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return -1, false, err
	}
	return int32(fd), peeks, nil
}

func setTOS(fd int, to frame.Addr6, tos int) error {
	if is4(to) {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, tos)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, tos)
}

// Accept implements Kernel.
func (l *Linux) Accept(door int) (socket int32, own, peer End, err error) {
	a := rawAddr{n: unix.SizeofSockaddrAny}
	fd, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(door), uintptr(unsafe.Pointer(&a.raw)), uintptr(unsafe.Pointer(&a.n)), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0, 0)
	if errno != 0 {
		return -1, own, peer, errno
	}
	peer.Addr, peer.Port = a.get()
	a.n = unix.SizeofSockaddrAny
	if _, _, errno = syscall.RawSyscall(unix.SYS_GETSOCKNAME, fd, uintptr(unsafe.Pointer(&a.raw)), uintptr(unsafe.Pointer(&a.n))); errno != 0 {
		unix.Close(int(fd))
		return -1, own, peer, errno
	}
	own.Addr, own.Port = a.get()
	return int32(fd), own, peer, nil
}

// Prepare implements Kernel.
func (l *Linux) Prepare(socket int32) (peeks bool) {
	fd := int(socket)
	_ = unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1)     // the container's kernel has decided what to send
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) // else urgent data would be missing where data are counted
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_KEEPIDLE, 120)
	setReset(fd, true)
	return !l.NoPeekOffset && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0) == nil
}

// Failed implements Kernel.
func (l *Linux) Failed(socket int32) syscall.Errno {
	errno, _ := unix.GetsockoptInt(int(socket), unix.SOL_SOCKET, unix.SO_ERROR)
	return syscall.Errno(errno)
}

// Peek implements Kernel.
//
//uvswitch:hot
func (l *Linux) Peek(socket int32, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(socket), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// PeekFrom implements Kernel.
//
//uvswitch:hot
func (l *Linux) PeekFrom(socket int32, skip int, b []byte) (int, syscall.Errno) {
	if skip == 0 {
		return l.Peek(socket, b)
	}
	iov := [2]unix.Iovec{{Base: &l.thrown[0]}, {Base: &b[0]}}
	iov[0].SetLen(skip)
	iov[1].SetLen(len(b))
	m := unix.Msghdr{Iov: &iov[0]}
	m.SetIovlen(len(iov))
	n, _, errno := syscall.RawSyscall(unix.SYS_RECVMSG, uintptr(socket), uintptr(unsafe.Pointer(&m)), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return int(n), errno
}

// Rewind implements Kernel.
func (l *Linux) Rewind(socket int32) {
	_ = unix.SetsockoptInt(int(socket), unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0)
}

// Discard implements Kernel.
//
//uvswitch:hot
func (l *Linux) Discard(socket int32, n uint32) {
	for n > 0 { // a read ends before urgent data
		m, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(socket), 0, uintptr(n), unix.MSG_TRUNC|unix.MSG_DONTWAIT, 0, 0)
		if errno != 0 || m == 0 {
			return // nothing is there, or a reset, of which the epoll tells
		}
		n -= uint32(m)
	}
}

// Send implements Kernel.
//
//uvswitch:hot
func (l *Linux) Send(socket int32, data []unix.Iovec) (int, syscall.Errno) {
	m := unix.Msghdr{Iov: &data[0]}
	m.SetIovlen(len(data))
	n, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(socket), uintptr(unsafe.Pointer(&m)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return int(n), errno
}

// Queued implements Kernel.
//
//uvswitch:hot
func (l *Linux) Queued(socket int32) int {
	var n int32
	_, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return 0
	}
	return int(n)
}

// SendBuffer implements Kernel.
//
//uvswitch:hot
func (l *Linux) SendBuffer(socket int32) int {
	var n int32
	size := uint32(unsafe.Sizeof(n))
	_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(socket), unix.SOL_SOCKET, unix.SO_SNDBUF, uintptr(unsafe.Pointer(&n)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// Shutdown implements Kernel. It fails after a reset, which Peek finds.
func (l *Linux) Shutdown(socket int32) { _ = unix.Shutdown(int(socket), unix.SHUT_WR) }

// End implements Kernel.
func (l *Linux) End(socket int32, reset bool) {
	setReset(int(socket), reset)
	unix.Close(int(socket))
}

// setReset says whether close(2) resets a connection (socket(7), SO_LINGER). If it does, so does the end of this process, whatever ends it: a FIN
// would tell the peer that all data have been sent.
func setReset(fd int, reset bool) {
	var l unix.Linger
	if reset {
		l.Onoff = 1
	}
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &l)
}
