package tap

import (
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/ring"
)

// A write to a TAP runs the receiver's network stack on the thread that writes. A receiver with thousands of packet sockets or of filter
// rules makes each of its frames cost a millisecond, and the frames of all other ports wait. So a backend measures now and then what frames
// cost, by port. The frames of a slow receiver go through a ring to a thread that writes this port alone; those that do not fit are dropped
// for slow_receiver. The backend writes to the port again when its frames have become cheap or rare, and the ring is empty: the frames stay
// in order.

const (
	sampleEvery = 64                    // batches: the frames of one of them are timed,
	sampleTime  = 20 * time.Millisecond // or after this time, if batches are few:
	lookEvery   = 8                     // batches: then the time is looked at
	timedRow    = 16                    // batches that are timed after a dear frame; as many again while too few frames were dear to judge

	// A frame is dear if it takes longer, in CPU time. A port is slow if most of its frames are dear, and if dear frames take more than a fifth
	// of the time in which the thread does not wait for a CPU. A few frames may take long by chance: an interrupt counts as their time, too.
	// An acknowledgement has its receiver send the next data, on this thread as well. So what a port sends meanwhile is allowed for, if this thread
	// reads the port.
	dearFrame = 60 * time.Microsecond
	dearKiB   = 4 * time.Microsecond // for each KiB of it
	sentKiB   = 2 * time.Microsecond // for each KiB that its receiver sends
	dearShare = 5
	leastDear = 4 // frames

	slowRing     = 256 << 10              // bytes
	slowPause    = 8                      // times as long as a thread has waited for a CPU, it pauses,
	longestPause = 250 * time.Millisecond // but not longer
	slowHead     = 8                      // bytes before a frame in the ring; the first is the number of frames in its chain
	slowTerm     = time.Second            // how often a slow port is looked at
)

// receivers are what a backend knows of the cost of its ports' frames.
type receivers struct {
	cpuTimes
	watched bool // Send calls sendWatched: frames are timed, or there are slow ports
	timed   bool // the frames of this batch are
	batches int
	left    int // timed batches to come, this one included
	sampled time.Time
	began   time.Time
	waited  int64 // CPU wait of this thread, in ns, when it began
	costs   map[frame.PortID]*cost
	slow    map[frame.PortID]*slowPort
}

// cost is what the frames to a port have cost.
type cost struct {
	conn         frame.Conn
	frames, dear int
	cpu          time.Duration // of the dear ones
	sent         int           // bytes, by the port meanwhile
}

func (c *cost) add(cpu time.Duration, bytes int) {
	if c.frames++; isDear(cpu, bytes) {
		c.dear++
		c.cpu += cpu
	}
}

// beyond is how much longer the dear frames took than what the port has sent accounts for.
func (c *cost) beyond() time.Duration { return c.cpu - time.Duration(c.sent>>10)*sentKiB }

// mostlyDear reports whether most frames were dear, for another reason than what the port has sent.
func (c *cost) mostlyDear() bool { return 2*c.dear > c.frames && c.beyond() > 0 }

// isSlow reports whether most frames were dear, and not only a few.
func (c *cost) isSlow() bool { return c.mostlyDear() && c.dear >= leastDear }

func isDear(cpu time.Duration, bytes int) bool {
	return cpu > dearFrame+time.Duration(bytes>>10)*dearKiB
}

// begin is called before each batch. It adds what slow ports have refused meanwhile to failed.
//
//uvswitch:hot
func (r *receivers) begin(failed []frame.TxFailure) []frame.TxFailure {
	if r.batches++; r.watched || r.batches%lookEvery == 0 {
		return r.beginTimed(failed)
	}
	return failed
}

func (r *receivers) beginTimed(failed []frame.TxFailure) []frame.TxFailure {
	if r.left > 0 {
		if r.left--; r.left == 0 {
			r.judge()
		}
	}
	if r.timed = r.left > 0 || r.batches >= sampleEvery || r.batches >= lookEvery && time.Since(r.sampled) > sampleTime; r.timed {
		r.batches, r.sampled = 0, time.Now()
	}
	for id, s := range r.slow {
		recovered := s.hasRecovered()
		if failed = s.takeFailures(failed); recovered {
			delete(r.slow, id)
			close(s.more) // the thread has nothing to write, and nobody waits for its end
		}
	}
	r.watched = r.timed || len(r.slow) > 0
	return failed
}

// restore ends a port's own thread, and forgets what its frames have cost; what still waits in its ring fails.
func (r *receivers) restore(id frame.PortID, failed []frame.TxFailure) []frame.TxFailure {
	delete(r.costs, id) // else judge could give the next port with this number the Conn of this one
	s := r.slow[id]
	if s == nil {
		return failed
	}
	delete(r.slow, id)
	s.stop()
	return s.takeFailures(failed)
}

// note adds what a frame to a port has cost since the time of this thread was before.
func (r *receivers) note(id frame.PortID, c frame.Conn, f *frame.Frame, before time.Duration) {
	cpu, bytes := threadTime()-before, f.WireLen()
	if r.left == 0 {
		if !isDear(cpu, bytes) {
			return
		}
		r.left, r.began, r.waited, r.costs = timedRow, time.Now().Add(-cpu), r.CPUWait(), map[frame.PortID]*cost{}
	}
	t := r.costOf(id)
	t.conn = c
	t.add(cpu, bytes)
}

