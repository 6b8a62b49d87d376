package vm

import (
	"encoding/binary"
	"errors"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Stream is a port for QEMU's `-netdev stream,server=off`. Each frame follows its length (4 bytes, big-endian). The switch
// listens. One machine can be connected at a time; it may reconnect.
type Stream struct {
	endpoint
	listener int

	// busy is a lock: workers that write and the worker that reads must not mix the bytes of two frames.
	busy    atomic.Bool
	conn    atomic.Int32 // descriptor of the connection; -1: none
	rest    []byte       // unsent bytes of a frame that was sent in part
	waiting bool         // epoll watches for room to send rest

	in         []byte // bytes read; used by the reader only
	start, end int
}

const (
	streamHeader = 4
	streamBuffer = 256 << 10
)

// OpenStream creates the unix socket path and listens on it. If another process uses path, the error wraps tap.ErrExists.
func OpenStream(path string) (*Stream, error) {
	s := &Stream{listener: -1, in: make([]byte, streamBuffer)}
	s.conn.Store(-1)
	if err := s.open(); err != nil {
		return nil, err
	}
	var err error
	if s.listener, err = s.bind(path, unix.SOCK_STREAM); err == nil {
		err = errors.Join(unix.Listen(s.listener, 4), s.watch(s.listener, unix.EPOLLIN))
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Connected reports whether a machine is connected.
func (s *Stream) Connected() bool { return s.conn.Load() >= 0 }

// take locks busy. The lock is only held for non-blocking system calls.
func (s *Stream) take() {
	for n := 0; !s.busy.CompareAndSwap(false, true); n++ {
		if n > 1000 {
			runtime.Gosched()
		}
	}
}

func (s *Stream) release() { s.busy.Store(false) }

// Read implements frame.Conn.
func (s *Stream) Read(b []byte) (int, error) {
	for range retries {
		if n, ok := s.next(b); ok {
			return n, nil
		}
		fd := int(s.conn.Load())
		if fd < 0 {
			if !s.accept() {
				return 0, nil
			}
			continue
		}
		if s.start > 0 { // make room
			s.end = copy(s.in, s.in[s.start:s.end])
			s.start = 0
		}
		n, err := unix.Read(fd, s.in[s.end:])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			s.flush()
			s.refuse()
			return 0, nil
		case err != nil || n <= 0:
			s.hangUp()
		default:
			s.end += n
		}
	}
	s.take()
	defer s.release()
	if fd := int(s.conn.Load()); fd >= 0 {
		s.again(fd, s.events())
	} else {
		s.again(s.listener, unix.EPOLLIN)
	}
	return 0, nil
}

// next takes a whole frame out of the bytes that were read; ok is false if there is none. An invalid length ends the
// connection, since the bytes after it have no meaning.
func (s *Stream) next(b []byte) (n int, ok bool) {
	have := s.in[s.start:s.end]
	if len(have) < streamHeader {
		return 0, false
	}
	length := int(binary.BigEndian.Uint32(have))
	if length == 0 || length > frame.MaxFrame {
		s.hangUp()
		return 0, false
	}
	if len(have) < streamHeader+length {
		return 0, false
	}
	copy(b[frame.VnetLen:], have[streamHeader:streamHeader+length])
	s.start += streamHeader + length
	return plainFrame(b, length), true
}

func (s *Stream) accept() bool {
	fd, _, err := unix.Accept4(s.listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return false
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<20) // bytes: bounded, but enough for a burst
	if s.watch(fd, unix.EPOLLIN) != nil {
		unix.Close(fd)
		return true
	}
	s.take()
	defer s.release()
	s.start, s.end, s.rest, s.waiting = 0, 0, s.rest[:0], false
	s.conn.Store(int32(fd))
	return true
}

// refuse closes the next new connection: a machine is connected already.
func (s *Stream) refuse() {
	if fd, _, err := unix.Accept4(s.listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK); err == nil {
		unix.Close(fd)
	}
}

// hangUp ends the connection. Only the reader may call it.
func (s *Stream) hangUp() {
	s.take()
	defer s.release()
	if fd := s.conn.Swap(-1); fd >= 0 {
		unix.Close(int(fd))
	}
	s.start, s.end, s.rest = 0, 0, s.rest[:0]
}

// Write implements frame.Conn.
func (s *Stream) Write(f *frame.Frame) frame.Reason {
	s.take()
	defer s.release()
	return s.Segmenter.Send(f, s.send)
}

// send sends one frame, or nothing. If the socket takes only a part, the rest is kept for flush. The caller holds busy.
func (s *Stream) send(b []byte) frame.Reason {
	fd := int(s.conn.Load())
	if fd < 0 {
		return frame.PortDown
	}
	if !s.flushed(fd) {
		return frame.TxQueueFull
	}
	var head [streamHeader]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(b)))
	iov := [2]unix.Iovec{{Base: &head[0], Len: streamHeader}, {Base: &b[0], Len: uint64(len(b))}}
	msg := unix.Msghdr{Iov: &iov[0], Iovlen: 2}
	n, _, errno := syscall.RawSyscall(syscall.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	switch {
	case errno == syscall.EAGAIN || errno == syscall.EINTR:
		return frame.TxQueueFull
	case errno != 0: // the reader gets the error, too, and hangs up
		return frame.PortDown
	case int(n) < streamHeader:
		s.rest = append(append(s.rest[:0], head[n:]...), b...)
	default:
		s.rest = append(s.rest[:0], b[int(n)-streamHeader:]...)
	}
	if len(s.rest) > 0 {
		s.await(fd, true)
	}
	return frame.None
}

// flush sends the rest of a frame that was sent in part.
func (s *Stream) flush() {
	s.take()
	defer s.release()
	if fd := int(s.conn.Load()); fd >= 0 {
		s.flushed(fd)
	}
}

func (s *Stream) flushed(fd int) bool {
	for len(s.rest) > 0 {
		n, err := unix.SendmsgN(fd, s.rest, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err != nil || n <= 0 {
			return false
		}
		s.rest = s.rest[:copy(s.rest, s.rest[n:])]
	}
	if s.waiting {
		s.await(fd, false)
	}
	return true
}

// await makes epoll watch for room to send as well, which wakes the reader; with room false, only for input.
func (s *Stream) await(fd int, room bool) {
	s.waiting = room
	_ = unix.EpollCtl(s.ep, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: s.events(), Fd: int32(fd)}) // Read notices a dead one
}

// events are what the connection is watched for.
func (s *Stream) events() uint32 {
	if s.waiting {
		return unix.EPOLLIN | unix.EPOLLOUT
	}
	return unix.EPOLLIN
}

// Close implements frame.Conn.
func (s *Stream) Close() error { return s.close(s.listener, int(s.conn.Swap(-1))) }
