package tap

import (
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

const (
	quota   = 32 // frames read from one port per turn at most, so that a busy port starves no other; fewer if many ports wait
	least   = 4  // frames of a turn, at least
	arenaSz = frame.BatchBytes + frame.VnetLen + frame.MaxFrame + 64 + answerRoom

	smallFrame = 400 // bytes: a question may be so long
	answerRoom = 192 // bytes behind a small frame, for its answer
)

// readers holds the ports that a backend reads with Conn.Read, and a queue of the ports that may have frames to read.
// Frames are read back to back into one arena, so that small frames stay in the cache; they are valid until the next read.
type readers struct {
	conns  [frame.MaxPorts]frame.Conn // nil: not read with Conn.Read
	queued [frame.MaxPorts]bool       // the port is in ready
	paused [frame.MaxPorts]bool       // the port must not be in ready; an io_uring must not read it either
	uplink [frame.MaxPorts]bool       // the port has half of a batch
	ready  []frame.PortID
	arena  []byte
	gone   []frame.PortID // dead ports, to be reported in Batch.Gone

	bulkOf frame.PortID // the port whose second queue is read as frame.Bulk

	answering frame.PortID   // the port of answerer; NoPort as a rule
	answerer  frame.Answerer // its Write may leave frames to read
}

// bulkQueue returns the second queue of the uplink's TAP; nil for a TAP that has none, and for every other port.
func bulkQueue(c frame.Conn, read frame.Reading) *Device {
	if d, ok := c.(*Device); ok && read == frame.ReadUplink {
		return d.bulk
	}
	return nil
}

func newReaders() readers {
	return readers{ready: make([]frame.PortID, 0, frame.MaxPorts), gone: make([]frame.PortID, 0, frame.MaxPorts)}
}

// add starts to read a port. Frames that arrived earlier raise no event, so the port is queued at once.
func (r *readers) add(id frame.PortID, c frame.Conn, read frame.Reading) {
	if r.arena == nil {
		r.arena = make([]byte, arenaSz)
	}
	r.conns[id], r.uplink[id] = c, read == frame.ReadUplink
	if a, ok := c.(frame.Answerer); ok {
		r.answering, r.answerer = id, a
	}
	r.wakeUp(id)
}

func (r *readers) remove(id frame.PortID) {
	if id == r.answering {
		r.answering, r.answerer = frame.NoPort, nil
	}
	r.conns[id] = nil
	r.paused[id] = false
	r.dequeue(id)
}

func (r *readers) dequeue(id frame.PortID) {
	r.queued[id] = false
	r.ready = slices.DeleteFunc(r.ready, func(q frame.PortID) bool { return q == id })
}

// Pause implements dataplane.Poller.
func (r *readers) Pause(id frame.PortID) {
	r.paused[id] = true
	r.dequeue(id)
}

// Resume implements dataplane.Poller. Events while the port was paused are lost, so it is queued at once.
func (r *readers) Resume(id frame.PortID) {
	r.paused[id] = false
	r.wakeUp(id)
}

// wakeUp queues a port to be read, unless it is queued already or paused.
//
//uvswitch:hot
func (r *readers) wakeUp(id frame.PortID) {
	if r.conns[id] != nil && !r.queued[id] && !r.paused[id] {
		r.queued[id] = true
		at := len(r.ready)
		switch {
		case id == frame.Bulk && at > 0 && r.ready[0] == r.bulkOf: // behind the first queue
			at = 1
		case r.uplink[id]: // first of all
			at = 0
		}
		r.ready = slices.Insert(r.ready, at, id)
	}
}

// wakeAnswering queues the port that has frames after the last batch's writes.
//
//uvswitch:hot
func (r *readers) wakeAnswering() {
	if r.answerer != nil && r.answerer.HasFrames() {
		r.wakeUp(r.answering)
	}
}

// late appends the frames of which the answering port has found out by now that they cannot be delivered.
//
//uvswitch:hot
func (r *readers) late(failed []frame.TxFailure) []frame.TxFailure {
	if r.answerer == nil {
		return failed
	}
	n := len(failed)
	failed = r.answerer.Failures(failed)
	for i := range failed[n:] {
		failed[n+i].Port = r.answering
	}
	return failed
}

// read goes through the ready queue once and reads up to quota frames from each port, or a few while CPU time is scarce (frame.Batch). The uplink is
// the first. Its queues get half of the batch together, and the second one a quarter of that at least. read
// stops when the batch holds most frames or the arena is full. A port that may have more frames goes to the end of the queue; any other port
// leaves it.
//
//uvswitch:hot
func (r *readers) read(b *frame.Batch, most int) {
	used, turn := 0, min(quota, max(least, most/max(1, len(r.ready))))
	if b.Scarce {
		turn = least
	}
	var again [2]frame.PortID // queues of the uplink that may have more
	uplinks, half := 0, most/2
	for range len(r.ready) {
		if b.N >= most || used > frame.BatchBytes {
			break
		}
		id := r.ready[0]
		r.dequeueFirst()
		c, more, left, room, in := r.conns[id], true, turn, frame.BatchBytes, id
		if id == frame.Bulk {
			in = r.bulkOf
		}
		if r.uplink[id] {
			left, room = half, frame.BatchBytes/2
			if id != frame.Bulk && r.queued[frame.Bulk] {
				left, room = left-left/4, room-room/4
			}
		}
		before := b.N
		for ; more && left > 0 && b.N < most && used <= room; left-- {
			size, err := c.Read(r.arena[used:])
			if err != nil {
				r.conns[id] = nil
				r.gone = append(r.gone, in)
			}
			if more = size > 0; more {
				end := used + (size+63)&^63
				if size < smallFrame {
					end += answerRoom
				}
				b.Frames[b.N].Reset(r.arena[used:used+size:end], in)
				if id == frame.Bulk {
					b.Bulk |= 1 << b.N
				}
				b.N++
				used = end
			}
		}
		switch {
		case r.uplink[id]:
			if half -= b.N - before; more {
				again[uplinks] = id
				uplinks++
			}
		case more:
			r.wakeUp(id)
		}
	}
	for _, id := range again[:uplinks] {
		r.wakeUp(id)
	}
}

//uvswitch:hot
func (r *readers) dequeueFirst() {
	r.queued[r.ready[0]] = false
	r.ready = r.ready[:copy(r.ready, r.ready[1:])]
}
