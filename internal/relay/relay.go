// Package relay reserves published ports on the host: no other process of the host can bind them. It also serves the clients of the host
// that package hostclients does not lead to the container: a listener copies their data to the container through the host port.
package relay

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// A Rule says where to listen and where to relay to.
type Rule struct {
	Proto      string // tcp or udp
	Host       netip.Addr
	Lo, Hi     uint16     // first and last port of the host
	Target     netip.Addr // invalid: the container has no IPv4
	Target6    netip.Addr // likewise; for TCP over IPv6, before Target
	TargetPort uint16     // for Lo; Lo+1 maps to TargetPort+1, and so on
	From       []netip.Prefix
	Serve      bool // false: only reserve the ports
}

// A Set holds the listeners of one rule.
type Set struct {
	closers []io.Closer
	clients atomic.Uint64
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

const udpIdle = 60 * time.Second // a UDP client that sends and gets nothing for this time is forgotten

// Each UDP client takes a descriptor: so many at most of one relay, and of all.
const maxUDPClients, maxAllUDPClients = 512, 4096

var allUDPClients atomic.Int64

// listener binds addresses that the host does not have yet, too: they may come later (IP_FREEBIND).
var listener = net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) })
	return cmp.Or(cerr, err)
}}

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
		var targets []string // of TCP over IPv6, in the order in which they are tried
		for _, a := range []netip.Addr{r.Target6, r.Target} {
			if a.IsValid() {
				targets = append(targets, netip.AddrPortFrom(a, r.TargetPort+uint16(i)).String())
			}
		}
		to := targets[len(targets)-1] // of all else
		var err error
		switch {
		case !r.Serve:
			err = s.reserve(r.Proto, at)
		case r.Proto == "tcp" && r.Host.Is6():
			err = s.tcp(ctx, "tcp6", at, targets, r.From)
		case r.Host.Is6():
			err = s.udp6(ctx, at, to, r.From)
		case r.Proto == "tcp":
			err = s.tcp(ctx, "tcp4", at, []string{to}, r.From)
		default:
			err = s.udp4(ctx, at, to, r.From)
		}
		if err == nil && r.Serve && r.Host.IsUnspecified() {
			err = s.serve6(ctx, r.Proto, at.Port(), to, targets, r.From)
		}
		if err != nil {
			s.Close()
			return nil, &BindError{at.Port(), err}
		}
	}
	return s, nil
}

// Clients returns how many connections and UDP clients were served. On a nil Set it is 0.
func (s *Set) Clients() uint64 {
	if s == nil {
		return 0
	}
	return s.clients.Load()
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
	family, sa := unix.AF_INET, unix.Sockaddr(nil)
	if at.Addr().Is6() {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	} else {
		sa = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	if err := unix.Bind(fd, sa); err != nil {
		unix.Close(fd)
		return err
	}
	s.closers = append(s.closers, fdCloser(fd))
	return nil
}

type fdCloser int

func (f fdCloser) Close() error { return unix.Close(int(f)) }

// serve6 serves IPv6 clients on every address: those that NAT cannot serve (::1, link-local ones), and all others if the container has no
// IPv6. A host without IPv6 has none.
func (s *Set) serve6(ctx context.Context, proto string, port uint16, to string, targets []string, from []netip.Prefix) error {
	at := netip.AddrPortFrom(netip.IPv6Unspecified(), port)
	var err error
	if proto == "tcp" {
		err = s.tcp(ctx, "tcp6", at, targets, from)
	} else {
		err = s.udp6(ctx, at, to, from)
	}
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return err
}

func (s *Set) tcp(ctx context.Context, network string, at netip.AddrPort, to []string, from []netip.Prefix) error {
	l, err := listener.Listen(ctx, network, at.String())
	if err != nil {
		return err
	}
	s.closers = append(s.closers, l)
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
			s.clients.Add(1)
			s.done.Go(func() { relayTCP(ctx, c.(*net.TCPConn), to) })
		}
	})
	return nil
}

