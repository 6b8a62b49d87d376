package dataplane

import (
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/ring"
)

// A Rate limits one direction of a port. Excess frames are queued (FIFO per worker, up to bucket.limit bytes), then dropped. A flooded
// frame counts against the rate of each port that it goes to, and is never queued.
type Rate struct {
	Bits  uint64 // per second, of Ethernet frames without their check sequence; 0: no limit
	Burst uint64 // bytes that may pass at once after a pause; 0: DefaultBurst
}

const (
	longestWait = 50 * time.Millisecond
	leastWait   = 16 << 10 // lower bound of bucket.limit, in bytes
	mostWait    = 1 << 20  // upper bound of bucket.limit, in bytes
	alarmEvery  = int64(time.Millisecond)
	minSegment  = 64                                                       // bytes of payload: Linux's least MSS is more
	maxHeaders  = frame.EthernetLen + 2*frame.VLANLen + frame.IPv6Len + 20 // before the transport header, options included
)

// DefaultBurst is the bytes of 5 ms at this rate, at least 32 KiB. Workers check their queues once a millisecond, so a much smaller
// burst would lower the rate.
func (r Rate) DefaultBurst() uint64 { return max(r.Bits/8/200, 32<<10) }

// A bucket is a Rate in force, shared by all workers: the virtual scheduling algorithm of ITU-T I.371. A frame of any length passes
// when there is any room, and the next frames wait for it.
type bucket struct {
	perByte uint64       // time of one byte, in 2^-16 ns
	burst   int64        // ns
	tat     atomic.Int64 // TAT: the time until which the frames sent so far have used the rate; ns of the data plane's clock
	limit   int          // bytes that one worker may queue
}

// newBucket returns nil for no limit.
func newBucket(r Rate) *bucket {
	if r.Bits == 0 {
		return nil
	}
	if r.Burst == 0 {
		r.Burst = r.DefaultBurst()
	}
	t := &bucket{perByte: 8e9 << 16 / r.Bits}
	t.burst = int64(float64(r.Burst) * 8e9 / float64(r.Bits))
	t.limit = int(min(max(r.Bits/8*uint64(longestWait)/uint64(time.Second), leastWait), mostWait))
	return t
}

// take lets n bytes pass, or returns false: they must wait.
//
//uvswitch:hot
func (t *bucket) take(now int64, n int) bool {
	for {
		paid := t.tat.Load()
		if paid-now > t.burst {
			return false
		}
		if t.tat.CompareAndSwap(paid, max(paid, now)+t.cost(n)) {
			return true
		}
	}
}

// charge counts n bytes that pass even if the rate is exceeded, so that later frames wait longer: by at most most ns.
//
//uvswitch:hot
func (t *bucket) charge(now int64, n int, most int64) {
	for {
		paid := t.tat.Load()
		next := min(max(paid, now)+t.cost(n), max(paid, now+most))
		if t.tat.CompareAndSwap(paid, next) {
			return
		}
	}
}

//uvswitch:hot
func (t *bucket) cost(n int) int64 { return int64(uint64(n) * t.perByte >> 16) }

// A queue holds the frames of one worker that wait for one bucket.
type queue struct {
	*bucket
	ring   *ring.Queue
	at     resumePoint // where its frames continue
	frames int
	all    *atomic.Int64 // frames of all queues of the worker
	bytes  int
	ended  bool // the rate was removed or replaced: queued frames may go at once
}

func newQueue(t *bucket, at resumePoint, all *atomic.Int64) *queue {
	if t == nil {
		return nil
	}
	room := 2 * (t.limit + frame.MaxFrame) // one frame may exceed the limit; the end of the ring may stay unused
	return &queue{bucket: t, at: at, all: all, ring: ring.New(1 << bits.Len(uint(room)))}
}

// pass lets a frame continue, queues it, or drops it for a reason. worker.reinject takes it off the queue.
//
//uvswitch:hot
func (q *queue) pass(now int64, f *frame.Frame, why frame.Reason) {
	if q.frames == 0 && q.take(now, onWire(f.Raw())) {
		return
	}
	f.DropFor(why)
	if q.bytes > q.limit {
		return
	}
	rec := q.ring.Reserve(recordLen + len(f.Raw()))
	if rec == nil {
		return
	}
	putQueued(rec, f, q.at)
	copy(rec[recordLen:], f.Raw())
	q.ring.Commit()
	q.frames++
	q.all.Add(1)
	q.bytes += f.Len()
	f.Verdict = frame.Queued
}

// ready reports whether the oldest frame may go.
//
//uvswitch:hot
func (q *queue) ready(now int64) bool {
	return q.frames > 0 && (q.ended || q.tat.Load()-now <= q.burst)
}

