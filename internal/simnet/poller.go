package simnet

import (
	"bytes"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/sockets"
)

// Poller is the in-memory I/O backend: frames put into it are read in order, frames sent are kept.
type Poller struct {
	in     []queued
	Out    []Sent
	Refuse map[frame.PortID]frame.Reason // ports that take nothing, and why
	loop   *loopPoller                   // does everything instead, in a test of allocations
	ports  map[frame.PortID]bool
	paused map[frame.PortID]bool
	failed []frame.TxFailure
	last   int // frames in the last batch

	panicAt int   // Send panics at this frame from now on; 0: never
	cpu     int64 // ns

	Conn     *sockets.Engine // nil, or what frames of ConnPort are written to and read from
	ConnPort frame.PortID
	room     []byte

	FrameCost int64 // CPU time of a frame, in ns
	Waited    int64 // for a CPU, in ns
	Hurries   bool
}

type queued struct {
	port frame.PortID
	raw  []byte
}

// Sent is one frame that a port was given, a copy.
type Sent struct {
	Port frame.PortID
	Raw  []byte
}

// NewPoller makes an empty one.
func NewPoller() *Poller {
	return &Poller{ports: map[frame.PortID]bool{}, paused: map[frame.PortID]bool{}, Refuse: map[frame.PortID]frame.Reason{}}
}

// Put lets raw, virtio-net header first, come in by port.
func (p *Poller) Put(port frame.PortID, raw []byte) { p.in = append(p.in, queued{port, raw}) }

// Pending tells whether there is something to read or to report. What waits for a paused port does not count.
func (p *Poller) Pending() bool {
	return len(p.failed) > 0 || slices.ContainsFunc(p.in, func(q queued) bool { return !p.paused[q.port] })
}

// Add implements dataplane.Poller.
func (p *Poller) Add(id frame.PortID, _ frame.Conn, _ frame.Reading) error {
	p.ports[id] = true
	return nil
}

// Remove implements dataplane.Poller.
func (p *Poller) Remove(id frame.PortID) {
	delete(p.ports, id)
	delete(p.paused, id)
}

// Pause implements dataplane.Poller: frames of the port wait.
func (p *Poller) Pause(id frame.PortID) { p.paused[id] = true }

// Resume implements dataplane.Poller.
func (p *Poller) Resume(id frame.PortID) { delete(p.paused, id) }

// Yield implements dataplane.Poller: the test puts the port's frames into another Poller from then on.
func (p *Poller) Yield(id frame.PortID) bool {
	delete(p.paused, id)
	return !slices.ContainsFunc(p.in, func(q queued) bool { return q.port == id })
}

// Take implements dataplane.Poller.
func (p *Poller) Take(frame.PortID, frame.Reading) error { return nil }

// CPUTime implements dataplane.Poller: each frame has taken FrameCost. Time itself does not move on.
func (p *Poller) CPUTime() int64 { return p.cpu }

// Counts implements dataplane.Poller.
func (p *Poller) Counts() (c frame.IOCounts) { return c }

// CPUWait implements dataplane.Poller.
func (p *Poller) CPUWait() int64 { return p.Waited }

// Hurry implements dataplane.Poller.
func (p *Poller) Hurry(on bool) { p.Hurries = on }

// Poll is dataplane.Poller's; it never waits.
func (p *Poller) Poll(b *frame.Batch) error {
	if p.loop != nil {
		return p.loop.Poll(b)
	}
	if p.Conn != nil {
		for _, t := range p.Conn.Failures(nil) {
			t.Port = p.ConnPort
			p.failed = append(p.failed, t)
		}
	}
	b.Failed, p.failed = p.failed, nil
	p.cpu += int64(p.last) * p.FrameCost
	b.N = 0
	rest := p.in[:0]
	for _, q := range p.in {
		if b.N == frame.BatchSize || p.paused[q.port] {
			rest = append(rest, q)
			continue
		}
		b.Frames[b.N].Reset(bytes.Clone(q.raw), q.port)
		b.N++
	}
	for p.Conn != nil && b.N < frame.BatchSize {
		if p.room == nil {
			p.room = make([]byte, frame.VnetLen+frame.MaxFrame)
		}
		size, err := p.Conn.Read(p.room)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		b.Frames[b.N].Reset(bytes.Clone(p.room[:size]), p.ConnPort)
		b.N++
	}
	p.in, p.last = rest, b.N
	return nil
}

// Send implements dataplane.Poller.
func (p *Poller) Send(id frame.PortID, f *frame.Frame) {
	if p.loop != nil {
		p.loop.sent++
		return
	}
	if p.panicAt > 0 {
		if p.panicAt--; p.panicAt == 0 {
			panic("a fault of the backend")
		}
	}
	why := p.Refuse[id]
	if !p.ports[id] {
		why = frame.PortGone
	}
	if why != frame.None {
		p.failed = append(p.failed, frame.Refused(id, why, f))
		return
	}
	if p.Conn != nil && id == p.ConnPort {
		if why := p.Conn.Write(f); why != frame.None {
			p.failed = append(p.failed, frame.Refused(id, why, f))
		}
		return
	}
	raw := append(bytes.Clone(f.Vnet()), make([]byte, f.WireLen())...)
	f.CopyTo(raw[frame.VnetLen:])
	p.Out = append(p.Out, Sent{id, raw})
}

// loopPoller reads the same frame again and again and counts what is sent.
type loopPoller struct {
	raw, buf []byte
	port     frame.PortID
	sent     int
}

func (l *loopPoller) Poll(b *frame.Batch) error {
	copy(l.buf, l.raw)
	b.Frames[0].Reset(l.buf, l.port)
	b.N = 1
	return nil
}

// Wake implements dataplane.Poller.
func (p *Poller) Wake() {}

// Close implements dataplane.Poller.
func (p *Poller) Close() error { return nil }

// conn is the wire of a port in memory: the Poller reads and writes for it.
type conn struct{}

func (conn) FD() int                         { return -1 }
func (conn) Vnet() bool                      { return true }
func (conn) GSOMaxSize(uint8) int            { return 65535 }
func (conn) Read([]byte) (int, error)        { return 0, nil }
func (conn) Write(*frame.Frame) frame.Reason { return frame.PortGone }
func (conn) Close() error                    { return nil }
