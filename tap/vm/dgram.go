package vm

import (
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Dgram is a port for QEMU's `-netdev dgram`: each datagram is one frame. Frames go to the machine that sent last; it needs
// an address (local.path). A machine counts as connected once it has sent, and as gone when its address no longer accepts.
type Dgram struct {
	endpoint
	fd   int
	from sockaddr // sender of the last datagram
	peer atomic.Pointer[sockaddr]
}

// OpenDgram creates the unix socket path, to which the machine sends (its remote.path). If another process uses path, the
// error wraps tap.ErrExists.
func OpenDgram(path string) (*Dgram, error) {
	d := &Dgram{fd: -1}
	if err := d.open(); err != nil {
		return nil, err
	}
	var err error
	if d.fd, err = d.bind(path, unix.SOCK_DGRAM); err == nil {
		_ = unix.SetsockoptInt(d.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20) // bytes; if it fails, fewer frames fit
		err = d.watch(d.fd, unix.EPOLLIN)
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Connected reports whether there is a machine to send to.
func (d *Dgram) Connected() bool { return d.peer.Load() != nil }

// Read implements frame.Conn.
func (d *Dgram) Read(b []byte) (int, error) {
	for range retries {
		n, errno := receive(d.fd, b[frame.VnetLen:], &d.from)
		if errno == syscall.EAGAIN {
			return 0, nil
		}
		if errno != 0 || n > len(b)-frame.VnetLen {
			continue // the datagram is too long, or the error belongs to an earlier send
		}
		if was := d.peer.Load(); d.from.known() && (was == nil || *was != d.from) {
			now := d.from
			d.peer.Store(&now)
		}
		if n = plainFrame(b, n); n > 0 {
			return n, nil
		}
	}
	d.again(d.fd, unix.EPOLLIN)
	return 0, nil
}

// Write implements frame.Conn.
func (d *Dgram) Write(f *frame.Frame) frame.Reason {
	to := d.peer.Load()
	if to == nil {
		return frame.PortDown
	}
	why := d.Segmenter.Send(f, func(b []byte) frame.Reason { return sendTo(d.fd, b, to) })
	if why == frame.PortDown {
		d.peer.CompareAndSwap(to, nil)
	}
	return why
}

// Close implements frame.Conn.
func (d *Dgram) Close() error { return d.close(d.fd) }
