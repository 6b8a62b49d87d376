package frame

import (
	"sync"
	"sync/atomic"
)

// A Segmenter sends frames on wires without offloads: it segments and checksums in software, and counts how often.
type Segmenter struct{ count atomic.Uint64 }

// Segmented is how many frames were segmented or summed.
func (g *Segmenter) Segmented() uint64 { return g.count.Load() }

// Send calls send with each plain frame of f. It stops at the first one that is refused, and returns why.
func (g *Segmenter) Send(f *Frame, send func([]byte) Reason) Reason {
	if f.Vnet().Flags()&VnetNeedsCsum == 0 {
		return send(f.Bytes())
	}
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	g.count.Add(1)
	why := TxRefused
	for s := NewSegments(f); s.Next(*buf); {
		if why = send(s.Bytes()); why != None {
			break
		}
	}
	return why
}

var scratch = sync.Pool{New: func() any { b := make([]byte, MaxFrame); return &b }}
