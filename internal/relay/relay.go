// Package relay reserves published ports on the host: no other process of the host can bind them. It also serves the clients that neither NAT nor
// package hostclients leads to the container: the relay copies their data to the container through the host port.
//
//	Open ──► bind (sockets.go) ──► serve: a socket is ready ──┬─► acceptTCP (tcp.go)
//	                                                          └─► udpRelay.receive (udp.go)
//
// Each published port takes one socket of the host for both families, and no goroutine: a range may have many thousand ports.
package relay

import (
	"context"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Rule says where to listen and where to relay to.
type Rule struct {
	Proto      string     // tcp or udp
	Host       netip.Addr // unspecified: every address, of both families
	Lo, Hi     uint16     // first and last port of the host
	Target     netip.Addr // invalid: the container has no IPv4
	Target6    netip.Addr // likewise; for TCP over IPv6, before Target
	TargetPort uint16     // for Lo; Lo+1 maps to TargetPort+1, and so on
	From       []netip.Prefix
	Serve      bool // false: only reserve the ports
	// May says whether a client may reach the container, at one of its addresses. Several goroutines use it. nil: everybody may.
	May func(client netip.Addr, target netip.AddrPort) bool
}

// targets are the addresses of the container for port number i, in the order in which they are tried for a client; none if the client may reach none.
func (r *Rule) targets(i int, client netip.Addr) (to []netip.AddrPort) {
	for _, a := range []netip.Addr{r.Target6, r.Target} {
		if a.IsValid() {
			to = append(to, netip.AddrPortFrom(a, r.TargetPort+uint16(i)))
		}
	}
	if r.Proto == "udp" || client.Is4() {
		to = to[len(to)-1:]
	}
	if r.May != nil {
		to = slices.DeleteFunc(to, func(a netip.AddrPort) bool { return !r.May(client, a) })
	}
	return to
}

// A Set holds the bound ports of one rule.
type Set struct {
	rule    Rule
	sockets []int    // by number of the port
	ready   *os.File // an epoll(7) of the sockets; nil: they are only reserved
	clients atomic.Uint64
	ctx     context.Context
	cancel  context.CancelFunc
	done    sync.WaitGroup
	udp     udpRelay

	mu     sync.Mutex      // Lock 95
	served map[*client]int // the number of the port of each
}

// A BindError reports a port of the host that could not be bound.
type BindError struct {
	Port uint16
	Err  error
}

func (e *BindError) Error() string { return e.Err.Error() }
func (e *BindError) Unwrap() error { return e.Err }

// Open binds every port of r. If one cannot be bound, Open returns a *BindError and leaves no port bound.
func Open(r Rule) (*Set, error) {
	s := &Set{rule: r}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.udp = udpRelay{set: s, sessions: map[udpClient]*udpSession{}}
	epoll := -1
	if r.Serve {
		var err error
		if epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
			return nil, &BindError{r.Lo, err}
		}
		_ = unix.SetNonblock(epoll, true) // so that the runtime waits for it
		s.ready = os.NewFile(uintptr(epoll), "published ports")
	}
	for i := range int(r.Hi-r.Lo) + 1 {
		fd, err := bind(r.Proto, r.Host, r.Lo+uint16(i), r.Serve)
		if err == nil {
			s.sockets = append(s.sockets, fd)
			if r.Serve {
				err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)})
			}
		}
		if err != nil {
			s.Close()
			return nil, &BindError{r.Lo + uint16(i), err}
		}
	}
	if r.Serve {
		s.done.Go(s.serve)
	}
	return s, nil
}

// serving notes a client of port number i, and returns what forgets it.
func (s *Set) serving(c *client, i int) (ended func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.served == nil {
		s.served = map[*client]int{}
	}
	s.served[c] = i
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.served, c)
	}
}

// Recheck ends the clients that may not reach the container any more. On a nil Set it does nothing.
func (s *Set) Recheck() {
	if s == nil {
		return
	}
	s.mu.Lock()
	served := maps.Clone(s.served)
	s.mu.Unlock()
	for c, i := range served {
		if len(s.rule.targets(i, c.remote.Unmap())) == 0 {
			c.close()
		}
	}
}

// Clients returns how many connections and UDP clients were served. On a nil Set it is 0.
func (s *Set) Clients() uint64 {
	if s == nil {
		return 0
	}
	return s.clients.Load()
}

// Close ends all connections, waits for their goroutines, and gives the ports free. On a nil Set it does nothing.
func (s *Set) Close() {
	if s == nil {
		return
	}
	s.cancel()
	if s.ready != nil {
		s.ready.Close()
	}
	s.done.Wait()
	for _, fd := range s.sockets {
		unix.Close(fd)
	}
}

// serve waits for the sockets and serves those that are ready, until the Set is closed.
func (s *Set) serve() {
	defer s.udp.close()
	wait, err := s.ready.SyscallConn()
	if err != nil {
		return
	}
	events := make([]unix.EpollEvent, 64)
	for {
		n := 0
		err := wait.Read(func(epoll uintptr) bool {
			n, _ = unix.EpollWait(int(epoll), events, 0)
			return n > 0
		})
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			if s.rule.Proto == "tcp" {
				s.acceptTCP(int(e.Fd))
			} else {
				s.udp.receive(int(e.Fd))
			}
		}
	}
}
