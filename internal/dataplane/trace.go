package dataplane

import (
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/router"
)

// A Tracer runs frames through the pipeline without any effect; see Dataplane.Trace.
type Tracer struct {
	dp    *Dataplane
	batch frame.Batch
	flood [frame.MaxPorts]frame.PortID
}

// An Outcome is where a traced frame ended.
type Outcome struct {
	Frame  *frame.Frame         // as it is at the end; valid until the next Run
	Ports  []frame.PortID       // written to
	Pieces [][]byte             // the fragments that are written instead, when the frame is too long for its way
	Slow   *router.DryRunResult // what the slow path does with it, when it is punted
	Waits  bool                 // for the first fragment of its packet, or to be tried again (flow_busy)
}

// Trace calls fn with a Tracer. Traced frames see the present tables, and change no table and no counter. A flow that one frame of fn
// would create is visible to the later frames of fn. fn runs on a worker between two batches, so it must be quick.
func (d *Dataplane) Trace(fn func(*Tracer)) {
	t := &Tracer{dp: d}
	d.workers[0].run(func() { d.NAT.Trace(func() { fn(t) }) })
}

// Run carries one frame, with its virtio-net header, from a port to its end. step is called after parsing and after each
// stage that had something to decide, with the frame as it was before and as it is then.
func (t *Tracer) Run(in frame.PortID, raw []byte, step func(stage string, before, f *frame.Frame)) Outcome {
	b := &t.batch
	b.N, b.Locals, b.Dry, b.Tick = 1, 0, true, t.dp.Now()
	b.Learned.MAC = 0
	f := &b.Frames[0]
	f.Reset(raw, in)
	before := *f
	frame.ParseBatch(b)
	step("parse", &before, f)
	for i := range steps {
		if s := &steps[i]; s.traced && f.Verdict == s.input {
			before = *f
			s.run(t.dp.workers[0], b)
			step(s.name, &before, f)
		}
	}
	o := Outcome{Frame: f}
	switch f.Verdict {
	case frame.ToPort:
		o.Ports = []frame.PortID{f.Out}
		if f.Flags&frame.Cut != 0 {
			o.Pieces = frame.CutPieces(f, t.dp.Router.MTUFor(f))
		}
	case frame.Flood:
		n := t.dp.Switch.FloodSet(f, t.flood[:])
		o.Ports = append(o.Ports, t.flood[:n]...)
		if f.ToGateway {
			f.Reason = frame.GatewayService
			o.Slow = t.try(f)
		} else if n == 0 {
			f.DropFor(frame.NoEgress)
		}
	case frame.Punt:
		if p := f.Reason.Punt(); p == frame.Park || p == frame.Redo {
			o.Waits = true
		} else {
			o.Slow = t.try(f)
		}
	}
	return o
}

// try runs the slow path on a punted frame, without effects.
func (t *Tracer) try(f *frame.Frame) *router.DryRunResult {
	rec := make([]byte, recordLen+len(f.Raw()))
	putRecord(rec, f)
	r := t.dp.Router.DryRun(puntedFrame(rec), t.dp.Now())
	return &r
}
