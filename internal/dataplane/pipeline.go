package dataplane

import "github.com/uvswitch/uvswitch/internal/frame"

// A step is one step of a frame's way. It acts on the frames of the batch whose verdict is its input, and leaves the others alone.
type step struct {
	name   string
	input  frame.Verdict // verdict of the frames that the step handles; meaningful only if traced
	which  origin        // the batches that take it
	routed bool          // skipped when no frame of the batch is the router's
	traced bool          // a trace runs it, too, and tells what it decided
	run    func(*worker, *frame.Batch)
}

// origin is where a batch comes from.
type origin uint8

const (
	received   origin = 1 << iota // frames that the Poller has read
	reinjected                    // frames that take up their way again: see reinject.go
	both       = received | reinjected
)

// steps is the way of a frame, from its arrival to its end. Workers run all of it, traces the steps that decide.
var steps = [...]step{
	{name: "parse", which: both, run: func(_ *worker, b *frame.Batch) { frame.ParseBatch(b) }},
	{name: "resume", which: reinjected, run: (*worker).resume},
	{name: "observe", which: both, run: (*worker).observe},
	{name: "admit", which: received, run: func(w *worker, b *frame.Batch) { w.shaper.admit(b) }},
	{name: "guard", input: frame.Switch, which: both, traced: true, run: func(w *worker, b *frame.Batch) { w.dp.Switch.Guard(b) }},
	{name: "learn", input: frame.Switch, which: both, traced: true, run: func(w *worker, b *frame.Batch) { w.dp.Switch.Learn(b) }},
	{name: "forward", input: frame.Switch, which: both, traced: true, run: func(w *worker, b *frame.Batch) { w.dp.Switch.Forward(b) }},
	{name: "return", input: frame.CameBack, which: both, routed: true, run: func(w *worker, b *frame.Batch) { w.dp.NAT.Return(b) }},
	{name: "prerouting", input: frame.Local, which: both, routed: true, traced: true, run: func(w *worker, b *frame.Batch) { w.dp.NAT.PreRouting(b) }},
	{name: "route", input: frame.Local, which: both, routed: true, traced: true, run: func(w *worker, b *frame.Batch) { w.dp.Router.Route(b) }},
	{name: "postrouting", input: frame.Routed, which: both, routed: true, traced: true, run: func(w *worker, b *frame.Batch) { w.dp.NAT.PostRouting(b) }},
	{name: "resolve", input: frame.Routed, which: both, routed: true, traced: true, run: func(w *worker, b *frame.Batch) { w.dp.Router.Resolve(b) }},
	{name: "forward-routed", input: frame.Resolved, which: both, routed: true, traced: true, run: func(w *worker, b *frame.Batch) { w.dp.Switch.ForwardRouted(b) }},
	{name: "filter", input: frame.Policed, which: both, routed: true, traced: true, run: func(w *worker, b *frame.Batch) { w.dp.NAT.Filter(b) }},
	{name: "serve", which: received, routed: true, run: (*worker).serve},
	{name: "shape", which: both, run: func(w *worker, b *frame.Batch) { w.shaper.shape(b) }},
	{name: "coalesce", which: received, run: (*worker).coalesce},
	{name: "transmit", which: both, run: (*worker).transmit},
}

// process carries a batch through the steps. A panic of a step ends the batch only.
func (w *worker) process(b *frame.Batch, from origin) {
	defer w.survive(b)
	w.origin, w.ended = from, 0
	w.carry(b)
	if b.N > 0 {
		w.panics = 0
	}
}

//uvswitch:hot
func (w *worker) carry(b *frame.Batch) {
	for i := range steps {
		if s := &steps[i]; s.which&w.origin != 0 && (!s.routed || b.Locals > 0) {
			s.run(w, b)
		}
	}
}
