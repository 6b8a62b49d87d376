package vm

import (
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Dgram is a port for QEMU's `-netdev dgram`: one frame a datagram. The other side is who sent last; it must have an address
// (local.path) to be answered. It is known to be there once it has sent, and gone once it takes nothing.
type Dgram struct {
	endpoint
	fd   int
	from sockaddr // of the last Read
	peer atomic.Pointer[sockaddr]
}

// OpenDgram binds the socket that the machine sends to (its remote.path).
func OpenDgram(path string) (*Dgram, error) {
	d := &Dgram{fd: -1}
	if err := d.open(); err != nil {
		return nil, err
	}
	var err error
	if d.fd, err = d.bind(path, unix.SOCK_DGRAM); err == nil {
		_ = unix.SetsockoptInt(d.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20) // without, less fits
		err = d.watch(d.fd, unix.EPOLLIN)
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Connected tells whether there is somebody to send to.
func (d *Dgram) Connected() bool { return d.peer.Load() != nil }

// Read implements frame.Conn.
func (d *Dgram) Read(b []byte) (int, error) {
	for range retries {
		n, errno := receive(d.fd, b[frame.VnetLen:], &d.from)
		if errno == syscall.EAGAIN {
			return 0, nil
		}
		if errno != 0 || n > len(b)-frame.VnetLen {
			continue // one that is too long, or an error about what was sent before
		}
		if was := d.peer.Load(); d.from.known() && (was == nil || *was != d.from) {
			now := d.from
			d.peer.Store(&now)
		}
		if n = plainFrame(b, n); n > 0 {
			return n, nil
		}
	}
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
