package simnet

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/sockets"
)

// A Kernel is the host's kernel for an engine of package sockets, in virtual time. Its peers are the test.
type Kernel struct {
	now     func() int64
	next    int64 // when the timer fires; 0: it does not run
	sockets map[int32]*Socket
	last    int32 // the latest descriptor
	waiting []*Socket

	NoPeekOffset bool // it plays Linux before 6.9
}

// A Socket is a TCP socket of the host, with its peer.
type Socket struct {
	Sent   []byte // by the container, as far as the socket has taken it
	Taken  int    // how many bytes of what the peer has sent the engine has discarded
	Shut   bool   // the container's direction has ended
	Closed bool
	Reset  bool // closed by a reset
	Buffer int  // size of the send buffer in bytes

	data      []byte // from the peer, not discarded
	peeked    int
	mark      int  // of the urgent byte in data, from 1 on; 0: none. A read that begins before it ends there
	ended     bool // the peer has ended its direction
	err       syscall.Errno
	queued    int // of Sent, not acknowledged by the peer
	connected bool

	fd, tell, pad int32
	watched       bool
	events        uint32
}

// NewKernel returns one without sockets.
func NewKernel(now func() int64) *Kernel {
	return &Kernel{now: now, sockets: map[int32]*Socket{}, last: 100}
}

// Sockets are those that are open.
func (k *Kernel) Sockets() (open []*Socket) {
	for fd := int32(0); fd <= k.last; fd++ {
		if s := k.sockets[fd]; s != nil {
			open = append(open, s)
		}
	}
	return open
}

// happen notes events, which Wait tells once.
func (k *Kernel) happen(s *Socket, events uint32) {
	if s.Closed || !s.watched {
		return
	}
	if s.events == 0 {
		k.waiting = append(k.waiting, s)
	}
	s.events |= events
}

// Answer lets the peer accept a connection, or refuse it.
func (k *Kernel) Answer(s *Socket, errno syscall.Errno) {
	if s.connected || s.err != 0 {
		return
	}
	if s.connected, s.err = errno == 0, errno; errno != 0 {
		k.happen(s, unix.EPOLLERR|unix.EPOLLHUP|unix.EPOLLOUT)
		return
	}
	k.happen(s, unix.EPOLLOUT)
}

// Deliver is data of the peer.
func (k *Kernel) Deliver(s *Socket, data []byte) {
	if s.connected && !s.ended && s.err == 0 {
		s.data = append(s.data, data...)
		k.happen(s, unix.EPOLLIN)
	}
}

// DeliverUrgent is data of the peer whose last byte is urgent.
func (k *Kernel) DeliverUrgent(s *Socket, data []byte) {
	if k.Deliver(s, data); s.connected && !s.ended && s.err == 0 {
		s.mark = len(s.data)
		k.happen(s, unix.EPOLLPRI)
	}
}

// Finish is the peer's FIN.
func (k *Kernel) Finish(s *Socket) {
	if s.connected && !s.ended && s.err == 0 {
		s.ended = true
		k.happen(s, unix.EPOLLIN|unix.EPOLLRDHUP)
	}
}

// Abort is the peer's reset. The data before it can still be read.
func (k *Kernel) Abort(s *Socket) {
	if s.connected && s.err == 0 {
		s.err, s.ended = unix.ECONNRESET, true
		k.happen(s, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLERR|unix.EPOLLHUP|unix.EPOLLOUT)
	}
}

// Acknowledge lets the peer acknowledge n bytes.
func (k *Kernel) Acknowledge(s *Socket, n int) {
	full := s.queued >= s.Buffer
	if s.queued -= min(n, s.queued); full {
		k.happen(s, unix.EPOLLOUT)
	}
}

// FD implements sockets.Kernel.
func (k *Kernel) FD() int { return -1 }

// Watch implements sockets.Kernel.
func (k *Kernel) Watch(socket int32, fd, pad int32, _ uint32) error {
	if s := k.sockets[socket]; s != nil {
		s.tell, s.pad, s.watched = fd, pad, true
		if s.connected {
			k.happen(s, unix.EPOLLOUT)
		}
	}
	return nil
}

// Wait implements sockets.Kernel.
func (k *Kernel) Wait(events []unix.EpollEvent) (n int, _ error) {
	if k.next != 0 && k.now() >= k.next {
		k.next = k.now() + int64(sockets.TickTime)
		events[n] = sockets.TimerEvent()
		n++
	}
	for ; n < len(events) && len(k.waiting) > 0; k.waiting = k.waiting[1:] {
		s := k.waiting[0]
		if !s.Closed {
			events[n] = unix.EpollEvent{Events: s.events, Fd: s.tell, Pad: s.pad}
			n++
		}
		s.events = 0
	}
	return n, nil
}

// Wake implements sockets.Kernel.
func (k *Kernel) Wake() {}

