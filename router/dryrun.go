package router

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A DryRunResult is what the slow path would do with a frame. Exactly one of Consumed (with Pieces, when the frame is
// fragmented), Held, Released and Why is set.
type DryRunResult struct {
	Consumed, Held, Released bool
	Why                      frame.Reason // reason of a drop
	Sent                     [][]byte     // Ethernet frames that the router sends in response, normally to the same network
	Pieces                   int          // number of fragments that replace it
}

// DryRun is HandlePunt without its effects: it runs on a copy of the state of the slow path.
func (r *Router) DryRun(p PuntedFrame, now frame.Tick) DryRunResult {
	r.mu.Lock()
	c := Router{dry: true, bucket: r.bucket, errorsOf: r.errorsOf, rng: r.rng, defended: maps.Clone(r.defended), neigh: map[neighKey]*neighbor{}, assemblies: map[assemblyKey]*assembly{}, advertisers: map[frame.NetID]*advertiser{}}
	for k, n := range r.neigh {
		copied := *n
		copied.queue = slices.Clip(n.queue) // appending to it makes a copy
		copied.used = new(atomic.Uint32)
		copied.used.Store(n.used.Load())
		c.neigh[k] = &copied
	}
	c.snap.Store(r.snap.Load())
	if c.served = r.served; r.service != nil {
		c.service = dryService{r.service}
	}
	c.shares.queue.CopyFrom(&r.shares.queue)
	c.shares.neighbors.CopyFrom(&r.shares.neighbors)
	c.unresolvedOf, c.incompleteOf, c.evictedAt = r.unresolvedOf, r.incompleteOf, r.evictedAt
	c.shares.assemblies.CopyFrom(&r.shares.assemblies)
	r.mu.Unlock()
	out := &dryOutput{of: &p.Raw[0]}
	c.HandlePunt(p, now, out)
	out.Held = !out.Consumed && !out.Released && out.Why == frame.None
	return out.DryRunResult
}

// dryOutput is an Output that records what happens to one frame.
type dryOutput struct {
	DryRunResult
	of *byte // first byte of that frame: it identifies the frame
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

// dryService is a Service without effects.
type dryService struct{ Service }

func (s dryService) Datagram(d *Datagram) []byte { return s.Preview(d) }

func (dryService) Segment(frame.PortID, frame.NetID, frame.MAC, []byte) {}
