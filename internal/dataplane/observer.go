package dataplane

import (
	"cmp"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// An Observer sees what one worker does with frames; a capture is one. Without an observer, a batch costs two comparisons.
type Observer interface {
	// Received is called with a parsed batch, before any decision. It may set Frame.Slot, to recognize the frames in Batch.Failed.
	// reinjected: the frames were received earlier, or the router made them.
	Received(b *frame.Batch, reinjected bool)
	// Decided is called when every frame of that batch has its verdict, and the Poller has those to be sent.
	Decided(b *frame.Batch)
	// SlowPathDone is called for each frame that the slow path ends.
	SlowPathDone(End)
}

// An End is a frame that the slow path has ended.
type End struct {
	In     frame.PortID
	Raw    []byte       // the virtio-net header and the frame; valid until the function returns
	Reason frame.Reason // why it was dropped; None: the gateway has taken it
}

// Observe installs an observer on every worker and on the slow path. newObserver(i) is called on worker i between two batches; i is
// the number of workers for the slow path. nil removes all observers.
func (d *Dataplane) Observe(newObserver func(i int) Observer) {
	set := func(i int, to *Observer) {
		if *to = nil; newObserver != nil {
			*to = newObserver(i)
		}
	}
	for i, w := range d.workers {
		w.run(func() { set(i, &w.observer) })
	}
	d.slow.mu.Lock()
	defer d.slow.mu.Unlock()
	set(len(d.workers), &d.slow.observer)
}

// A Drop is one of the last drops, which are kept with or without an observer.
type Drop struct {
	Tick    frame.Tick
	In, Out frame.PortID // Out: the port that refused the frame; if it did so late, In and Head may be missing
	Reason  frame.Reason
	Length  uint32 // of the frame, in bytes
	Head    []byte // its first bytes
}

const (
	keptParts = 16 // ports share a part: a port that floods pushes out what is in its own part only
	keptDrops = 64 // in a part, by each worker, and by the slow path
	keptBytes = frame.FailureHead
)

// recent has the last drops of one goroutine, in circular buffers. Superseded acknowledgements are left out: they would push out all others.
type recent [keptParts]struct {
	n    uint64 // ever
	list [keptDrops]keptDrop
}

type keptDrop struct {
	tick    frame.Tick
	length  uint32
	in, out frame.PortID
	reason  frame.Reason
	kept    uint8
	head    [keptBytes]byte
}

//uvswitch:hot
func (r *recent) add(now frame.Tick, in, out frame.PortID, why frame.Reason, length int, head []byte) {
	if why == frame.AckSuperseded {
		return
	}
	id := in
	if id == frame.NoPort {
		id = out
	}
	p := &r[id%keptParts]
	e := &p.list[p.n%keptDrops]
	p.n++
	e.tick, e.in, e.out, e.reason, e.length = now, in, out, why, uint32(length)
	e.kept = uint8(copy(e.head[:], head))
}

// last appends the kept drops, oldest first.
func (r *recent) last(to []Drop) []Drop {
	from := len(to)
	for i := range r {
		p := &r[i]
		for k := p.n - min(p.n, keptDrops); k < p.n; k++ {
			e := &p.list[k%keptDrops]
			to = append(to, Drop{e.tick, e.in, e.out, e.reason, e.length, append([]byte(nil), e.head[:e.kept]...)})
		}
	}
	slices.SortStableFunc(to[from:], func(a, b Drop) int { return cmp.Compare(a.Tick, b.Tick) })
	return to
}

// Recent returns the last drops of each worker and of the slow path, each in order. They are read between two batches.
func (d *Dataplane) Recent() (list []Drop) {
	r := new(recent) // copied whole, so that no worker waits for long
	for _, w := range d.workers {
		w.run(func() { *r = w.recent })
		list = r.last(list)
	}
	d.slow.mu.Lock()
	*r = d.slow.recent
	d.slow.mu.Unlock()
	return r.last(list)
}
