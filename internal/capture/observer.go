package capture

import (
	"slices"
	"time"

	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/filter"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// An observer serves all captures for one worker, or for the slow path. It keeps a copy of a received frame until the
// frame's verdict is known, and a copy of a sent frame until it is known whether the port took the frame.
type observer struct {
	dp       *dataplane.Dataplane
	worker   int
	captures [maxCaptures]*Capture
	room     filter.Packet
	packets  uint64 // packets numbered so far
	came     [frame.BatchSize]kept
	bytes    []byte // data of the frames in came
	sent     [2 * frame.BatchSize]kept
	sentOf   []byte // data of the frames in sent
	flood    [frame.MaxPorts]frame.PortID
	wrote    uint64 // bit set of captures that got a record since they were last notified
	budget   budget
	open     uint64                 // bit set of captures that may have records of this batch
	late     bool                   // the budget was spent when the batch came
	told     [maxCaptures]time.Time // when a late record was written
}

// Captures get a quarter of the time of their worker, and of the slow path, or more for a short time. Once they have had it, they copy no frames: their
// records are lost, and counted. Each capture still gets one record a second, with the number of those lost.
const (
	quarter  = 4
	mostTime = 250 * time.Millisecond // that captures may take at once
	lateTime = time.Second
)

// budget is the time that captures may still take.
type budget struct {
	left time.Duration
	at   time.Time
}

// isSpent adds what has become free until now, and reports whether nothing is left.
func (b *budget) isSpent(now time.Time) bool {
	b.left, b.at = min(mostTime, b.left+min(quarter*mostTime, now.Sub(b.at))/quarter), now
	return b.left <= 0
}

// spend takes the time since began.
func (b *budget) spend(began time.Time) { b.left -= time.Since(began) }

// begin begins a batch: it sets which captures may have records of it.
func (o *observer) begin(now time.Time) {
	o.open = ^uint64(0)
	if o.late = o.budget.isSpent(now); !o.late {
		return
	}
	for j := range o.told {
		if now.Sub(o.told[j]) < lateTime {
			o.open &^= 1 << j
		}
	}
}

// kept is a copy of a frame. wanted has a bit for each capture whose filter selects the frame.
type kept struct {
	wanted uint64
	packet uint64
	in     frame.PortID
	at, n  int // position and length of the copy in observer.bytes or sentOf
	length int
	before frame.Endpoints
	vnet   [frame.VnetLen]byte
	flow   uint32 // sent frames only, as is after, the tuple after translation
	after  frame.Endpoints
}

// serve makes o serve these captures. Frames that were kept for an earlier capture in the same slot are not for the new one.
func (o *observer) serve(captures [maxCaptures]*Capture) {
	var same uint64
	for j := range captures {
		if captures[j] == o.captures[j] {
			same |= 1 << j
		}
	}
	for i := range o.sent {
		o.sent[i].wanted &= same
	}
	o.captures = captures
}

// Received implements dataplane.Observer.
func (o *observer) Received(b *frame.Batch, again bool) {
	now := time.Now()
	defer o.budget.spend(now)
	if !again {
		o.begin(now)
		for i := range b.Failed {
			o.failed(&b.Failed[i], now)
		}
		clear(o.sent[:])
		o.sentOf = o.sentOf[:0]
	}
	o.bytes = o.bytes[:0]
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		f.Slot = uint8(i)
		if again {
			f.Slot += frame.BatchSize
		}
		k := &o.came[i]
		*k = kept{in: f.In, packet: uint64(o.worker+1)<<56 | o.packets, length: f.Len()}
		o.packets++
		longest := 0
		for j, c := range o.captures {
			if c != nil && (c.options.Ends || !again && c.options.Dir != Out && c.wants(f.In)) && c.options.Filter.Match(&o.room, f.Bytes()) {
				if k.wanted |= 1 << j; o.open&(1<<j) != 0 {
					longest = max(longest, c.options.Snap)
				}
			}
		}
		k.before = EndpointsOf(f)
		copy(k.vnet[:], f.Vnet())
		k.at = len(o.bytes)
		o.bytes = append(o.bytes, f.Bytes()[:min(f.Len(), longest)]...)
		k.n = len(o.bytes) - k.at
	}
}

