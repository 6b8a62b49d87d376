package tap

import "github.com/uvswitch/uvswitch/internal/frame"

const (
	quota   = 32 // frames that one port may bring per Poll, so that a loud port starves nobody
	arenaSz = frame.BatchBytes + frame.VnetLen + frame.MaxFrame + 64
)

// readers are the ports that a backend reads by Conn.Read, and the line of those believed to have something. Frames
// are read back to back into one arena, so that small ones stay in cache; they are the arena's until the next read.
type readers struct {
	conns [frame.MaxPorts]frame.Conn // nil: not read here
	ready [frame.MaxPorts]bool       // stands in line
	line  []frame.PortID
	arena []byte
	gone  []frame.PortID // found dead since the last clear
}

func newReaders() readers {
	return readers{line: make([]frame.PortID, 0, frame.MaxPorts), gone: make([]frame.PortID, 0, frame.MaxPorts)}
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
	r.ready[id] = false
	for i, q := range r.line {
		if q == id {
			r.line = append(r.line[:i], r.line[i+1:]...)
			return
		}
	}
}

// wakeUp puts a port in line.
//
//uvswitch:hot
func (r *readers) wakeUp(id frame.PortID) {
	if r.conns[id] != nil && !r.ready[id] {
		r.ready[id] = true
		r.line = append(r.line, id)
	}
}

// read goes once over the line and reads from each port up to its quota, until the batch holds most frames. A port
// that has more goes to the end of the line; one that has none leaves it.
//
//uvswitch:hot
func (r *readers) read(b *frame.Batch, most int) {
	used := 0
	for range len(r.line) {
		if b.N >= most || used > frame.BatchBytes {
			return
		}
		id := r.line[0]
		copy(r.line, r.line[1:])
		r.line = r.line[:len(r.line)-1]
		r.ready[id] = false
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
