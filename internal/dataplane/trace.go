package dataplane

import (
	"net/netip"

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

// A TracedFrame is a frame at one moment of its way, with the addresses of either family.
type TracedFrame struct {
	*frame.Frame
	Tuple             frame.Endpoints // as it stands in the packet
	RouteDst, NextHop netip.Addr      // see frame.Frame
}

// show describes a frame as it is now.
func show(f frame.Frame, to *frame.Way6) *TracedFrame {
	t := &TracedFrame{Frame: &f}
	switch {
	case f.Flags&frame.IsIPv6 != 0:
		t.Tuple, t.RouteDst, t.NextHop = frame.EndpointsOf(f.Tuple6()), to.Dst.Netip(), to.Hop.Netip()
	case f.Flags&frame.IsIPv4 != 0:
		t.Tuple, t.RouteDst, t.NextHop = frame.EndpointsOf(f.Tuple), f.RouteDst.Netip(), f.NextHop.Netip()
	}
	return t
}

// Run carries one frame, with its virtio-net header, from a port to its end. step is called after parsing and after each
// stage that had something to decide, with the frame as it was before and as it is then.
func (t *Tracer) Run(in frame.PortID, raw []byte, step func(stage string, before, f *TracedFrame)) Outcome {
	b := &t.batch
	b.N, b.Locals, b.Dry, b.Tick = 1, 0, true, t.dp.Now()
	b.Learned.MAC = 0
	f := &b.Frames[0]
	f.Reset(raw, in)
	before := show(*f, &b.To[0])
	frame.ParseBatch(b)
	step("parse", before, show(*f, &b.To[0]))
	for i := range steps {
		if s := &steps[i]; s.traced && f.Verdict == s.input {
			before = show(*f, &b.To[0])
			s.run(t.dp.workers[0], b)
			step(s.name, before, show(*f, &b.To[0]))
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
	putRecord(rec, f, &t.batch.To[0])
	r := t.dp.Router.DryRun(puntedFrame(rec), t.dp.Now())
	return &r
}
