package router

import (
	"maps"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Result is what the slow path would do with a frame. One of Consumed (with Pieces, when it is cut), Held, Released and Why
// is set.
type DryRunResult struct {
	Consumed, Held, Released bool
	Why                      frame.Reason // dropped
	Sent                     [][]byte     // Ethernet frames that the router sends about it, to the network of the frame as a rule
	Pieces                   int          // fragments that take its place
}

// Try is Punted without its effects: it runs on a copy of the slow path's state.
func (r *Router) DryRun(p PuntedFrame, now frame.Tick) DryRunResult {
	r.mu.Lock()
	c := Router{bucket: r.bucket, errors: r.errors, errorsOf: r.errorsOf, queuedBytes: r.queuedBytes, queuedBytesOf: r.queuedBytesOf, rng: r.rng, defended: maps.Clone(r.defended), neigh: map[neighKey]*neighbor{}}
	for k, n := range r.neigh {
		copied := *n
		copied.queue = slices.Clip(n.queue) // appending to it copies
		c.neigh[k] = &copied
	}
	c.snap.Store(r.snap.Load())
	r.mu.Unlock()
	out := &dryOutput{of: &p.Raw[0]}
	c.HandlePunt(p, now, out)
	out.Held = !out.Consumed && !out.Released && out.Why == frame.None
	return out.DryRunResult
}

// recorder is an Output that notes what becomes of one frame.
type dryOutput struct {
	DryRunResult
	of *byte // its first
}

func (r *dryOutput) about(p PuntedFrame) bool { return &p.Raw[0] == r.of }

func (r *dryOutput) Send(_ frame.NetID, eth []byte) { r.Sent = append(r.Sent, eth) }
func (r *dryOutput) Reroute(PuntedFrame, []byte)    { r.Pieces++ }
func (r *dryOutput) Release(p PuntedFrame)          { r.Released = r.Released || r.about(p) }
func (r *dryOutput) Consume(p PuntedFrame)          { r.Consumed = r.Consumed || r.about(p) }
func (r *dryOutput) Drop(p PuntedFrame, why frame.Reason) {
	if r.about(p) {
		r.Why = why
	}
}