// isAllowed reports whether a client may use the listener: it must be in one of the prefixes of --from, if there are any.
// The host itself is always allowed.
func isAllowed(from []netip.Prefix, peer netip.Addr) bool {
	peer = peer.Unmap().WithZone("")
	if len(from) == 0 || peer.IsLoopback() || slices.ContainsFunc(from, func(p netip.Prefix) bool { return p.Contains(peer) }) {
		return true
	}
	return ownAddrs.has(peer, time.Now())
}

// ownAddrs are the host's addresses. They are read once in a second at most, since any client may make the relay ask.
var ownAddrs hostAddrs

type hostAddrs struct {
	mu    sync.Mutex // Lock 90
	addrs map[netip.Addr]bool
	at    time.Time // of the last reading
}

func (h *hostAddrs) has(a netip.Addr, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.addrs == nil || now.Sub(h.at) >= time.Second {
		h.addrs, h.at = map[netip.Addr]bool{}, now
		own, _ := net.InterfaceAddrs() // no address is the host's, then
		for _, x := range own {
			if p, err := netip.ParsePrefix(x.String()); err == nil {
				h.addrs[p.Addr()] = true
			}
		}
	}
	return h.addrs[a]
}

// relayTCP connects to the first target that answers, and copies in both directions. What ends one side ends the other in the same way: the last byte with FIN, an error with RST.
func relayTCP(ctx context.Context, in *net.TCPConn, to []string) {
	defer in.Close()
	dialer := net.Dialer{Timeout: 10 * time.Second}
	c, err := dialer.DialContext(ctx, "tcp", to[0])
	if err != nil && len(to) > 1 { // the program may listen on IPv4 only
		c, err = dialer.DialContext(ctx, "tcp", to[1])
	}
	if err != nil {
		_ = in.SetLinger(0) // answer with a reset, as the container's kernel would
		return
	}
	out := c.(*net.TCPConn)
	defer out.Close()
	reset := func() {
		_, _ = in.SetLinger(0), out.SetLinger(0)
		in.Close()
		out.Close()
	}
	stop := context.AfterFunc(ctx, reset)
	defer stop()
	var wg sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{in, out}, {out, in}} {
		wg.Go(func() {
			if _, err := io.Copy(way[1], way[0]); err != nil {
				reset()
				return
			}
			_ = way[1].CloseWrite()
		})
	}
	wg.Wait()
}

func (s *Set) udp4(ctx context.Context, at netip.AddrPort, to string, from []netip.Prefix) error {
	c, err := listener.ListenPacket(ctx, "udp4", at.String())
	if err != nil {
		return err
	}
	s.closers = append(s.closers, c)
	l := ipv4.NewPacketConn(c)
	if err := l.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return err
	}
	s.relayUDP(ctx, &udpRelay{
		read: func(b []byte) (n int, asked netip.Addr, from net.Addr, err error) {
			n, control, from, err := l.ReadFrom(b)
			if control != nil {
				asked, _ = netip.AddrFromSlice(control.Dst.To4())
			}
			return n, asked, from, err
		},
		write: func(b []byte, who udpClient) {
			_, _ = l.WriteTo(b, &ipv4.ControlMessage{Src: who.asked.AsSlice()}, net.UDPAddrFromAddrPort(who.from))
		},
	}, to, from)
	return nil
}

func (s *Set) udp6(ctx context.Context, at netip.AddrPort, to string, from []netip.Prefix) error {
	c, err := listener.ListenPacket(ctx, "udp6", at.String())
	if err != nil {
		return err
	}
	s.closers = append(s.closers, c)
	l := ipv6.NewPacketConn(c)
	if err := l.SetControlMessage(ipv6.FlagDst, true); err != nil {
		return err
	}
	s.relayUDP(ctx, &udpRelay{
		read: func(b []byte) (n int, asked netip.Addr, from net.Addr, err error) {
			n, control, from, err := l.ReadFrom(b)
			if control != nil {
				asked, _ = netip.AddrFromSlice(control.Dst)
			}
			return n, asked, from, err
		},
		write: func(b []byte, who udpClient) {
			_, _ = l.WriteTo(b, &ipv6.ControlMessage{Src: who.asked.AsSlice()}, net.UDPAddrFromAddrPort(who.from))
		},
	}, to, from)
	return nil
}

