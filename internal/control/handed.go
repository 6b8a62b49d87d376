package control

import (
	"net"
	"net/http"
	"sync"

	"golang.org/x/sys/unix"
)

// handingListener's connections keep a descriptor that comes with a request (SCM_RIGHTS), for the handler.
type handingListener struct{ *net.UnixListener }

func (l handingListener) Accept() (net.Conn, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return &handingConn{UnixConn: c, fd: -1}, nil
}

// handingConn holds one descriptor at most, so that a peer cannot fill the process with them.
type handingConn struct {
	*net.UnixConn
	mu sync.Mutex
	fd int // -1: none
}

func (c *handingConn) Read(b []byte) (int, error) {
	var oob [64]byte
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob[:])
	if oobn > 0 {
		c.keep(oob[:oobn])
	}
	return n, err
}

// keep takes the first descriptor of a control message and closes every other.
func (c *handingConn) keep(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if c.fd < 0 {
				c.fd = fd
				continue
			}
			unix.Close(fd)
		}
	}
}

// take gives the descriptor away; -1 without one.
func (c *handingConn) take() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	fd := c.fd
	c.fd = -1
	return fd
}

func (c *handingConn) Close() error {
	if fd := c.take(); fd >= 0 {
		unix.Close(fd)
	}
	return c.UnixConn.Close()
}

// handedWith is the descriptor that came with a request; -1 without one. It is the caller's.
func handedWith(r *http.Request) int {
	if c, ok := r.Context().Value(connKey{}).(*handingConn); ok {
		return c.take()
	}
	return -1
}
