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
	Frame *frame.Frame         // as it is at the end; valid until the next Run
	Ports []frame.PortID       // written to
	Slow  *router.DryRunResult // what the housekeeper does with it, when it is punted
	Waits bool                 // for the first fragment of its packet, or to be tried again (flow_busy)
}

// Trace calls fn with a Tracer: what it runs meets the tables as they are, changes none of them and no counter. A flow that a
// first frame would make is there for the following ones. fn runs on a worker between two batches: it should be quick.
func (d *Dataplane) Trace(fn func(*Tracer)) {
	t := &Tracer{dp: d}
	d.workers[0].run(func() { d.NAT.Trace(func() { fn(t) }) })
}

// Run carries one frame, with its virtio-net header, from a port to its end. step is called after parsing and after each
// stage that had something to decide, with the frame as it was before and as it is then.
func (t *Tracer) Run(in frame.PortID, raw []byte, step func(stage string, before, f *frame.Frame)) Outcome {
	b := &t.batch
	b.N, b.Locals, b.Dry, b.Tick = 1, 0, true, t.dp.Now()
	b.Heard.MAC = 0
	f := &b.Frames[0]
	f.Reset(raw, in)
	before := *f
	frame.ParseBatch(b)
	step("parse", &before, f)
	for _, s := range pipeline {
		if f.Verdict == s.input {
			before = *f
			s.run(t.dp, b)
			step(s.name, &before, f)
		}
	}
	o := Outcome{Frame: f}
	switch f.Verdict {
	case frame.ToPort:
		o.Ports = []frame.PortID{f.Out}
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
		if o.Waits = f.Reason == frame.FragmentWaits || f.Reason == frame.FlowBusy; !o.Waits {
			o.Slow = t.try(f)
		}
	}
	return o
}

// try is what the housekeeper would do with a punted frame.
func (t *Tracer) try(f *frame.Frame) *router.DryRunResult {
	rec := make([]byte, recordLen+len(f.Raw()))
	putRecord(rec, f)
	r := t.dp.Router.DryRun(punted(rec), t.dp.Now())
	return &r
}
