package vm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/rights"
)

// VDE is a port that looks like a VDE switch with one free port to its clients (vde_plug, QEMU's `-netdev vde`,
// VirtualBox): a directory with the control socket ctl. One client can be connected at a time; it disconnects when it
// closes its control connection.
//
// Source: VDE's protocol, version 3. A request on the control connection names the client's datagram socket; the answer
// names ours. Ours is connected to the client's before the answer, since the client may then remove its socket's name.
// Each datagram is one frame.
type VDE struct {
	endpoint
	listener int
	ctl      int         // the client's control connection; -1: none
	data     int         // our datagram socket; each client gets a new one with the same number, since workers may be writing
	name     string      // path of data
	there    atomic.Bool // a client is connected
}

const (
	vdeMagic   = 0xfeedface
	vdeVersion = 3
	vdeRequest = 12 + sockaddrLen // bytes: magic, version, type, address of the client's data socket; a description may follow
)

const sockaddrLen = int(unsafe.Sizeof(unix.RawSockaddrUnix{}))

// OpenVDE creates the directory dir, unless it exists, and the sockets in it. If another process uses them, the error wraps
// tap.ErrExists.
func OpenVDE(dir string) (*VDE, error) {
	v := &VDE{listener: -1, data: -1, ctl: -1, name: filepath.Join(dir, "data")}
	if err := v.open(); err != nil {
		return nil, err
	}
	err := v.sockets(dir)
	if err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

func (v *VDE) sockets(dir string) error {
	switch err := os.Mkdir(dir, 0o770); {
	case err == nil:
		v.paths = append(v.paths, dir)
	case !errors.Is(err, os.ErrExist):
		return fmt.Errorf("tap: %w", err)
	}
	var err error
	if v.listener, err = v.bind(filepath.Join(dir, "ctl"), unix.SOCK_STREAM); err != nil {
		return err
	}
	if v.data, err = v.bind(v.name, unix.SOCK_DGRAM); err != nil { // holds the name until a client connects
		return err
	}
	if err := unix.Listen(v.listener, 4); err != nil {
		return fmt.Errorf("tap: %w", err)
	}
	return v.watch(v.listener, unix.EPOLLIN)
}

// Connected reports whether a client is connected.
func (v *VDE) Connected() bool { return v.there.Load() }

// Read implements frame.Conn.
func (v *VDE) Read(b []byte) (int, error) {
	for range retries {
		if !v.there.Load() {
			if v.control(); !v.there.Load() {
				return 0, nil
			}
		}
		var from sockaddr
		n, errno := receive(v.data, b[frame.VnetLen:], &from)
		switch {
		case errno == syscall.EAGAIN:
			v.control()
			return 0, nil
		case errno != 0 || n > len(b)-frame.VnetLen: // the error belongs to an earlier send, or the datagram is too long
			continue
		}
		if n = plainFrame(b, n); n > 0 {
			return n, nil
		}
	}
	v.again(v.data, unix.EPOLLIN)
	return 0, nil
}

const acceptsPerCall = 16 // more than may wait at once (listen)

// control handles clients that connect and disconnect.
func (v *VDE) control() {
	if v.ctl >= 0 {
		v.request()
	}
	for range acceptsPerCall { // whoever connects again and again must not hold the worker
		fd, _, err := unix.Accept4(v.listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			return
		}
		switch {
		case v.there.Load(): // the port is taken
			unix.Close(fd)
			continue
		case v.ctl >= 0: // a client that has not sent its request: replace it
			v.hangUp()
		}
		v.ctl = fd
		if v.watch(fd, unix.EPOLLIN) != nil {
			v.hangUp()
			continue
		}
		v.request()
	}
}

// request reads from the client's control connection: its request, or the end of the connection.
func (v *VDE) request() {
	var b [vdeRequest + 1024]byte
	n, err := unix.Read(v.ctl, b[:])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return
	case err != nil || n == 0 || v.there.Load() || n < vdeRequest-len(unix.RawSockaddrUnix{}.Path)+1:
		v.hangUp() // the end, or not VDE's protocol
		return
	}
	e := binary.NativeEndian
	if e.Uint32(b[:]) != vdeMagic || e.Uint32(b[4:]) != vdeVersion {
		v.hangUp()
		return
	}
	path := unix.ByteSliceToString(b[14:vdeRequest])
	if e.Uint16(b[12:]) != unix.AF_UNIX || v.connectTo(path) != nil {
		v.hangUp()
		return
	}
	answer := make([]byte, sockaddrLen)
	e.PutUint16(answer, unix.AF_UNIX)
	copy(answer[2:], v.name)
	if n, err := unix.Write(v.ctl, answer); err != nil || n != len(answer) {
		v.hangUp()
		return
	}
	v.there.Store(true)
}

// connectTo connects to the client's socket at path. The socket must belong to the client's user: frames must not go to another user's socket.
// connectTo opens the socket, checks it, and connects to what it has opened: a path that changes meanwhile changes nothing.
func (v *VDE) connectTo(path string) error {
	cred, err := unix.GetsockoptUcred(v.ctl, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || path == "" {
		return errors.Join(err, unix.ENOENT)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || st.Uid != cred.Uid {
		return unix.EACCES
	}
	return v.connect(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// connect replaces data by a socket that is bound to our name and connected to the client's socket at path.
func (v *VDE) connect(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_ = os.Remove(v.name)                                                   // the name of the previous socket
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20) // bytes; if it fails, fewer frames fit
	err = rights.ForGroup(func() error { return unix.Bind(fd, &unix.SockaddrUnix{Name: v.name}) })
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Dup3(fd, v.data, unix.O_CLOEXEC)
	}
	if err != nil {
		return err
	}
	return v.watch(v.data, unix.EPOLLIN)
}

func (v *VDE) hangUp() {
	v.there.Store(false)
	unix.Close(v.ctl) // removes it from epoll as well
	v.ctl = -1
	if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err == nil {
		_ = unix.Dup3(fd, v.data, unix.O_CLOEXEC) // a socket that is not connected
		unix.Close(fd)
	}
}

// Write implements frame.Conn.
func (v *VDE) Write(f *frame.Frame) frame.Reason {
	if !v.there.Load() {
		return frame.PortDown
	}
	return v.Segmenter.Send(f, func(b []byte) frame.Reason { return sendTo(v.data, b, nil) })
}

// Close implements frame.Conn.
func (v *VDE) Close() error { return v.close(v.listener, v.data, v.ctl) }
