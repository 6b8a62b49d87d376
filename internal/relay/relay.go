// Package relay serves published ports to the host itself. The host's packets to its own addresses never pass the uplink, so a
// listener on the host copies to the container through the host port. Binding also reserves the port: nothing else on the host
// can take it.
package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Rule says what to listen on, and where to copy to.
type Rule struct {
	Proto      string // tcp or udp
	Host       netip.Addr
	Lo, Hi     uint16 // ports of the host
	Target     netip.Addr
	TargetPort uint16 // for Lo; the following ports lead to the following ones
	From       []netip.Prefix
	Serve      bool // false: only reserve the ports
}

// A Set is the listeners of one rule.
type Set struct {
	closers []io.Closer
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

const (
	udpIdle     = 60 * time.Second // a UDP client that is silent for so long is forgotten
	maxSessions = 1024             // TCP connections of one listener; also UDP clients
)

// A BindError is a port of the host that could not be bound.
type BindError struct {
	Port uint16
	Err  error
}

func (e *BindError) Error() string { return e.Err.Error() }
func (e *BindError) Unwrap() error { return e.Err }

// Open binds every port of r. On an error, a *BindError, nothing remains bound.
func Open(r Rule) (*Set, error) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Set{cancel: cancel}
	for i := range int(r.Hi-r.Lo) + 1 {
		at := netip.AddrPortFrom(r.Host, r.Lo+uint16(i))
		to := netip.AddrPortFrom(r.Target, r.TargetPort+uint16(i)).String()
		var err error
		switch {
		case !r.Serve:
			err = s.reserve(r.Proto, at)
		case r.Proto == "tcp":
			err = s.tcp(ctx, at, to, r.From)
		default:
			err = s.udp(ctx, at, to, r.From)
		}
		if err != nil {
			s.Close()
			return nil, &BindError{at.Port(), err}
		}
	}
	return s, nil
}

// Close ends the listeners and every connection. A nil Set has none.
func (s *Set) Close() {
	if s == nil {
		return
	}
	s.cancel()
	for _, c := range s.closers {
		c.Close()
	}
	s.done.Wait()
}

// reserve binds without serving: without a host port nothing can be served.
func (s *Set) reserve(proto string, at netip.AddrPort) error {
	typ := unix.SOCK_STREAM
	if proto == "udp" {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
		unix.Close(fd)
		return err
	}
	s.closers = append(s.closers, fdCloser(fd))
	return nil
}

type fdCloser int

func (f fdCloser) Close() error { return unix.Close(int(f)) }

func (s *Set) tcp(ctx context.Context, at netip.AddrPort, to string, from []netip.Prefix) error {
	l, err := net.Listen("tcp4", at.String())
	if err != nil {
		return err
	}
	s.closers = append(s.closers, l)
	slots := make(chan struct{}, maxSessions)
	s.done.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(10 * time.Millisecond) // out of descriptors: let some close
				continue
			}
			if peer, perr := netip.ParseAddrPort(c.RemoteAddr().String()); perr != nil || !isAllowed(from, peer.Addr()) {
				c.Close()
				continue
			}
			slots <- struct{}{}
			s.done.Go(func() {
				defer func() { <-slots }()
				relayTCP(ctx, c.(*net.TCPConn), to)
			})
		}
	})
	return nil
}

// isAllowed holds clients to --from, however they reach the listener. The host itself is always allowed.
func isAllowed(from []netip.Prefix, peer netip.Addr) bool {
	peer = peer.Unmap()
	if len(from) == 0 || peer.IsLoopback() || slices.ContainsFunc(from, func(p netip.Prefix) bool { return p.Contains(peer) }) {
		return true
	}
	own, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(own, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr() == peer
	})
}

// relayTCP copies both ways, passing each side's end on to the other.
func relayTCP(ctx context.Context, in *net.TCPConn, to string) {
	defer in.Close()
	dialer := net.Dialer{Timeout: 10 * time.Second}
	c, err := dialer.DialContext(ctx, "tcp4", to)
	if err != nil {
		_ = in.SetLinger(0) // answer with a reset, as the container's kernel would
		return
	}
	out := c.(*net.TCPConn)
	defer out.Close()
	stop := context.AfterFunc(ctx, func() { in.Close(); out.Close() })
	defer stop()
	var wg sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{in, out}, {out, in}} {
		wg.Go(func() {
			_, _ = io.Copy(way[1], way[0]) // either side may go at any time
			_ = way[1].CloseWrite()
		})
	}
	wg.Wait()
}

func (s *Set) udp(ctx context.Context, at netip.AddrPort, to string, from []netip.Prefix) error {
	l, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, l)
	s.done.Go(func() { relayUDP(ctx, l, to, from, &s.done) })
	return nil
}

// relayUDP gives each client a socket of its own towards the container, so that answers find their way back.
func relayUDP(ctx context.Context, l *net.UDPConn, to string, allowed []netip.Prefix, done *sync.WaitGroup) {
	var mu sync.Mutex
	clients := map[netip.AddrPort]net.Conn{}
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range clients {
			c.Close()
		}
	}()
	buf := make([]byte, 65535)
	for {
		n, from, err := l.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || !isAllowed(allowed, from.Addr()) {
			continue
		}
		mu.Lock()
		c := clients[from]
		if c == nil && len(clients) < maxSessions {
			var dialer net.Dialer
			if c, err = dialer.DialContext(ctx, "udp4", to); err != nil {
				mu.Unlock()
				continue
			}
			clients[from] = c
			done.Go(func() {
				answerUDP(l, c, from)
				mu.Lock()
				delete(clients, from)
				mu.Unlock()
				c.Close()
			})
		}
		mu.Unlock()
		if c != nil {
			_ = c.SetReadDeadline(time.Now().Add(udpIdle))
			_, _ = c.Write(buf[:n]) // UDP may be lost
		}
	}
}

// answerUDP copies answers back until the client is idle or the relay ends.
func answerUDP(l *net.UDPConn, c net.Conn, client netip.AddrPort) {
	buf := make([]byte, 65535)
	for {
		n, err := c.Read(buf)
		if errors.Is(err, unix.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return
		}
		_, _ = l.WriteToUDPAddrPort(buf[:n], client)
	}
}