// Tick implements sockets.Kernel.
func (k *Kernel) Tick(on bool) {
	if !on {
		k.next = 0
	} else if k.next == 0 {
		k.next = k.now() + int64(sockets.TickTime)
	}
}

// Connect implements sockets.Kernel.
func (k *Kernel) Connect(frame.Addr6, uint16, int) (socket int32, peeks bool, _ error) {
	k.last++
	k.sockets[k.last] = &Socket{Buffer: 20000, fd: k.last}
	return k.last, k.Prepare(k.last), nil
}

// Accept implements sockets.Kernel: nobody connects from outside.
func (k *Kernel) Accept(int) (_ int32, own, peer sockets.End, _ error) {
	return -1, own, peer, unix.EAGAIN
}

// Prepare implements sockets.Kernel.
func (k *Kernel) Prepare(int32) bool { return !k.NoPeekOffset }

// Failed implements sockets.Kernel.
func (k *Kernel) Failed(socket int32) syscall.Errno {
	s := k.sockets[socket]
	errno := s.err
	s.err = 0
	return errno
}

// Peek implements sockets.Kernel.
func (k *Kernel) Peek(socket int32, b []byte) (int, syscall.Errno) {
	s := k.sockets[socket]
	n, errno := k.read(s, s.peeked, b)
	s.peeked += n
	return n, errno
}

// read copies data from offset at on.
func (k *Kernel) read(s *Socket, at int, b []byte) (n int, _ syscall.Errno) {
	data := s.data
	if s.mark > 0 && at < s.mark-1 {
		data = data[:s.mark-1]
	}
	n = copy(b, data[min(at, len(data)):])
	switch {
	case n > 0 || len(b) == 0:
	case s.err != 0:
		return 0, k.Failed(s.fd)
	case !s.ended:
		return 0, unix.EAGAIN
	}
	return n, 0
}

// PeekFrom implements sockets.Kernel.
func (k *Kernel) PeekFrom(socket int32, skip int, b []byte) (int, syscall.Errno) {
	s := k.sockets[socket]
	all := make([]byte, skip+len(b))
	n, errno := k.read(s, 0, all)
	copy(b, all[min(n, skip):n])
	return n, errno
}

// Rewind implements sockets.Kernel.
func (k *Kernel) Rewind(socket int32) { k.sockets[socket].peeked = 0 }

// Discard implements sockets.Kernel.
func (k *Kernel) Discard(socket int32, n uint32) {
	s := k.sockets[socket]
	m := min(int(n), len(s.data))
	s.data = s.data[m:]
	s.Taken += m
	s.peeked -= min(s.peeked, m)
	s.mark = max(0, s.mark-m)
}

// Send implements sockets.Kernel.
func (k *Kernel) Send(socket int32, data []unix.Iovec) (n int, _ syscall.Errno) {
	s := k.sockets[socket]
	if s.err != 0 {
		return 0, k.Failed(socket)
	}
	if s.Shut {
		return 0, unix.EPIPE
	}
	for _, v := range data {
		b := unsafe.Slice(v.Base, v.Len)
		b = b[:min(len(b), s.Buffer-s.queued)]
		s.Sent = append(s.Sent, b...)
		s.queued += len(b)
		n += len(b)
	}
	if n == 0 {
		return 0, unix.EAGAIN
	}
	return n, 0
}

// Queued implements sockets.Kernel.
func (k *Kernel) Queued(socket int32) int { return k.sockets[socket].queued }

// SendBuffer implements sockets.Kernel.
func (k *Kernel) SendBuffer(socket int32) int { return k.sockets[socket].Buffer }

// Shutdown implements sockets.Kernel.
func (k *Kernel) Shutdown(socket int32) { k.sockets[socket].Shut = true }

// End implements sockets.Kernel.
func (k *Kernel) End(socket int32, reset bool) {
	s := k.sockets[socket]
	s.Closed, s.Reset = true, reset || len(s.data) > 0
	delete(k.sockets, socket)
}

// Close implements sockets.Kernel.
func (k *Kernel) Close() error { return nil }

// UseSockets makes the way out one by sockets of a kernel.
func (n *Net) UseSockets(k *Kernel) (*sockets.Engine, error) {
	e, err := sockets.New(sockets.Options{
		MAC: uplinkMAC, PeerMAC: peerMAC, Clock: k.now, Sockets: 64, Kernel: k, Seed: 1, MayHost: func(uint8, uint16) bool { return true },
	})
	if err != nil {
		return nil, err
	}
	for _, m := range n.rules.Masquerade { // sockets have addresses of their own
		i, _ := n.DP.Router.Interface(m.Net)
		m.Inside, m.Outside = i.Prefix, i.Prefix
	}
	n.update()
	n.Poller.Conn, n.Poller.ConnPort = e, uplinkPort
	return e, nil
}

// Now is the virtual time in nanoseconds.
func (n *Net) Now() int64 { return int64(n.now)*1e9/frame.TicksPerSecond + int64(n.fine) }