// Decided implements dataplane.Observer.
func (o *observer) Decided(b *frame.Batch) {
	now := time.Now()
	defer o.budget.spend(now)
	for i := range b.Frames[:b.N] {
		f, k := &b.Frames[i], &o.came[i]
		r := Record{
			Time: now, In: f.In, Out: f.Out, Copies: 1, Verdict: f.Verdict, Reason: f.Reason, Packet: k.packet, Before: k.before, Vnet: k.vnet[:],
			Length: k.length, Frames: 1,
		}
		if f.NAT == frame.NATEstablished || f.NAT == frame.NATRelated || f.NAT == frame.NATDone {
			r.Flow = f.Flow
		}
		r.After = EndpointsOf(f)
		if r.Translated() { // perhaps by a flow that this frame created
			r.Flow = f.Flow
		}
		to := o.receivers(f)
		if r.Copies = len(to); r.Copies != 1 {
			r.Out = frame.NoPort
		}
		o.arrived(&r, k, to)
		o.departed(&r, f, k, to)
	}
	o.wake()
}

// receivers returns the ports to which a frame is sent, or would be sent if it did not exceed the port's rate.
func (o *observer) receivers(f *frame.Frame) []frame.PortID {
	switch f.Verdict {
	case frame.Drop:
		if f.Reason != frame.TxRateExceeded {
			return nil
		}
		fallthrough
	case frame.ToPort, frame.Coalesced:
		o.flood[0] = f.Out
		return o.flood[:1]
	case frame.Flood:
		return o.flood[:o.dp.Switch.FloodSet(f, o.flood[:])]
	}
	return nil
}

// arrived writes the Arrival record of a frame or, for captures with Ends, its End record.
func (o *observer) arrived(r *Record, k *kept, to []frame.PortID) {
	data := o.bytes[k.at : k.at+k.n]
	for j, c := range o.captures {
		if c == nil || k.wanted&(1<<j) == 0 {
			continue
		}
		r.Port = r.In
		if c.options.Ends {
			ended := r.Verdict != frame.Punt && r.Verdict != frame.Queued && (r.Verdict == frame.Drop || !c.options.Drops)
			if r.Kind = End; ended && (c.wants(r.In) || c.wantsAny(to)) {
				o.write(j, r, data)
			}
			continue
		}
		r.Kind = Arrival
		o.write(j, r, data)
	}
}

// departed writes a Departure record for each port that gets the frame. A frame that was coalesced with an earlier one is
// part of the earlier frame's record.
func (o *observer) departed(r *Record, f *frame.Frame, k *kept, to []frame.PortID) {
	if len(to) == 0 || f.Verdict == frame.Coalesced || f.Verdict == frame.Drop {
		return
	}
	r.Kind, r.Length, r.Vnet = Departure, f.WireLen(), f.Vnet()
	for g := f.Next(); g != nil; g = g.Next() {
		r.Frames++
	}
	ends, snap := false, 0
	for j, c := range o.captures {
		if c == nil {
			continue
		}
		if c.options.Ends && k.wanted&o.open&(1<<j) != 0 {
			ends, snap = true, max(snap, c.options.Snap)
		}
		if c.options.Ends || c.options.Dir == In {
			continue
		}
		for _, p := range to {
			if !c.wants(p) || !c.options.Filter.Match(&o.room, f.Bytes()) {
				continue
			}
			r.Port, r.Out = p, p
			if b := o.reserve(j, r, min(r.Length, c.options.Snap)); b != nil {
				f.CopyTo(b)
				c.rings[o.worker].Commit()
			}
		}
	}
	if ends { // keep a copy: a port may still refuse the frame
		s := &o.sent[f.Slot]
		*s = kept{wanted: k.wanted, packet: r.Packet, in: r.In, at: len(o.sentOf), length: r.Length, before: r.Before, flow: r.Flow, after: r.After}
		copy(s.vnet[:], r.Vnet)
		keep := min(r.Length, snap)
		o.sentOf = slices.Grow(o.sentOf, keep)[:s.at+keep]
		s.n = f.CopyTo(o.sentOf[s.at:])
	}
}

