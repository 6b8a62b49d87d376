package dataplane

import (
	"cmp"
	"maps"
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
	keptDrops = 64 // of a port, by each worker, and by the slow path
	keptBytes = frame.FailureHead
	copyPorts = 64 // ports whose drops a worker copies at a time
)

// recent has the last drops of one goroutine, by port: a port that floods pushes out its own only. Superseded acknowledgements are left out: they
// would push out all others.
type recent struct {
	ports [frame.MaxPorts]*lastDrops
	rest  lastDrops // of no port, and of ports that are gone: 64 in all
}

// lastDrops is a circular buffer.
type lastDrops struct {
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

func (r *recent) addPort(id frame.PortID) { r.ports[id] = new(lastDrops) }

func (r *recent) removePort(id frame.PortID) {
	if l := r.ports[id]; l != nil {
		r.rest.merge(l)
		r.ports[id] = nil
	}
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
	l := &r.rest
	if id < frame.MaxPorts && r.ports[id] != nil {
		l = r.ports[id]
	}
	e := &l.list[l.n%keptDrops]
	l.n++
	e.tick, e.in, e.out, e.reason, e.length = now, in, out, why, uint32(length)
	e.kept = uint8(copy(e.head[:], head))
}

// merge adds the drops of o. The oldest ones of both are forgotten.
func (l *lastDrops) merge(o *lastDrops) {
	both := make([]keptDrop, 0, 2*keptDrops)
	for _, l := range []*lastDrops{l, o} {
		for e := range l.all {
			both = append(both, *e)
		}
	}
	slices.SortStableFunc(both, func(a, b keptDrop) int { return cmp.Compare(a.tick, b.tick) })
	l.n = uint64(copy(l.list[:], both[max(0, len(both)-keptDrops):]))
}

// all yields the kept drops, oldest first.
func (l *lastDrops) all(yield func(*keptDrop) bool) {
	for k := l.n - min(l.n, keptDrops); k < l.n && yield(&l.list[k%keptDrops]); k++ {
	}
}

// Recent returns the last drops of each worker and of the slow path, each in order. They are read between two batches, a few ports at a time, so
// that no worker waits for long.
func (d *Dataplane) Recent() (list []Drop) {
	d.mu.Lock() // no port comes or goes meanwhile
	defer d.mu.Unlock()
	ids := slices.Collect(maps.Keys(d.readers))
	for _, w := range d.workers {
		list = append(list, w.recent.read(ids, w.run)...)
	}
	return append(list, d.slow.recent.read(ids, func(fn func()) {
		d.slow.mu.Lock()
		defer d.slow.mu.Unlock()
		fn()
	})...)
}

// read returns the drops of these ports, of no port, and of ports that are gone, oldest first. between runs a function while nobody adds any.
func (r *recent) read(ids []frame.PortID, between func(func())) (list []Drop) {
	copies := make([]lastDrops, 0, max(1, min(len(ids), copyPorts)))
	for ids := range slices.Chunk(ids, copyPorts) {
		between(func() {
			copies = copies[:0]
			for _, id := range ids {
				if l := r.ports[id]; l != nil && l.n > 0 {
					copies = append(copies, *l)
				}
			}
		})
		list = appendDrops(list, copies)
	}
	between(func() { copies = append(copies[:0], r.rest) })
	list = appendDrops(list, copies)
	slices.SortStableFunc(list, func(a, b Drop) int { return cmp.Compare(a.Tick, b.Tick) })
	return list
}

func appendDrops(to []Drop, from []lastDrops) []Drop {
	for i := range from {
		for e := range from[i].all {
			to = append(to, Drop{e.tick, e.in, e.out, e.reason, e.length, append([]byte(nil), e.head[:e.kept]...)})
		}
	}
	return to
}
