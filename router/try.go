package router

import (
	"maps"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Result is what the slow path would do with a frame. One of Consumed (with Pieces, when it is cut), Held, Released and Why
// is set.
type Result struct {
	Consumed, Held, Released bool
	Why                      frame.Reason // dropped
	Sent                     [][]byte     // Ethernet frames that the router sends about it, to the network of the frame as a rule
	Pieces                   int          // fragments that take its place
}

// Try is Punted without its effects: it runs on a copy of the slow path's state.
func (r *Router) Try(p Punted, now frame.Tick) Result {
	r.mu.Lock()
	c := Router{bucket: r.bucket, errors: r.errors, errorsOf: r.errorsOf, held: r.held, heldOf: r.heldOf, dice: r.dice, defended: maps.Clone(r.defended), neigh: map[neighKey]*neighbor{}}
	for k, n := range r.neigh {
		copied := *n
		copied.held = slices.Clip(n.held) // appending to it copies
		c.neigh[k] = &copied
	}
	c.snap.Store(r.snap.Load())
	r.mu.Unlock()
	out := &recorder{of: &p.Raw[0]}
	c.Punted(p, now, out)
	out.Held = !out.Consumed && !out.Released && out.Why == frame.None
	return out.Result
}

// recorder is an Output that notes what becomes of one frame.
type recorder struct {
	Result
	of *byte // its first
}

func (r *recorder) about(p Punted) bool { return &p.Raw[0] == r.of }

func (r *recorder) Send(_ frame.NetID, eth []byte) { r.Sent = append(r.Sent, eth) }
func (r *recorder) Reroute(Punted, []byte)         { r.Pieces++ }
func (r *recorder) Release(p Punted)               { r.Released = r.Released || r.about(p) }
func (r *recorder) Consume(p Punted)               { r.Consumed = r.Consumed || r.about(p) }
func (r *recorder) Drop(p Punted, why frame.Reason) {
	if r.about(p) {
		r.Why = why
	}
}
