package tap

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

const wakerID = -1 // in place of a port

const look = 4 // Polls after which epoll is asked for newly ready ports, even if some are ready

// RW is the I/O backend that uses read, write and epoll. Send writes the frame before it returns.
type RW struct {
	*waker
	readers
	receivers
	epoll  int
	ports  [frame.MaxPorts]frame.Conn // ports that Send can send to
	since  int                        // Polls since the last epoll_wait
	events [64]unix.EpollEvent
	counts frame.IOCounts
	failed [2][]frame.TxFailure
}

var errClosed = errors.New("tap: the backend is closed")

// NewRW returns a backend without ports.
func NewRW() (*RW, error) {
	w, err := newWaker()
	if err != nil {
		return nil, err
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, w.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakerID})
	}
	if err != nil {
		unix.Close(ep)
		w.close()
		return nil, fmt.Errorf("tap: epoll: %w", err)
	}
	return &RW{waker: w, readers: newReaders(), epoll: ep}, nil
}

// Add implements dataplane.Poller.
func (r *RW) Add(id frame.PortID, c frame.Conn, read frame.Reading) error {
	if r.epoll < 0 {
		return errClosed
	}
	if read != frame.NotRead {
		ev := unix.EpollEvent{Events: readable, Fd: int32(id)}
		if err := unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, c.FD(), &ev); err != nil {
			return fmt.Errorf("tap: epoll: %w", err)
		}
		r.add(id, c, read)
	}
	r.ports[id] = c
	if bulk := bulkQueue(c, read); bulk != nil {
		r.bulkOf = id
		return r.Add(frame.Bulk, bulk, read)
	}
	return nil
}

// Remove implements dataplane.Poller.
func (r *RW) Remove(id frame.PortID) {
	c := r.ports[id]
	if c == nil || r.epoll < 0 {
		return
	}
	r.failed[0] = r.forget(id, r.failed[0])
	_ = unix.EpollCtl(r.epoll, unix.EPOLL_CTL_DEL, c.FD(), nil) // fails for a port that is not read, or whose device is gone
	if id == r.bulkOf {
		r.Remove(frame.Bulk)
		r.bulkOf = frame.NoPort
	}
	r.remove(id)
	r.ports[id] = nil
}

// Yield implements dataplane.Poller.
func (r *RW) Yield(id frame.PortID) bool {
	if c := r.conns[id]; c != nil && r.epoll >= 0 {
		_ = unix.EpollCtl(r.epoll, unix.EPOLL_CTL_DEL, c.FD(), nil) // fails for a device that is gone
	}
	r.remove(id)
	return true
}

// Take implements dataplane.Poller.
func (r *RW) Take(id frame.PortID, read frame.Reading) error { return r.Add(id, r.ports[id], read) }

// Pause implements dataplane.Poller. Frames that arrive do not wake the worker.
func (r *RW) Pause(id frame.PortID) {
	r.readers.Pause(id)
	r.watch(id, unix.EPOLLET&0xffffffff)
}

// Resume implements dataplane.Poller.
func (r *RW) Resume(id frame.PortID) {
	r.watch(id, readable)
	r.readers.Resume(id)
}

const readable = unix.EPOLLIN | unix.EPOLLET&0xffffffff

// watch sets the events of a port that the backend reads. It fails only for a device that is gone.
func (r *RW) watch(id frame.PortID, events uint32) {
	if c := r.conns[id]; c != nil && r.epoll >= 0 {
		_ = unix.EpollCtl(r.epoll, unix.EPOLL_CTL_MOD, c.FD(), &unix.EpollEvent{Events: events, Fd: int32(id)})
	}
}

// Poll implements dataplane.Poller.
//
//uvswitch:hot
func (r *RW) Poll(b *frame.Batch) error {
	b.N = 0
	r.failed[0] = r.late(r.begin(r.failed[0]))
	b.Failed, r.failed[0], r.failed[1] = r.failed[0], r.failed[1][:0], r.failed[0]
	r.gone = r.gone[:0]
	r.wakeAnswering()
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
				r.read(b, frame.BatchSize)
				break // the caller of Wake must not wait until a frame comes
			}
		}
		r.read(b, frame.BatchSize)
		if b.N > 0 || len(b.Failed) > 0 || len(r.gone) > 0 {
			break
		}
	}
	b.Gone = r.gone
	if r.watched {
		r.failed[0] = r.hasRead(b, r.failed[0])
	}
	r.counts.Batch(b.N)
	return nil
}

// Counts implements dataplane.Poller.
func (r *RW) Counts() frame.IOCounts { return r.used(r.counts) }

// await calls epoll_wait and queues the ports that have become ready. It waits for at most wait milliseconds; -1 means no
// limit. woken reports a call of Wake.
//
//uvswitch:hot
func (r *RW) await(wait int) (woken bool, err error) {
	r.since = 0
	r.counts.Calls++
	if wait < 0 {
		r.counts.Sleeps++
	}
	n, err := unix.EpollWait(r.epoll, r.events[:], wait)
	if err == unix.EINTR {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for i := range r.events[:n] {
		if id := r.events[i].Fd; id != wakerID {
			r.wakeUp(frame.PortID(id))
			continue
		}
		woken = true
		r.clear()
	}
	return woken, nil
}

// Send implements dataplane.Poller.
//
//uvswitch:hot
func (r *RW) Send(id frame.PortID, f *frame.Frame) {
	why := frame.PortGone
	if c := r.ports[id]; r.watched && id != r.answering {
		why = r.sendWatched(id, c, f)
	} else if c != nil {
		why = c.Write(f)
	}
	if why != frame.None {
		r.failed[0] = append(r.failed[0], frame.Refused(id, why, f))
	}
}

// sendWatched passes a frame to the thread of a slow port, or measures what it costs.
func (r *RW) sendWatched(id frame.PortID, c frame.Conn, f *frame.Frame) (why frame.Reason) {
	if s := r.slow[id]; s != nil {
		return s.put(f)
	}
	if c == nil {
		return frame.PortGone
	}
	if !r.timed {
		return c.Write(f)
	}
	before := threadTime()
	why = c.Write(f)
	r.note(id, c, f, before)
	return why
}

// Close implements dataplane.Poller.
func (r *RW) Close() error {
	if r.epoll < 0 {
		return nil
	}
	for id := range r.slow {
		r.failed[0] = r.forget(id, r.failed[0])
	}
	r.waker.close()
	r.cpuTimes.close()
	err := unix.Close(r.epoll)
	r.epoll = -1
	return err
}
