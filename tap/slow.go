package tap

import (
	"encoding/binary"
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
	sampleEvery = 64                    // one batch in so many is timed,
	sampleTime  = 20 * time.Millisecond // or one after this time, if batches are few.
	lookEvery   = 2                     // The clock is read once in so many batches.
	timedRow    = 16                    // batches that are timed after a dear frame; as many again while the dear frames are too few to judge by
	surelyDear  = 10 * time.Millisecond // if a port's dear frames have taken so long, it is slow: no further batch is timed

	// A frame is dear if it takes longer, in CPU time. A port is slow if all of this is true: its dear frames take most of the time of its frames; its
	// frames are dear in the mean, or its dear frames are very dear; dear frames take more than a fifth of the time in which the thread does not wait
	// for a CPU. Some frames may take long by chance: an interrupt counts as their time, too, and so do the packets of a flood from outside that the
	// kernel carries meanwhile. The write of an acknowledgement also has its receiver send the next data of a stream. So what a port sends is allowed
	// for, if this thread reads the port.
	dearFrame = 60 * time.Microsecond
	dearKiB   = 4 * time.Microsecond // for each KiB of it
	veryDear  = 4                    // times as long: no cheap frames make up for it
	sentKiB   = 2 * time.Microsecond // for each KiB that its receiver sends,
	mostSent  = 128                  // and no more KiB for each dear frame: a receiver that always sends may be slow, too
	dearShare = 5
	leastDear = 4   // frames
	fewDear   = 100 // dear frames that take less of the time than one part in so many are few

	slowRing     = 2 * frame.BatchBytes
	slowPause    = 8                      // after a dear frame, the thread of a slow port pauses for so many times as long as it has waited for a CPU since the last look,
	longestPause = 250 * time.Millisecond // but not longer
	slowLook     = 16                     // It looks how long it has waited after a dear frame, and after so many cheap ones.
	slowHead     = 8                      // bytes before a frame in the ring: the number of frames in its chain, and at 4 the bytes of all of them
	slowTerm     = time.Second            // a slow port may recover after this time at the earliest; twice as long if it was slow shortly before,
	longestTerm  = time.Minute            // but not longer
)

// receivers are what a backend knows of the cost of its ports' frames.
type receivers struct {
	cpuTimes
	diverted uint64 // how often a port got a thread of its own
	watched  bool   // Send calls sendWatched: frames are timed, or there are slow ports
	timed    bool   // the frames of this batch are
	batches  int    // since some were timed
	left     int    // timed batches to come, this one included
	sampled  time.Time
	began    time.Time
	waited   int64 // CPU wait of this thread, in ns, when it began
	costs    map[frame.PortID]*cost
	slow     map[frame.PortID]*slowPort
	past     map[frame.PortID]slowTime // of ports that have recovered
}

// A slowTime is how long a port had to be slow at least, and when it recovered.
type slowTime struct {
	term time.Duration
	end  time.Time
}

// cost is what the frames to a port have cost.
type cost struct {
	conn    frame.Conn
	cpu     time.Duration // of all frames
	allowed time.Duration // for all of them, before they are dear
	dear    int           // frames
	dearCPU time.Duration // of these
	dearest time.Duration // of one of them
	sent    int           // bytes, by the port meanwhile
}

func (c *cost) add(cpu time.Duration, bytes int) {
	c.cpu += cpu
	c.allowed += dearAfter(bytes)
	if isDear(cpu, bytes) {
		c.dear++
		c.dearCPU += cpu
		c.dearest = max(c.dearest, cpu)
	}
}

// sending is the time of dear frames that what the port has sent accounts for.
func (c *cost) sending() time.Duration {
	return time.Duration(min(c.sent>>10, mostSent*c.dear)) * sentKiB
}

// beyond is how much longer the dear frames took.
func (c *cost) beyond() time.Duration { return c.dearCPU - c.sending() }

