package dataplane

import "github.com/uvswitch/uvswitch/internal/frame"

// pipeline is the way of a frame: each stage acts on the frames whose verdict is its input. Workers and traces run the
// same one.
var pipeline = [...]struct {
	name   string
	input  frame.Verdict // of the frames that it decides about
	routed bool          // skipped when no frame of the batch is the router's
	run    func(*Dataplane, *frame.Batch)
}{
	{"guard", frame.Switch, false, func(d *Dataplane, b *frame.Batch) { d.Switch.Guard(b) }},
	{"learn", frame.Switch, false, func(d *Dataplane, b *frame.Batch) { d.Switch.Learn(b) }},
	{"forward", frame.Switch, false, func(d *Dataplane, b *frame.Batch) { d.Switch.Forward(b) }},
	{"prerouting", frame.Local, true, func(d *Dataplane, b *frame.Batch) { d.NAT.PreRouting(b) }},
	{"route", frame.Local, true, func(d *Dataplane, b *frame.Batch) { d.Router.Route(b) }},
	{"postrouting", frame.Routed, true, func(d *Dataplane, b *frame.Batch) { d.NAT.PostRouting(b) }},
	{"resolve", frame.Routed, true, func(d *Dataplane, b *frame.Batch) { d.Router.Resolve(b) }},
	{"forward-routed", frame.Resolved, true, func(d *Dataplane, b *frame.Batch) { d.Switch.ForwardRouted(b) }},
}

// decide runs a parsed batch through the pipeline.
//
//uvswitch:hot
func (d *Dataplane) decide(b *frame.Batch) {
	for i := range pipeline {
		if s := &pipeline[i]; !s.routed || b.Locals > 0 {
			s.run(d, b)
		}
	}
}
