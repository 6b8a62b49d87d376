package tap

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

const (
	quota   = 32 // frames that one port may bring per Poll, so that a loud port starves nobody
	look    = 4  // after so many Polls with work, look for newly ready ports all the same
	arenaSz = frame.BatchBytes + frame.VnetLen + frame.MaxFrame + 64
)

// RW is the I/O backend on read, write and epoll. Frames are read back to back into one arena, so that small ones
// stay in cache; they are the arena's until the next Poll. A write is done when Send returns.
type RW struct {
	epoll  int
	wakeFD int
	arena  []byte
	ports  [frame.MaxPorts]rwPort
	ready  []frame.PortID // known to have something to read
	since  int            // Polls since epoll was asked
	events [64]unix.EpollEvent
	failed [2][]frame.TxFailure
	gone   []frame.PortID
}

type rwPort struct {
	conn  frame.Conn
	read  bool
	ready bool
}

// NewRW makes a backend without ports.
func NewRW() (*RW, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("tap: epoll: %w", err)
	}
	ev, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, ev, &unix.EpollEvent{Events: unix.EPOLLIN})
	}
	if err != nil {
		unix.Close(ep)
		return nil, fmt.Errorf("tap: eventfd: %w", err)
	}
	return &RW{epoll: ep, wakeFD: ev, arena: make([]byte, arenaSz), ready: make([]frame.PortID, 0, frame.MaxPorts)}, nil
}

// Add is dataplane.Poller's.
func (r *RW) Add(id frame.PortID, c frame.Conn, read bool) error {
	if read {
		ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: int32(id)}
		if err := unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, c.FD(), &ev); err != nil {
			return fmt.Errorf("tap: epoll: %w", err)
		}
	}
	r.ports[id] = rwPort{conn: c, read: read}
	if read {
		r.makeReady(id) // what came before it was added raises no event
	}
	return nil
}

// Remove is dataplane.Poller's.
func (r *RW) Remove(id frame.PortID) {
	p := &r.ports[id]
	if p.conn == nil {
		return
	}
	if p.read {
		_ = unix.EpollCtl(r.epoll, unix.EPOLL_CTL_DEL, p.conn.FD(), nil) // fails only for a descriptor that is dead
	}
	for i, q := range r.ready {
		if q == id {
			r.ready = append(r.ready[:i], r.ready[i+1:]...)
			break
		}
	}
	*p = rwPort{}
}

//uvswitch:hot
func (r *RW) makeReady(id frame.PortID) {
	if p := &r.ports[id]; p.read && !p.ready {
		p.ready = true
		r.ready = append(r.ready, id)
	}
}

// Poll is dataplane.Poller's.
//
//uvswitch:hot
func (r *RW) Poll(b *frame.Batch) error {
	b.N = 0
	b.Failed, r.failed[0], r.failed[1] = r.failed[0], r.failed[1][:0], r.failed[0]
	r.gone = r.gone[:0]
	for {
		wait := 0
		if len(r.ready) == 0 && len(b.Failed) == 0 {
			wait = -1
		}
		r.since++
		if wait != 0 || len(r.ready) == 0 || r.since >= look {
			woken, err := r.await(wait)
			if err != nil {
				return err
			}
			if woken {
				r.readAll(b)
				break // whoever woke us has something that must not wait for a frame
			}
		}
		r.readAll(b)
		if b.N > 0 || len(b.Failed) > 0 || len(r.gone) > 0 {
			break
		}
	}
	b.Gone = r.gone
	return nil
}

// await asks epoll for ports that have become ready, waiting for wait milliseconds (-1: until there is one).
//
//uvswitch:hot
func (r *RW) await(wait int) (woken bool, err error) {
	r.since = 0
	n, err := unix.EpollWait(r.epoll, r.events[:], wait)
	if err == unix.EINTR {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for i := range r.events[:n] {
		if id := r.events[i].Fd; id != 0 {
			r.makeReady(frame.PortID(id))
			continue
		}
		woken = true
		var count [8]byte
		_, _ = unix.Read(r.wakeFD, count[:])
	}
	return woken, nil
}

// readAll goes once over the ready ports and reads from each up to its quota. A port that has more goes to the end
// of the line; one that has none leaves it.
//
//uvswitch:hot
func (r *RW) readAll(b *frame.Batch) {
	used := 0
	for range len(r.ready) {
		if b.N == frame.BatchSize || used > frame.BatchBytes {
			return
		}
		id := r.ready[0]
		copy(r.ready, r.ready[1:])
		r.ready = r.ready[:len(r.ready)-1]
		p := &r.ports[id]
		p.ready = false
		more := true
		for n := 0; more && n < quota && b.N < frame.BatchSize && used <= frame.BatchBytes; n++ {
			size, err := p.conn.Read(r.arena[used:])
			if err != nil {
				p.read = false
				r.gone = append(r.gone, id)
			}
			if more = size > 0; more {
				b.Frames[b.N].Reset(r.arena[used:used+size:used+size], id)
				b.N++
				used += (size + 63) &^ 63
			}
		}
		if more {
			r.makeReady(id)
		}
	}
}

// Send is dataplane.Poller's.
//
//uvswitch:hot
func (r *RW) Send(id frame.PortID, f *frame.Frame) {
	why := frame.PortGone
	if c := r.ports[id].conn; c != nil {
		why = c.Write(f)
	}
	if why != frame.None {
		r.failed[0] = append(r.failed[0], frame.TxFailure{Port: id, Reason: why, Bytes: uint32(f.Len())})
	}
}

// Wake is dataplane.Poller's.
func (r *RW) Wake() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(r.wakeFD, one[:])
}

// Close is dataplane.Poller's.
func (r *RW) Close() error {
	unix.Close(r.wakeFD)
	return unix.Close(r.epoll)
}