// release takes the oldest frame off the queue.
//
//uvswitch:hot
func (q *queue) release(now int64) {
	raw := q.ring.Peek()[recordLen:]
	if !q.ended {
		q.charge(now, onWire(raw), math.MaxInt64/2) // another worker may have been first since ready
	}
	q.frames--
	q.all.Add(-1)
	q.bytes -= len(raw) - frame.VnetLen
	q.ring.Release()
}

// onWire is the number of bytes that a frame has on a wire, after it is cut into segments with a header each. The sender wrote the
// virtio-net header, so its values are limited to plausible ones.
//
//uvswitch:hot
func onWire(raw []byte) int {
	n, h := len(raw)-frame.VnetLen, frame.VnetHdr(raw)
	if size := int(h.GSOSize()); h.GSOType() != frame.GSONone && size > 0 {
		size = max(size, minSegment)
		head := min(int(h.CsumStart()), maxHeaders) + frame.UDPLen
		if h.GSOType() != frame.GSOUDPL4 {
			head += frame.TCPLen - frame.UDPLen + 12 // timestamps, as a rule
		}
		n += max(n-head-1, 0) / size * head
	}
	return n
}

// A shaper enforces the rates of ports for one worker: on frames from a port before anything else is done with them, and on frames to
// a port after everything else.
type shaper struct {
	now    int64 // of this batch, ns of the dataplane's clock
	rx, tx [frame.MaxPorts]*queue
	queues []*queue      // all of them, and ended ones that are not empty yet
	frames *atomic.Int64 // in all of them
	turn   int
	alarm  *time.Timer
	set    int64 // time that the alarm is set to
}

func newShaper(wake func()) shaper {
	t := time.AfterFunc(math.MaxInt64, wake)
	t.Stop()
	return shaper{alarm: t, frames: new(atomic.Int64)}
}

// limit replaces the queues of a port. The old queues empty at once.
func (s *shaper) limit(id frame.PortID, rx, tx *bucket) {
	for _, q := range []*queue{s.rx[id], s.tx[id]} {
		if q != nil {
			q.ended = true
		}
	}
	s.rx[id], s.tx[id] = newQueue(rx, atStart, s.frames), newQueue(tx, atTransmit, s.frames)
	for _, q := range []*queue{s.rx[id], s.tx[id]} {
		if q != nil {
			s.queues = append(s.queues, q)
		}
	}
}

// admit queues or drops frames that their port sends too fast.
//
//uvswitch:hot
func (s *shaper) admit(b *frame.Batch) {
	if len(s.queues) == 0 {
		return
	}
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.Switch {
			continue
		}
		if q := s.rx[f.In%frame.MaxPorts]; q != nil {
			q.pass(s.now, f, frame.RxRateExceeded)
		}
	}
}

// shape queues or drops frames that come too fast for the port that they go to.
//
//uvswitch:hot
func (s *shaper) shape(b *frame.Batch) {
	if len(s.queues) == 0 {
		return
	}
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.ToPort || f.Flags&frame.Waited != 0 {
			continue
		}
		if q := s.tx[f.Out%frame.MaxPorts]; q != nil {
			q.pass(s.now, f, frame.TxRateExceeded)
		}
	}
}

// charge counts one copy of a flooded frame.
//
//uvswitch:hot
func (s *shaper) charge(id frame.PortID, f *frame.Frame) {
	if q := s.tx[id]; q != nil {
		q.charge(s.now, onWire(f.Raw()), q.burst) // never so much that nothing else could pass
	}
}

// next returns a queue whose oldest frame may go, in turn, or nil.
//
//uvswitch:hot
func (s *shaper) next() *queue {
	for range s.queues {
		s.turn++
		if q := s.queues[s.turn%len(s.queues)]; q.ready(s.now) {
			return q
		}
	}
	return nil
}

// setAlarm wakes the worker at the time first, or when the first queued frame may go; at most once a millisecond. It also forgets ended
// queues.
//
//uvswitch:hot
func (s *shaper) setAlarm(first int64) {
	over := false
	for _, q := range s.queues {
		if q.frames > 0 {
			first = min(first, q.tat.Load()-q.burst)
		}
		over = over || q.ended && q.frames == 0
	}
	if over {
		s.forget()
	}
	if first == math.MaxInt64 {
		return
	}
	if first = max(first, s.now+alarmEvery); s.set <= s.now || first < s.set {
		s.set = first
		s.wakeIn(first - s.now)
	}
}

// forget removes the queues of limits that are gone, once they are empty.
func (s *shaper) forget() {
	s.queues = slices.DeleteFunc(s.queues, func(q *queue) bool { return q.ended && q.frames == 0 })
}

func (s *shaper) wakeIn(ns int64) { s.alarm.Reset(time.Duration(ns)) }
