// Package relay makes published ports reachable from the host itself. The host's packets to its own addresses never pass
// the uplink, so a listener on the host copies data to the container through the host port. The bound socket also reserves
// the port: no other process of the host can bind it.
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

// A Rule says where to listen and where to relay to.
type Rule struct {
	Proto      string // tcp or udp
	Host       netip.Addr
	Lo, Hi     uint16 // first and last port of the host
	Target     netip.Addr
	TargetPort uint16 // for Lo; Lo+1 maps to TargetPort+1, and so on
	From       []netip.Prefix
	Serve      bool // false: only reserve the ports
}

// A Set holds the listeners of one rule.
type Set struct {
	closers []io.Closer
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

const (
	udpIdle     = 60 * time.Second // a UDP client that sends nothing for this time is forgotten
	maxSessions = 1024             // TCP connections or UDP clients of one listener
)

// A BindError reports a port of the host that could not be bound.
type BindError struct {
	Port uint16
	Err  error
}

func (e *BindError) Error() string { return e.Err.Error() }
func (e *BindError) Unwrap() error { return e.Err }

// Open binds every port of r. If one cannot be bound, Open returns a *BindError and leaves no port bound.
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

// Close ends the listeners and all connections, and waits for their goroutines. On a nil Set it does nothing.
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

// reserve binds a port without serving it: without a host port, nothing can be relayed.
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

// isAllowed reports whether a client may use the listener: it must be in one of the prefixes of --from, if there are any.
// The host itself is always allowed.
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

// relayTCP copies in both directions. When one side has sent its last byte, relayTCP tells the other side (FIN).
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
			_, _ = io.Copy(way[1], way[0]) // either side may close at any time
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

// relayUDP opens one socket towards the container per client, so that each answer can be sent to the right client.
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
			_, _ = c.Write(buf[:n]) // UDP may lose datagrams
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
