package tap

import "github.com/uvswitch/uvswitch/internal/frame"

const (
	quota   = 32 // frames that one port may bring per Poll, so that a loud port starves nobody
	arenaSz = frame.BatchBytes + frame.VnetLen + frame.MaxFrame + 64
)

// readers are the ports that a backend reads by Conn.Read, and the line of those believed to have something. Frames
// are read back to back into one arena, so that small ones stay in cache; they are the arena's until the next read.
type readers struct {
	conns  [frame.MaxPorts]frame.Conn // nil: not read here
	queued [frame.MaxPorts]bool       // stands in line
	ready  []frame.PortID
	arena  []byte
	gone   []frame.PortID // found dead since the last clear
}

func newReaders() readers {
	return readers{ready: make([]frame.PortID, 0, frame.MaxPorts), gone: make([]frame.PortID, 0, frame.MaxPorts)}
}

// add begins to read a port: what came before raises no event, so it is believed ready.
func (r *readers) add(id frame.PortID, c frame.Conn) {
	if r.arena == nil {
		r.arena = make([]byte, arenaSz)
	}
	r.conns[id] = c
	r.wakeUp(id)
}

func (r *readers) remove(id frame.PortID) {
	r.conns[id] = nil
	r.queued[id] = false
	for i, q := range r.ready {
		if q == id {
			r.ready = append(r.ready[:i], r.ready[i+1:]...)
			return
		}
	}
}

// wakeUp puts a port in line.
//
//uvswitch:hot
func (r *readers) wakeUp(id frame.PortID) {
	if r.conns[id] != nil && !r.queued[id] {
		r.queued[id] = true
		r.ready = append(r.ready, id)
	}
}

// read goes once over the line and reads from each port up to its quota, until the batch holds most frames. A port
// that has more goes to the end of the line; one that has none leaves it.
//
//uvswitch:hot
func (r *readers) read(b *frame.Batch, most int) {
	used := 0
	for range len(r.ready) {
		if b.N >= most || used > frame.BatchBytes {
			return
		}
		id := r.ready[0]
		copy(r.ready, r.ready[1:])
		r.ready = r.ready[:len(r.ready)-1]
		r.queued[id] = false
		c := r.conns[id]
		more := true
		for n := 0; more && n < quota && b.N < most && used <= frame.BatchBytes; n++ {
			size, err := c.Read(r.arena[used:])
			if err != nil {
				r.conns[id] = nil
				r.gone = append(r.gone, id)
			}
			if more = size > 0; more {
				b.Frames[b.N].Reset(r.arena[used:used+size:used+size], id)
				b.N++
				used += (size + 63) &^ 63
			}
		}
		if more {
			r.wakeUp(id)
		}
	}
}
