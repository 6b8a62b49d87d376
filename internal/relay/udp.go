package relay

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const udpIdle = 60 * time.Second // a UDP client that sends and gets nothing for this time is forgotten

// Each UDP client takes a descriptor: so many at most of one published port or range, and of all.
const maxUDPClients, maxAllUDPClients = 512, 4096

var allUDPClients atomic.Int64

// maxDatagram is the length of the longest datagram, in bytes.
const maxDatagram = 65535

// A udpRelay opens one socket towards the container for each client, so that each answer can be sent to the right client.
type udpRelay struct {
	set *Set
	buf []byte // of receive

	mu      sync.Mutex // Lock 95
	clients map[udpClient]*udpSession
}

// A udpClient is a client, and what it asked: a port, by number, and the address of the host from which the answer must come.
type udpClient struct {
	from  netip.AddrPort
	zone  uint32 // index of the device, of a link-local address
	asked netip.Addr
	port  int
}

type udpSession struct {
	conn net.Conn
	last time.Time // when the client sent last
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
	if !who.asked.IsValid() || !isAllowed(r.set.rule.From, who.from.Addr().Unmap()) {
		return
	}
	if c := r.session(who); c != nil {
		_, _ = c.Write(r.buf[:n]) // UDP may lose datagrams
	}
}

// session returns the socket of a client, and makes it if there is none. When descriptors run short, the client that has been silent for
// longest makes room.
func (r *udpRelay) session(who udpClient) net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.clients[who]
	for s == nil {
		isFull := len(r.clients) >= maxUDPClients || allUDPClients.Load() >= maxAllUDPClients
		if isFull && !r.closeOldest() {
			return nil // other relays have them all
		}
		var dialer net.Dialer
		c, err := dialer.DialContext(r.set.ctx, "udp", r.set.rule.targets(who.port, who.from.Addr())[0].String())
		if errors.Is(err, unix.EMFILE) && r.closeOldest() {
			continue
		}
		if err != nil {
			return nil
		}
		s = &udpSession{conn: c}
		r.clients[who] = s
		allUDPClients.Add(1)
		r.set.clients.Add(1)
		r.set.done.Go(func() {
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
	buf := make([]byte, maxDatagram)
	for {
		n, err := c.Read(buf)
		if errors.Is(err, unix.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return
		}
		_ = c.SetReadDeadline(time.Now().Add(udpIdle))
		_ = unix.Sendmsg(r.set.sockets[who.port], buf[:n], answerFrom(who.asked), sockaddr(who.from, who.zone), unix.MSG_DONTWAIT)
	}
}

// close closes the sockets of all clients.
func (r *udpRelay) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.clients {
		c.conn.Close()
	}
}