// mostlyDear reports whether dear frames took most of the time, for another reason than what the port has sent.
func (c *cost) mostlyDear() bool { return 2*c.dearCPU > c.cpu && c.beyond() > 0 }

// areFew reports whether the dear frames are too few to judge by. The dearest one may be so by an interrupt, or by another guest of the machine: without
// it, the others must still take longer than what the port has sent accounts for.
func (c *cost) areFew() bool { return c.dear < leastDear || c.beyond() <= c.dearest }

// isSlow reports whether dear frames took most of the time, and frames were dear in the mean, or dear frames were very dear.
func (c *cost) isSlow() bool {
	others := time.Duration(c.dear - 1) // than the dearest one
	return c.mostlyDear() && !c.areFew() && (c.cpu-c.sending() > c.allowed || c.beyond()-c.dearest > others*veryDear*dearFrame)
}

func isDear(cpu time.Duration, bytes int) bool { return cpu > dearAfter(bytes) }

// dearAfter is the time after which a frame is dear.
func dearAfter(bytes int) time.Duration { return dearFrame + time.Duration(bytes>>10)*dearKiB }

// begin is called before each batch. It adds what slow ports have refused meanwhile to failed.
//
//uvswitch:hot
func (r *receivers) begin(failed []frame.TxFailure) []frame.TxFailure {
	if r.batches++; r.watched || r.batches%lookEvery == 0 {
		return r.beginWatched(failed)
	}
	return failed
}

func (r *receivers) beginWatched(failed []frame.TxFailure) []frame.TxFailure {
	if r.left > 0 {
		if r.left--; r.left == 0 {
			r.judge()
		}
	}
	if r.timed = r.left > 0 || r.batches >= sampleEvery || r.batches >= lookEvery && time.Since(r.sampled) > sampleTime; r.timed {
		r.batches, r.sampled = 0, time.Now()
	}
	for _, s := range r.slow {
		failed = s.takeFailures(failed)
	}
	r.watched = r.timed || len(r.slow) > 0
	return failed
}

// hasRead notes the frames of a batch that was read. Then it lets ports recover: the threads of slow ports had time to write meanwhile.
func (r *receivers) hasRead(b *frame.Batch, failed []frame.TxFailure) []frame.TxFailure {
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if s := r.slow[f.In]; s != nil {
			s.noteSent(f.Len())
		} else if r.left > 0 {
			r.costOf(f.In).sent += f.Len()
		}
	}
	for id, s := range r.slow {
		if !s.hasRecovered() {
			continue
		}
		failed = s.takeFailures(failed)
		delete(r.slow, id)
		close(s.more) // the thread has nothing to write, and nobody waits for its end
		if r.past == nil {
			r.past = map[frame.PortID]slowTime{}
		}
		r.past[id] = slowTime{s.term, time.Now()}
	}
	return failed
}

// forget ends a port's own thread, and forgets what its frames have cost; what still waits in its ring fails.
func (r *receivers) forget(id frame.PortID, failed []frame.TxFailure) []frame.TxFailure {
	delete(r.past, id)
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
	if t.add(cpu, bytes); t.isSlow() && t.beyond()-t.dearest > surelyDear {
		r.left = 1
	}
}

func (r *receivers) costOf(id frame.PortID) *cost {
	if r.costs[id] == nil {
		r.costs[id] = &cost{}
	}
	return r.costs[id]
}

// judge gives threads of their own to the ports whose frames were dear, if these took much of the time. While it has seen too few such frames,
// further batches are timed.
func (r *receivers) judge() {
	all, slow, ports := time.Duration(0), time.Duration(0), 0
	for _, c := range r.costs {
		if c.mostlyDear() {
			all += c.beyond()
		}
		if c.isSlow() {
			slow += c.beyond()
			ports++
		}
	}
	if all*dearShare > time.Since(r.began)-time.Duration(r.CPUWait()-r.waited) {
		found, few := false, false
		for id, c := range r.costs {
			few = few || c.mostlyDear() && c.areFew()
			if c.isSlow() && 2*c.beyond()*time.Duration(ports) >= slow { // half of an equal part: another port's frames may be the dear ones
				r.divert(id, c.conn)
				found = true
			}
		}
		if few && !found {
			r.left = timedRow
			return
		}
	}
	r.costs = nil
}

