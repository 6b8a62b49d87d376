package control

import (
	"net"
	"net/http"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/tap"
)

// handingListener's connections keep the descriptors that come with a request (SCM_RIGHTS), for the handler, when the peer may hand
// something over.
type handingListener struct{ *net.UnixListener }

func (l handingListener) Accept() (net.Conn, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	if cred, err := peerOf(c); err != nil || !trusted(cred) { // the kernel throws away what it sends
		return c, nil
	}
	return &handingConn{UnixConn: c}, nil
}

// handingConn keeps the descriptors of one request.
type handingConn struct {
	*net.UnixConn
	mu  sync.Mutex
	fds []int
}

func (c *handingConn) Read(b []byte) (int, error) {
	var oob [64]byte
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob[:])
	if oobn > 0 {
		c.keep(oob[:oobn])
	}
	return n, err
}

func (c *handingConn) keep(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			c.fds = append(c.fds, fds...)
		}
	}
}

// take gives the descriptors away.
func (c *handingConn) take() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	fds := c.fds
	c.fds = nil
	return fds
}

func (c *handingConn) Close() error {
	closeAll(c.take())
	return c.UnixConn.Close()
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// dropHanded closes what came with a request and nobody has taken.
func dropHanded(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*handingConn); ok {
		closeAll(c.take())
	}
}

// handedWith is the TAP whose descriptor came with a request; nil without one.
func handedWith(r *http.Request) (*tap.Device, error) {
	c, ok := r.Context().Value(connKey{}).(*handingConn)
	if !ok {
		return nil, nil
	}
	fds := c.take()
	if len(fds) == 0 {
		return nil, nil
	}
	if len(fds) > 1 {
		closeAll(fds)
		return nil, api.Errorf(http.StatusBadRequest, "%d descriptors came with the request: a port takes one", len(fds))
	}
	dev, err := tap.FromFD(fds[0])
	if err != nil {
		closeAll(fds)
		return nil, api.Errorf(http.StatusBadRequest, "%v", err)
	}
	return dev, nil
}