// noteRead notes the frames of a batch that was read while frames are timed.
func (r *receivers) noteRead(b *frame.Batch) {
	for i := range b.Frames[:b.N] {
		r.costOf(b.Frames[i].In).sent += b.Frames[i].Len()
	}
}

func (r *receivers) costOf(id frame.PortID) *cost {
	if r.costs[id] == nil {
		r.costs[id] = &cost{}
	}
	return r.costs[id]
}

// judge gives threads of their own to the ports whose frames were dear, if these took much of the time. While there are only a few such frames,
// further batches are timed.
func (r *receivers) judge() {
	all, found := time.Duration(0), false
	for _, c := range r.costs {
		if c.mostlyDear() {
			all += c.beyond()
			found = found || c.isSlow()
		}
	}
	much := all*dearShare > time.Since(r.began)-time.Duration(r.CPUWait()-r.waited)
	if much && !found {
		r.left = timedRow
		return
	}
	for id, c := range r.costs {
		if much && c.isSlow() {
			if r.slow == nil {
				r.slow = map[frame.PortID]*slowPort{}
			}
			r.slow[id] = newSlowPort(id, c.conn)
		}
	}
	r.costs = nil
}

// A slowPort is a port that a thread of its own writes to. The backend calls all methods but run.
type slowPort struct {
	id     frame.PortID
	conn   frame.Conn
	queue  *ring.Queue
	looked time.Time
	more   chan struct{} // closed: the thread ends when nothing waits
	quit   chan struct{} // closed by stop: what waits is not written
	ended  chan struct{}

	mu     sync.Mutex // Lock 92
	cost   cost       // since looked
	failed []frame.TxFailure
}

func newSlowPort(id frame.PortID, c frame.Conn) *slowPort {
	s := &slowPort{id: id, conn: c, queue: ring.New(slowRing), looked: time.Now(), more: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{})}
	go s.run()
	return s
}

// put passes a frame with its chain to the thread. It returns None, or why the frame was dropped.
func (s *slowPort) put(f *frame.Frame) frame.Reason {
	b := s.queue.Reserve(slowHead + frame.VnetLen + f.WireLen())
	if b == nil {
		return frame.SlowReceiver
	}
	b[0] = frame.Failure(s.id, frame.None, f).Frames
	copy(b[slowHead:], f.Vnet())
	f.CopyTo(b[slowHead+frame.VnetLen:])
	s.queue.Commit()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return frame.None
}

// run is the thread.
func (s *slowPort) run() {
	runtime.LockOSThread() // for threadTime; the thread ends with its goroutine
	var times cpuTimes
	defer times.close()
	waited := times.CPUWait()
	defer close(s.ended)
	for range s.more {
		for b := s.queue.Peek(); b != nil; b = s.queue.Peek() {
			before, why := threadTime(), frame.PortGone
			if !s.quits() {
				why = s.write(b[slowHead:])
			}
			cpu, bytes := threadTime()-before, len(b)-slowHead-frame.VnetLen
			s.mu.Lock()
			s.cost.add(cpu, bytes)
			if why != frame.None {
				s.failed = append(s.failed, frame.TxFailure{Port: s.id, Reason: why, Frames: b[0], Slot: frame.NoSlot, Bytes: uint32(bytes)})
			}
			s.mu.Unlock()
			s.queue.Release()
			last := waited
			if waited = times.CPUWait(); waited > last && isDear(cpu, bytes) { // CPUs are short: others come first
				select {
				case <-s.quit:
				case <-time.After(min(slowPause*time.Duration(waited-last), longestPause)):
				}
			}
		}
	}
}

func (s *slowPort) quits() bool {
	select {
	case <-s.quit:
		return true
	default:
		return false
	}
}

func (s *slowPort) write(raw []byte) frame.Reason {
	if s.conn.Vnet() { // by a call that Go's scheduler is told of: it may take long
		for {
			_, err := unix.Write(s.conn.FD(), raw)
			if errno, _ := err.(syscall.Errno); errno != unix.EINTR {
				return writeReason(s.conn, errno)
			}
		}
	}
	var f frame.Frame
	f.Reset(raw, frame.NoPort)
	frame.Parse(&f)
	return s.conn.Write(&f)
}

// stop ends the thread. What waits in the ring fails.
func (s *slowPort) stop() {
	close(s.quit)
	close(s.more)
	<-s.ended
}

func (s *slowPort) takeFailures(to []frame.TxFailure) []frame.TxFailure {
	s.mu.Lock()
	defer s.mu.Unlock()
	to = append(to, s.failed...)
	s.failed = s.failed[:0]
	return to
}

// hasRecovered reports whether the backend may write to the port again.
func (s *slowPort) hasRecovered() bool {
	if time.Since(s.looked) < slowTerm || !s.queue.Empty() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	recovered := !s.cost.isSlow()
	s.looked, s.cost = time.Now(), cost{}
	return recovered
}