// failed writes the End record of a frame that a port did not take.
func (o *observer) failed(t *frame.TxFailure, now time.Time) {
	if t.Slot == frame.NoSlot {
		o.failedLate(t, now)
		return
	}
	s := &o.sent[t.Slot]
	r := Record{
		Time: now, Kind: End, In: s.in, Out: t.Port, Port: t.Port, Copies: 1, Verdict: frame.Drop, Reason: t.Reason, Flow: s.flow, Packet: s.packet,
		Before: s.before, After: s.after, Frames: int(t.Frames), Length: s.length, Vnet: s.vnet[:],
	}
	for j, c := range o.captures {
		if c != nil && c.options.Ends && s.wanted&(1<<j) != 0 && (c.wants(s.in) || c.wants(t.Port)) {
			o.write(j, &r, o.sentOf[s.at:s.at+min(s.n, c.options.Snap)])
		}
	}
}

// failedLate writes the End record of a frame of an earlier batch, of which at most the beginning is known.
func (o *observer) failedLate(t *frame.TxFailure, now time.Time) {
	if len(t.Head()) == 0 {
		return
	}
	f := frame.Partial(t.In, nil, t.Head(), int(t.Bytes))
	r := Record{
		Time: now, Kind: End, In: t.In, Out: t.Port, Port: t.Port, Copies: 1, Verdict: frame.Drop, Reason: t.Reason, Packet: uint64(o.worker+1)<<56 | o.packets,
		Frames: int(t.Frames), Length: int(t.Bytes), Vnet: make([]byte, frame.VnetLen), Before: EndpointsOf(&f),
	}
	o.packets++
	r.After = r.Before
	for j, c := range o.captures {
		if c != nil && c.options.Ends && (c.wants(t.In) || c.wants(t.Port)) && c.options.Filter.Match(&o.room, t.Head()) {
			o.write(j, &r, t.Head())
		}
	}
}

// SlowPathDone implements dataplane.Observer.
func (o *observer) SlowPathDone(e dataplane.End) {
	now := time.Now()
	o.begin(now)
	defer o.budget.spend(now)
	var f frame.Frame
	f.Reset(e.Raw, e.In)
	frame.Parse(&f)
	r := Record{
		Time: now, Kind: End, In: e.In, Port: e.In, Verdict: frame.Drop, Reason: e.Reason, Packet: uint64(o.worker+1)<<56 | o.packets, Frames: 1,
		Length: f.Len(), Vnet: f.Vnet(),
	}
	o.packets++
	if e.Reason == frame.None {
		r.Verdict = frame.Punt
	}
	r.Before = EndpointsOf(&f)
	r.After = r.Before
	for j, c := range o.captures {
		if c != nil && c.options.Ends && (r.Verdict == frame.Drop || !c.options.Drops) && c.wants(e.In) && c.options.Filter.Match(&o.room, f.Bytes()) {
			o.write(j, &r, f.Bytes())
		}
	}
	o.wake()
}

// write copies a record and its data, cut to the snapshot length, into the ring of capture j.
func (o *observer) write(j int, r *Record, data []byte) {
	data = data[:min(len(data), o.captures[j].options.Snap)]
	if b := o.reserve(j, r, len(data)); b != nil {
		copy(b, data)
		o.captures[j].rings[o.worker].Commit()
	}
}

// reserve puts a record without its data into the ring of capture j and returns the n bytes for the data, to be filled before
// Commit. It returns nil if the ring is full, or if captures have had their time.
func (o *observer) reserve(j int, r *Record, n int) []byte {
	c := o.captures[j]
	var rec []byte
	if o.open&(1<<j) != 0 {
		rec = c.rings[o.worker].Reserve(recordLen + n)
	}
	if rec == nil {
		c.Lost.Add(1)
		return nil
	}
	if o.late {
		o.told[j] = r.Time
		o.open &^= 1 << j
	}
	r.put(rec)
	o.wrote |= 1 << j
	return rec[recordLen:]
}

// wake notifies the readers of the captures that got records.
func (o *observer) wake() {
	for j, c := range o.captures {
		if o.wrote&(1<<j) != 0 {
			c.notify()
		}
	}
	o.wrote = 0
}
