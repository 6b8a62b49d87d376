package sockets

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/share"
)

// calls are functions that wait for the worker.
type calls struct {
	mu      sync.Mutex // Lock 59
	list    []func()
	stopped bool // the worker has ended: whoever calls runs the function
}

// add runs fn if the worker has ended. Otherwise fn waits for the worker, which wake wakes.
func (c *calls) add(fn, wake func()) {
	c.mu.Lock()
	defer c.mu.Unlock() // functions run one after another, and nobody is woken who has been closed
	if c.stopped {
		fn()
		return
	}
	c.list = append(c.list, fn)
	wake()
}

func (c *calls) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	for _, fn := range c.list {
		fn()
	}
	c.list = nil
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

// reserve returns n bytes of zeros. Memory that was never used takes no room.
func reserve(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
}

// pieces are buffers of 64 KiB for what sockets did not take at once.
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
		mem, err := reserve(pieceSize * maxPieces)
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
