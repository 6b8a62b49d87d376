package router

import (
	"maps"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Result is what the slow path would do with a frame. One of Consumed, Held, Released and Why is set.
type Result struct {
	Consumed, Held, Released bool
	Why                      frame.Reason // dropped
	Sent                     [][]byte     // Ethernet frames that the router sends about it, to the network of the frame as a rule
	Pieces                   int          // fragments that take its place
}

// Try is Punted without its effects: it runs on a copy of the slow path's state.
func (r *Router) Try(p Punted, now frame.Tick) Result {
	r.mu.Lock()
	c := Router{bucket: r.bucket, errors: r.errors, errorsOf: r.errorsOf, held: r.held, heldOf: r.heldOf, jitter: r.jitter, defended: maps.Clone(r.defended), neigh: map[neighKey]*neighbor{}}
	for k, n := range r.neigh {
		copied := *n
		copied.held = slices.Clip(n.held) // appending to it copies
		c.neigh[k] = &copied
	}
	c.snap.Store(r.snap.Load())
	r.mu.Unlock()
	out := &recorder{}
	c.Punted(p, now, out)
	out.Held = !out.Consumed && !out.Released && out.Why == frame.None
	return out.Result
}

// recorder is an Output that notes.
type recorder struct{ Result }

func (r *recorder) Send(_ frame.NetID, eth []byte)  { r.Sent = append(r.Sent, eth) }
func (r *recorder) Reroute(Punted, []byte)          { r.Pieces++ }
func (r *recorder) Release(Punted)                  { r.Released = true }
func (r *recorder) Consume(Punted)                  { r.Consumed = true }
func (r *recorder) Drop(_ Punted, why frame.Reason) { r.Why = why }
