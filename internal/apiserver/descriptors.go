package apiserver

import (
	"net"
	"net/http"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/tap"
)

// A descriptorListener's connections keep the descriptors that come with a request (SCM_RIGHTS), when the client may change the
// switch.
type descriptorListener struct{ *net.UnixListener }

func (l descriptorListener) Accept() (net.Conn, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	if cred, err := peerOf(c); err != nil || !trusted(cred) { // the kernel discards its descriptors
		return c, nil
	}
	return &descriptorConn{UnixConn: c}, nil
}

// A descriptorConn keeps the descriptors of one request.
type descriptorConn struct {
	*net.UnixConn
	mu  sync.Mutex // Lock 90
	fds []int
}

func (c *descriptorConn) Read(b []byte) (int, error) {
	var oob [64]byte
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob[:])
	if oobn > 0 {
		c.add(oob[:oobn])
	}
	return max(n, 0), err // -1 with an error, which io.Reader does not allow
}

func (c *descriptorConn) add(oob []byte) {
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

// take hands the descriptors to the caller.
func (c *descriptorConn) take() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	fds := c.fds
	c.fds = nil
	return fds
}

func (c *descriptorConn) Close() error {
	closeAll(c.take())
	return c.UnixConn.Close()
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// closeDescriptors closes the descriptors of a request that nobody has taken.
func closeDescriptors(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*descriptorConn); ok {
		closeAll(c.take())
	}
}

// tapOf returns the TAP whose descriptor came with a request, or nil.
func tapOf(r *http.Request) (*tap.Device, error) {
	c, ok := r.Context().Value(connKey{}).(*descriptorConn)
	if !ok {
		return nil, nil
	}
	fds := c.take()
	if len(fds) == 0 {
		return nil, nil
	}
	if len(fds) > 1 {
		closeAll(fds)
		return nil, api.Errorf(http.StatusBadRequest, "%d descriptors came with the request; a port takes one", len(fds))
	}
	dev, err := tap.FromFD(fds[0])
	if err != nil {
		closeAll(fds)
		return nil, api.Errorf(http.StatusBadRequest, "%v", err)
	}
	return dev, nil
}