func (s *Set) relayUDP(ctx context.Context, r *udpRelay, to string, from []netip.Prefix) {
	r.to, r.count, r.clients = to, &s.clients, map[udpClient]*udpSession{}
	s.done.Go(func() { r.run(ctx, from, &s.done) })
}

// A udpRelay opens one socket towards the container for each client, so that each answer can be sent to the right client.
type udpRelay struct {
	read  func(b []byte) (n int, asked netip.Addr, from net.Addr, err error)
	write func(b []byte, to udpClient)
	to    string
	count *atomic.Uint64

	mu      sync.Mutex // Lock 95
	clients map[udpClient]*udpSession
}

// A udpClient is a client and the address of the host that it asked, from which the answer must come.
type udpClient struct {
	from  netip.AddrPort
	asked netip.Addr
}

type udpSession struct {
	conn net.Conn
	last time.Time // when the client sent last
}

func (r *udpRelay) run(ctx context.Context, allowed []netip.Prefix, done *sync.WaitGroup) {
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, c := range r.clients {
			c.conn.Close()
		}
	}()
	buf := make([]byte, 65535)
	for {
		n, asked, addr, err := r.read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		from, ok := addr.(*net.UDPAddr)
		if err != nil || !ok || !asked.IsValid() || !isAllowed(allowed, from.AddrPort().Addr()) {
			continue
		}
		if c := r.session(ctx, udpClient{from.AddrPort(), asked}, done); c != nil {
			_, _ = c.Write(buf[:n]) // UDP may lose datagrams
		}
	}
}

// session returns the socket of a client, and makes it if there is none. When descriptors run short, the client that has been silent for
// longest makes room.
func (r *udpRelay) session(ctx context.Context, who udpClient, done *sync.WaitGroup) net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.clients[who]
	for s == nil {
		isFull := len(r.clients) >= maxUDPClients || allUDPClients.Load() >= maxAllUDPClients
		if isFull && !r.closeOldest() {
			return nil // other relays have them all
		}
		var dialer net.Dialer
		c, err := dialer.DialContext(ctx, "udp", r.to)
		if errors.Is(err, unix.EMFILE) && r.closeOldest() {
			continue
		}
		if err != nil {
			return nil
		}
		s = &udpSession{conn: c}
		r.clients[who] = s
		allUDPClients.Add(1)
		r.count.Add(1)
		done.Go(func() {
			r.answer(c, who)
			allUDPClients.Add(-1)
			r.mu.Lock()
			if r.clients[who] == s {
				delete(r.clients, who)
			}
			r.mu.Unlock()
			c.Close()
		})
	}
	s.last = time.Now()
	_ = s.conn.SetReadDeadline(s.last.Add(udpIdle))
	return s.conn
}

// closeOldest closes the socket of the client that has been silent for longest, and reports whether there was one.
func (r *udpRelay) closeOldest() bool {
	var oldest *udpSession
	var whose udpClient
	for who, s := range r.clients {
		if oldest == nil || s.last.Before(oldest.last) {
			oldest, whose = s, who
		}
	}
	if oldest == nil {
		return false
	}
	delete(r.clients, whose)
	oldest.conn.Close()
	return true
}

// answer copies answers back until the client is idle or the relay ends.
func (r *udpRelay) answer(c net.Conn, who udpClient) {
	buf := make([]byte, 65535)
	for {
		n, err := c.Read(buf)
		if errors.Is(err, unix.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return
		}
		_ = c.SetReadDeadline(time.Now().Add(udpIdle))
		r.write(buf[:n], who)
	}
}
