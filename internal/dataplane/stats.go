package dataplane

import (
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// portCounters are one worker's counts for one port. A drop is counted at the port that the frame came from. If the port that it was
// sent to refused it, the drop is counted at that port.
type portCounters struct {
	rxPackets, rxBytes, txPackets, txBytes, pauses atomic.Uint64
	rxDrops, txDrops                               [frame.NumReasons]atomic.Uint64
	device                                         frame.Offerer // nil: the port's device does not count
}

// counters are written by one goroutine, a worker or the slow path, and read by all.
type counters struct {
	received, originated, replicated, transmitted, consumed atomic.Uint64
	drops                                                   [frame.NumReasons]atomic.Uint64
	ports                                                   [frame.MaxPorts]atomic.Pointer[portCounters]
}

// port returns the counters of p; the gateway's stand at NoPort. nil for a port that is gone.
//
//uvswitch:hot
func (c *counters) port(p frame.PortID) *portCounters {
	if p == frame.Gateway {
		p = frame.NoPort
	}
	if int(p) >= len(c.ports) {
		return nil
	}
	return c.ports[p].Load()
}

// dropped counts a drop: at the egress port out when the frame was dropped there, else at the ingress port.
//
//uvswitch:hot
func (c *counters) dropped(in, out frame.PortID, why frame.Reason) {
	c.drops[why].Add(1)
	if out != frame.NoPort {
		if p := c.port(out); p != nil {
			p.txDrops[why].Add(1)
		}
	} else if p := c.port(in); p != nil {
		p.rxDrops[why].Add(1)
	}
}

// failed turns transmissions that the port refused into drops.
//
//uvswitch:hot
func (c *counters) failed(t *frame.TxFailure) {
	n := uint64(t.Frames)
	c.transmitted.Add(-n)
	c.drops[t.Reason].Add(n)
	if p := c.port(t.Port); p != nil {
		p.txPackets.Add(-n)
		p.txBytes.Add(-uint64(t.Bytes))
		p.txDrops[t.Reason].Add(n)
	}
}

// tally collects the counts of one batch by port, so that each port costs one atomic add.
type tally struct {
	ports    [frame.MaxPorts]portTally
	touched  [frame.MaxPorts]frame.PortID
	n        int
	rx, tx   uint64
	extra    uint64 // replicated
	refusals uint64 // of all ports
	senders  uint64 // ports that have sent
}

type portTally struct {
	rxPackets, rxBytes, txPackets, txBytes, segments uint64
	refused, refusals                                uint64 // frames; and weighted: see worker.refused
}

//uvswitch:hot
func (t *tally) port(p frame.PortID) *portTally {
	c := &t.ports[p]
	if *c == (portTally{}) {
		t.touched[t.n] = p
		t.n++
	}
	return c
}

//uvswitch:hot
func (t *tally) received(f *frame.Frame) {
	c, bytes := t.port(f.In), f.Len()
	if c.rxPackets == 0 {
		t.senders++
	}
	c.rxPackets++
	c.rxBytes += uint64(bytes)
	if bytes > frame.MaxFrame/64 {
		c.segments += uint64(f.SegmentCount())
	}
	t.rx++
}

//uvswitch:hot
func (t *tally) sent(p frame.PortID, bytes int) {
	c := t.port(p)
	c.txPackets++
	c.txBytes += uint64(bytes)
	t.tx++
}

// flush adds the tally to the counters and empties it.
//
//uvswitch:hot
func (t *tally) flush(c *counters) {
	for _, id := range t.touched[:t.n] {
		d := &t.ports[id]
		if p := c.port(id); p != nil {
			if d.rxPackets != 0 {
				p.rxPackets.Add(d.rxPackets)
				p.rxBytes.Add(d.rxBytes)
			}
			if d.txPackets != 0 {
				p.txPackets.Add(d.txPackets)
				p.txBytes.Add(d.txBytes)
			}
		}
		*d = portTally{}
	}
	t.n = 0
	if t.rx != 0 {
		c.received.Add(t.rx)
	}
	if t.tx != 0 {
		c.transmitted.Add(t.tx)
	}
	if t.extra != 0 {
		c.replicated.Add(t.extra)
	}
	t.rx, t.tx, t.extra, t.refusals, t.senders = 0, 0, 0, 0, 0
}

// PortStats are a port's counts since it was added. Drops are named by reason.
type PortStats struct {
	RxPackets uint64
	RxBytes   uint64
	RxDropped uint64
	TxPackets uint64
	TxBytes   uint64
	TxDropped uint64
	Pauses    uint64 // see turns.go
	Unread    uint64 // frames that wait in the port's device, or that the device has dropped; 0 if it does not count
	Drops     map[string]uint64
}

// Conservation is the account of every frame: while none is in transit, Received + Originated + Replicated = Transmitted +
// Dropped + Consumed + Waiting.
type Conservation struct {
	Received    uint64 // read from ports
	Originated  uint64 // made by the gateway
	Replicated  uint64 // further copies of flooded frames
	Transmitted uint64 // taken by ports
	Dropped     uint64 // for a reason
	Consumed    uint64 // for the gateway itself
	Waiting     uint64 // in a queue: for a neighbor's MAC, for their first fragment, for the rate of a port
	Balanced    bool
}

// IO returns what each worker's I/O has done. It waits for the end of the workers' batches.
func (d *Dataplane) IO() (all []frame.IOCounts) {
	for _, w := range d.workers {
		w.run(func() { all = append(all, w.poller.Counts()) })
	}
	return all
}

// all lists every set of counters.
func (d *Dataplane) all() []*counters {
	list := []*counters{&d.slow.counters}
	for _, w := range d.workers {
		list = append(list, &w.counters)
	}
	return list
}

// Conservation reads the account. While frames are on their way it may be out by those.
func (d *Dataplane) Conservation() (c Conservation) {
	for _, s := range d.all() {
		c.Received += s.received.Load()
		c.Originated += s.originated.Load()
		c.Replicated += s.replicated.Load()
		c.Transmitted += s.transmitted.Load()
		c.Consumed += s.consumed.Load()
		for i := range s.drops {
			c.Dropped += s.drops[i].Load()
		}
	}
	waiting := d.Router.Queued() + int64(d.slow.parked.n.Load())
	for _, w := range d.workers {
		waiting += w.shaper.frames.Load()
	}
	c.Waiting = uint64(max(0, waiting))
	c.Balanced = c.Received+c.Originated+c.Replicated == c.Transmitted+c.Dropped+c.Consumed+c.Waiting
	return c
}

// Drops counts drops by reason; reasons that did not occur are left out.
func (d *Dataplane) Drops() map[string]uint64 {
	out := map[string]uint64{}
	for _, s := range d.all() {
		addDrops(out, &s.drops)
	}
	return out
}

func addDrops(out map[string]uint64, drops *[frame.NumReasons]atomic.Uint64) (n uint64) {
	for i := range drops {
		if v := drops[i].Load(); v != 0 {
			out[frame.Reason(i).String()] += v
			n += v
		}
	}
	return n
}

// PortStats reads one port's counts; the gateway's for frame.Gateway.
func (d *Dataplane) PortStats(id frame.PortID) PortStats {
	s := PortStats{Drops: map[string]uint64{}}
	for _, c := range d.all() {
		p := c.port(id)
		if p == nil {
			continue
		}
		s.RxPackets += p.rxPackets.Load()
		s.RxBytes += p.rxBytes.Load()
		s.TxPackets += p.txPackets.Load()
		s.TxBytes += p.txBytes.Load()
		s.Pauses += p.pauses.Load()
		s.RxDropped += addDrops(s.Drops, &p.rxDrops)
		s.TxDropped += addDrops(s.Drops, &p.txDrops)
	}
	if device := d.offererOf(id); device != nil {
		offered, _ := device.Offered()
		s.Unread = offered - min(s.RxPackets, offered)
	}
	return s
}

// offererOf returns the device of a port; nil if it does not count what it is offered.
//
//uvswitch:hot
func (d *Dataplane) offererOf(id frame.PortID) frame.Offerer {
	if p := d.slow.port(id); p != nil {
		return p.device
	}
	return nil
}

// readFrom is what all workers have read from a port.
func (d *Dataplane) readFrom(id frame.PortID) (frames, bytes uint64) {
	for _, w := range d.workers {
		if p := w.port(id); p != nil {
			frames, bytes = frames+p.rxPackets.Load(), bytes+p.rxBytes.Load()
		}
	}
	return frames, bytes
}
