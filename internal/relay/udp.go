package relay

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const udpIdle = 60 * time.Second // a UDP client that sends and gets nothing for this time is forgotten

// maxDatagram is the length of the longest datagram, in bytes.
const maxDatagram = 65535

// A udpRelay opens one socket towards the container for each client, so that each answer can be sent to the right client.
type udpRelay struct {
	set *Set
	buf []byte // of receive

	mu       sync.Mutex // Lock 95
	sessions map[udpClient]*udpSession
}

// A udpClient is a client, and what it asked: a port, by number, and the address of the host from which the answer must come.
type udpClient struct {
	from  netip.AddrPort
	zone  uint32 // index of the device, of a link-local address
	asked netip.Addr
	port  int
}

type udpSession struct {
	client
	conn net.Conn
	last atomic.Int64 // when the client sent or got something last, in nanoseconds
}

// receive takes a datagram for port number i.
func (r *udpRelay) receive(i int) {
	if r.buf == nil {
		r.buf = make([]byte, maxDatagram)
	}
	var control [128]byte
	n, nc, _, sa, err := unix.Recvmsg(r.set.sockets[i], r.buf, control[:], 0)
	if err != nil {
		return
	}
	who := udpClient{asked: askedAddr(control[:nc]), port: i}
	who.from, who.zone = addrPort(sa)
	if !who.asked.IsValid() || !isAllowed(r.set.rule.From, who.from.Addr().Unmap(), who.zone, true) {
		return
	}
	if c := r.session(who); c != nil {
		_, _ = c.Write(r.buf[:n]) // UDP may lose datagrams
	}
}

// session returns the socket of a client, and makes it if there is none.
func (r *udpRelay) session(who udpClient) net.Conn {
	now := time.Now()
	r.mu.Lock()
	s := r.sessions[who]
	r.mu.Unlock()
	if s != nil {
		s.last.Store(now.UnixNano())
		_ = s.conn.SetReadDeadline(now.Add(udpIdle))
		return s.conn
	}
	targets := r.set.rule.targets(who.port, who.from.Addr().Unmap())
	if len(targets) == 0 {
		return nil
	}
	to := targets[0].String()
	c, err := (&net.Dialer{}).DialContext(r.set.ctx, "udp", to)
	if errors.Is(err, unix.EMFILE) && udpClients.makeRoom() {
		c, err = (&net.Dialer{}).DialContext(r.set.ctx, "udp", to)
	}
	if err != nil {
		return nil
	}
	_ = c.SetReadDeadline(now.Add(udpIdle))
	s = &udpSession{conn: c}
	s.last.Store(now.UnixNano())
	s.remote, s.close = who.from.Addr(), func() { c.Close() }
	s.silent = func() time.Duration { return time.Duration(time.Now().UnixNano() - s.last.Load()) }
	r.mu.Lock()
	r.sessions[who] = s
	r.mu.Unlock()
	udpClients.add(&s.client)
	r.set.clients.Add(1)
	ended := r.set.serving(&s.client, who.port)
	r.set.done.Go(func() {
		r.answer(s, who)
		ended()
		udpClients.remove(&s.client)
		r.mu.Lock()
		if r.sessions[who] == s {
			delete(r.sessions, who)
		}
		r.mu.Unlock()
		c.Close()
	})
	return c
}

// buffers are for answers: a client needs none while it waits for one.
var buffers = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// answer copies answers back until the client is idle or the relay ends.
func (r *udpRelay) answer(s *udpSession, who udpClient) {
	wait, err := s.conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return
	}
	for err == nil {
		err = wait.Read(func(fd uintptr) bool {
			buf := buffers.Get().(*[maxDatagram]byte)
			defer buffers.Put(buf)
			n, err := unix.Read(int(fd), buf[:])
			if err != nil {
				return !errors.Is(err, unix.EAGAIN) // of what was sent; else nothing has come yet
			}
			now := time.Now()
			s.last.Store(now.UnixNano())
			_ = s.conn.SetReadDeadline(now.Add(udpIdle))
			_ = unix.Sendmsg(r.set.sockets[who.port], buf[:n], answerFrom(who.asked), sockaddr(who.from, who.zone), unix.MSG_DONTWAIT)
			return true
		})
	}
}

// close closes the sockets of all clients.
func (r *udpRelay) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sessions {
		s.conn.Close()
	}
}
