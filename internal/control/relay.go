package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// relays are the listeners of one rule on the host. The host's own packets to its own addresses never pass the
// uplink, so a published port is served to the host by a relay through the host port. Binding also reserves the
// port, so that nothing else on the host gets it.
type relays struct {
	closers []io.Closer
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

const (
	udpIdle     = 60 * time.Second // a UDP client not heard for so long is forgotten
	maxSessions = 1024             // UDP clients of one relay; also its TCP connections
)

// openRelays binds every port of r. On an error nothing remains bound.
func (d *Daemon) openRelays(r *rule) (*relays, error) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &relays{cancel: cancel}
	if int(r.hi)-int(r.lo) >= maxRelays || r.proto == "sctp" {
		return s, nil // the host does not reach it by its own address
	}
	for i := range int(r.hi-r.lo) + 1 {
		at := netip.AddrPortFrom(r.hostAddr, r.lo+uint16(i))
		to := netip.AddrPortFrom(r.port.addr.Addr(), r.target+uint16(i)).String()
		var err error
		switch {
		case !d.opts.Host:
			err = s.reserve(r.proto, at)
		case r.proto == "tcp":
			err = s.tcp(ctx, at, to, r.from)
		default:
			err = s.udp(ctx, at, to, r.from)
		}
		if err != nil {
			s.close()
			return nil, api.Errorf(http.StatusConflict, "port %d/%s of the host: %v; publish another", at.Port(), r.proto, err)
		}
	}
	return s, nil
}

func (s *relays) close() {
	s.cancel()
	for _, c := range s.closers {
		c.Close()
	}
	s.done.Wait()
}

// reserve binds without serving: there is no host port to serve by.
func (s *relays) reserve(proto string, at netip.AddrPort) error {
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

func (s *relays) tcp(ctx context.Context, at netip.AddrPort, to string, from []netip.Prefix) error {
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
			if peer, perr := netip.ParseAddrPort(c.RemoteAddr().String()); perr != nil || !mayRelay(from, peer.Addr()) {
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

// mayRelay holds the relay to --from: who comes by another way than the uplink is no better. The host itself may.
func mayRelay(from []netip.Prefix, peer netip.Addr) bool {
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

func (s *relays) udp(ctx context.Context, at netip.AddrPort, to string, from []netip.Prefix) error {
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
		if err != nil || !mayRelay(allowed, from.Addr()) {
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

// answerUDP passes answers back until the client is idle or the relay ends.
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
