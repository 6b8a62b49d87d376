package dataplane

import "github.com/uvswitch/uvswitch/internal/frame"

// An Observer sees what one worker does with frames, while it is installed; a capture is one. Off, it costs one
// comparison per batch.
type Observer interface {
	// Came is called with a batch that has been parsed and not yet decided about, and numbers its frames (Frame.Slot),
	// so that it knows those of Failed again. again: they come from the housekeeper, and a port's have come before.
	Received(b *frame.Batch, again bool)
	// Went is called when every frame of that batch has its verdict, and those to be sent are with the Poller.
	Decided(b *frame.Batch)
	// Ended is called for each frame that the housekeeper ends.
	SlowPathDone(End)
}

// An End is a frame that the housekeeper has ended.
type End struct {
	In     frame.PortID
	Raw    []byte       // the virtio-net header and the frame; valid until the function returns
	Reason frame.Reason // why it was dropped; None: the gateway has taken it
}

// Observe has each worker, and the housekeeper as the last, show what it does to what of makes for it; of is called by that
// worker between two batches. nil ends it.
func (d *Dataplane) Observe(of func(i int) Observer) {
	set := func(i int, to *Observer) {
		if *to = nil; of != nil {
			*to = of(i)
		}
	}
	for i, w := range d.workers {
		w.run(func() { set(i, &w.observer) })
	}
	d.slow.mu.Lock()
	defer d.slow.mu.Unlock()
	set(len(d.workers), &d.slow.observer)
}

// A Drop is one that was noted in passing: the last ones are kept whether somebody observes or not.
type Drop struct {
	Tick    frame.Tick
	In, Out frame.PortID // Out: the port that did not take it, and then Head is empty
	Reason  frame.Reason
	Length  uint32 // of the frame, in bytes
	Head    []byte // its first bytes
}

const (
	keptDrops = 1024 // by each worker, and by the housekeeper
	keptBytes = 96   // of each frame
)

// recent is the last drops of one goroutine, in a circle. Superseded acknowledgements are not among them: they would
// push out all others.
type recent struct {
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
	e := &r.list[r.n%keptDrops]
	r.n++
	e.tick, e.in, e.out, e.reason, e.length = now, in, out, why, uint32(length)
	e.kept = uint8(copy(e.head[:], head))
}

// last appends what is kept, oldest first.
func (r *recent) last(to []Drop) []Drop {
	for i := r.n - min(r.n, keptDrops); i < r.n; i++ {
		e := &r.list[i%keptDrops]
		to = append(to, Drop{e.tick, e.in, e.out, e.reason, e.length, append([]byte(nil), e.head[:e.kept]...)})
	}
	return to
}

// Recent returns the last drops of each worker and of the housekeeper, each in order; they are read between two batches.
func (d *Dataplane) Recent() (list []Drop) {
	r := new(recent) // copied whole, so that no worker is held up for long
	for _, w := range d.workers {
		w.run(func() { *r = w.recent })
		list = r.last(list)
	}
	d.slow.mu.Lock()
	*r = d.slow.recent
	d.slow.mu.Unlock()
	return r.last(list)
}
