package capture

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/ring"
)

// Direction of a record, as seen by the port's station turned round: In is what the switch read from the port.
type Direction uint8

// The directions, by pcapng's numbers for a packet's flags.
const (
	In  Direction = 1
	Out Direction = 2
)

const ringBytes = 4 << 20 // per capture and worker

// A Record is one frame that was captured. Data is valid until the next call of Drain.
type Record struct {
	Time   time.Time
	Port   frame.PortID
	Dir    Direction
	Length int // of the frame; Data may be shorter
	Data   []byte
}

// Options select what is captured.
type Options struct {
	Ports []frame.PortID // none: all
	Snap  int            // bytes of each frame; 0: all
}

// A Hub puts captures into a dataplane and takes them out.
type Hub struct {
	dp       *dataplane.Dataplane
	mu       sync.Mutex
	captures []*Capture
}

// NewHub makes a hub for d.
func NewHub(d *dataplane.Dataplane) *Hub { return &Hub{dp: d} }

// A Capture collects records until Close.
type Capture struct {
	Lost atomic.Uint64 // records for which the ring had no room

	hub   *Hub
	all   bool
	ports [frame.MaxPorts]bool
	snap  int
	rings []*ring.Ring // by worker
	wake  chan struct{}
}

// Start begins a capture: every frame from here on is seen.
func (h *Hub) Start(o Options) *Capture {
	c := &Capture{hub: h, all: len(o.Ports) == 0, snap: o.Snap, wake: make(chan struct{}, 1)}
	if c.snap <= 0 {
		c.snap = frame.MaxFrame
	}
	for _, p := range o.Ports {
		c.ports[p] = true
	}
	for range h.dp.Workers() {
		c.rings = append(c.rings, ring.New(ringBytes))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.captures = append(h.captures, c)
	h.install()
	return c
}

// Close ends the capture.
func (c *Capture) Close() {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	c.hub.captures = slices.DeleteFunc(c.hub.captures, func(x *Capture) bool { return x == c })
	c.hub.install()
}

// install gives each worker a Poller that serves the present captures; its own, when there are none.
func (h *Hub) install() {
	captures := slices.Clone(h.captures)
	h.dp.SwapPollers(func(worker int, base dataplane.Poller) dataplane.Poller {
		if len(captures) == 0 {
			return base
		}
		return &poller{Poller: base, worker: worker, captures: captures}
	})
}

// Wait is readable when there may be records.
func (c *Capture) Wait() <-chan struct{} { return c.wake }

// Drain calls yield with the records that are there, oldest first, until yield returns false.
func (c *Capture) Drain(yield func(Record) bool) {
	for {
		var oldest *ring.Ring
		var rec []byte
		for _, r := range c.rings {
			if b := r.Peek(); b != nil && (rec == nil || stamp(b) < stamp(rec)) {
				oldest, rec = r, b
			}
		}
		if rec == nil {
			return
		}
		more := yield(decode(rec))
		oldest.Release()
		if !more {
			return
		}
	}
}

// poller copies on the way in and out.
type poller struct {
	dataplane.Poller
	worker   int
	captures []*Capture
}

// Poll is dataplane.Poller's.
func (p *poller) Poll(b *frame.Batch) error {
	for _, c := range p.captures {
		c.notify()
	}
	err := p.Poller.Poll(b)
	now := time.Now().UnixNano()
	for i := range b.Frames[:b.N] {
		p.copy(&b.Frames[i], b.Frames[i].In, In, now)
	}
	return err
}

// Send is dataplane.Poller's.
func (p *poller) Send(id frame.PortID, f *frame.Frame) {
	p.copy(f, id, Out, time.Now().UnixNano())
	p.Poller.Send(id, f)
}

// A record: time (8) | length (4) | port (2) | direction (1) | unused (1) | bytes.
const recordLen = 16

func (p *poller) copy(f *frame.Frame, port frame.PortID, dir Direction, now int64) {
	for _, c := range p.captures {
		if !c.all && (int(port) >= len(c.ports) || !c.ports[port]) {
			continue
		}
		whole := f.WireLen()
		n := min(whole, c.snap)
		rec := c.rings[p.worker].Reserve(recordLen + n)
		if rec == nil {
			c.Lost.Add(1)
			continue
		}
		e := binary.NativeEndian
		e.PutUint64(rec, uint64(now))
		e.PutUint32(rec[8:], uint32(whole))
		e.PutUint16(rec[12:], uint16(port))
		rec[14] = uint8(dir)
		f.CopyTo(rec[recordLen : recordLen+n])
		c.rings[p.worker].Commit()
	}
}

// notify wakes the reader; it is called once per batch.
func (c *Capture) notify() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func stamp(rec []byte) uint64 { return binary.NativeEndian.Uint64(rec) }

func decode(rec []byte) Record {
	e := binary.NativeEndian
	return Record{
		Time: time.Unix(0, int64(stamp(rec))), Length: int(e.Uint32(rec[8:])), Port: frame.PortID(e.Uint16(rec[12:])),
		Dir: Direction(rec[14]), Data: rec[recordLen:],
	}
}