// used adds what this thread has used, and how many threads it has given.
func (r *receivers) used(n frame.IOCounts) frame.IOCounts {
	n = r.cpuTimes.used(n)
	n.Diverted = r.diverted
	return n
}

// divert gives a thread of its own to a port.
func (r *receivers) divert(id frame.PortID, c frame.Conn) {
	term := slowTerm
	if p, ok := r.past[id]; ok && time.Since(p.end) < 8*p.term {
		term = min(2*p.term, longestTerm)
	}
	if r.slow == nil {
		r.slow = map[frame.PortID]*slowPort{}
	}
	r.slow[id] = newSlowPort(id, c, term)
	r.diverted++
}

// A slowPort is a port that a thread of its own writes to. The backend calls all methods but run.
type slowPort struct {
	id     frame.PortID
	conn   frame.Conn
	queue  *ring.Queue
	term   time.Duration
	looked time.Time
	more   chan struct{} // a value: something waits; closed: the thread ends when nothing does
	quit   chan struct{} // closed by stop: what waits is not written
	ended  chan struct{}

	mu     sync.Mutex // Lock 92
	cost   cost       // since looked
	failed []frame.TxFailure
}

func newSlowPort(id frame.PortID, c frame.Conn, term time.Duration) *slowPort {
	s := &slowPort{id: id, conn: c, queue: ring.New(slowRing), term: term, looked: time.Now(), more: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{})}
	go s.run()
	return s
}

// put passes a frame with its chain to the thread. It returns None, or why the frame was dropped.
func (s *slowPort) put(f *frame.Frame) frame.Reason {
	b := s.queue.Reserve(slowHead + frame.VnetLen + f.WireLen())
	if b == nil {
		return frame.SlowReceiver
	}
	all := frame.Failure(s.id, frame.None, f)
	b[0] = all.Frames
	binary.NativeEndian.PutUint32(b[4:], all.Bytes)
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
	waited, cheap := times.CPUWait(), 0
	defer close(s.ended)
	for range s.more {
		before := threadTime()
		for b := s.queue.Peek(); b != nil; b = s.queue.Peek() {
			why := frame.PortGone
			if !s.quits() {
				why = s.write(b[slowHead:])
			}
			after := threadTime()
			cpu, bytes := after-before, len(b)-slowHead-frame.VnetLen
			before = after
			s.mu.Lock()
			s.cost.add(cpu, bytes)
			if why != frame.None {
				s.failed = append(s.failed, frame.TxFailure{Port: s.id, Reason: why, Frames: b[0], Slot: frame.NoSlot, Bytes: binary.NativeEndian.Uint32(b[4:])})
			}
			s.mu.Unlock()
			s.queue.Release()
			dear := isDear(cpu, bytes)
			if cheap++; !dear && cheap < slowLook { // a look at the CPU wait takes as long as a cheap frame
				continue
			}
			last := waited
			waited, cheap = times.CPUWait(), 0
			if dear && waited > last { // CPUs are short: others come first
				select {
				case <-s.quit:
				case <-time.After(min(slowPause*time.Duration(waited-last), longestPause)):
				}
			}
			before = threadTime()
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

// noteSent adds what the port has sent.
func (s *slowPort) noteSent(bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cost.sent += bytes
}

// hasRecovered reports whether the backend may write to the port again.
func (s *slowPort) hasRecovered() bool {
	took := time.Since(s.looked)
	if took < s.term || !s.queue.Empty() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dear := s.cost.beyond() // a few frames take long by chance
	recovered := dear*fewDear < took || !s.cost.isSlow() && dear*dearShare < took
	s.looked, s.cost = time.Now(), cost{}
	return recovered
}
