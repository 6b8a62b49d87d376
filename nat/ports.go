package nat

import (
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// The protocols with outside ports of their own; ICMP's are identifiers. Others are told apart by their addresses
// alone.
const (
	tcp = iota
	udp
	icmp
	sctp
	protocols
)

//uvswitch:hot
func protoIndex(proto uint8) int {
	switch proto {
	case frame.TCP:
		return tcp
	case frame.UDP:
		return udp
	case frame.ICMP:
		return icmp
	case frame.SCTP:
		return sctp
	}
	return -1
}

// outside is one protocol's outside ports: free, in use, or resting.
type outside struct {
	used    *PortSet // in use or resting: not to be had
	resting *PortSet
	shared  []atomic.Int32               // by port: flows of mapping address-and-port-dependent that share it
	rested  []rest                       // valid for resting ports
	held    [frame.MaxPorts]atomic.Int32 // by owner: mappings and resting ports
}

// rest says who gave a port back, and when.
type rest struct {
	since atomic.Uint32 // a Tick
	addr  atomic.Uint32 // the inside address
	owner atomic.Uint32 // the port charged
}

// restTime is how long a port is given to nobody else after its mapping has ended (RFC 6888, REQ-8): what is still
// on its way to the old one reaches no new one.
const restTime = 120 * frame.TicksPerSecond

// release gives an outside port back; it stays charged to its owner while it rests. Identifiers do not rest.
func (n *NAT) release(i int, port uint16, owner frame.PortID, inside frame.Addr) {
	o := &n.ports[i]
	if o.resting == nil {
		o.used.Release(port)
		o.held[owner].Add(-1)
		return
	}
	r := &o.rested[port]
	r.since.Store(n.now.Load())
	r.addr.Store(uint32(inside))
	r.owner.Store(uint32(owner))
	o.resting.Claim(port)
}

// EndRests ends the rest of ports that have rested long enough. It is the housekeeper's.
func (n *NAT) EndRests(now frame.Tick) {
	for i := range n.ports {
		o := &n.ports[i]
		if o.resting == nil {
			continue
		}
		o.resting.each(func(p uint16) {
			if now-frame.Tick(o.rested[p].since.Load()) >= restTime {
				n.endRest(o, p)
			}
		})
	}
}

// endRest makes a resting port free, unless somebody else has just taken it.
func (n *NAT) endRest(o *outside, p uint16) {
	owner := o.rested[p].owner.Load()
	if o.resting.Release(p) {
		o.used.Release(p)
		o.held[owner].Add(-1)
	}
}

// each calls fn for every port in the set.
func (s *PortSet) each(fn func(uint16)) {
	for w := range s {
		for b, p := s[w].Load(), uint16(w<<6); b != 0; b, p = b>>1, p+1 {
			if b&1 != 0 {
				fn(p)
			}
		}
	}
}

// claim takes a free port; dry, it only tells whether it could.
func (o *outside) claim(p uint16, dry bool) bool {
	if dry {
		return !o.used.Has(p)
	}
	return o.used.Claim(p)
}

// retake takes a port that rests after the same inside address had it (RFC 6888, REQ-8, exception B). It stays charged.
func (o *outside) retake(p uint16, inside frame.Addr, owner frame.PortID, dry bool) bool {
	own := func() bool {
		return o.rested[p].addr.Load() == uint32(inside) && o.rested[p].owner.Load() == uint32(owner)
	}
	if !o.resting.Has(p) || !own() {
		return false
	}
	if dry {
		return true
	}
	if !o.resting.Release(p) {
		return false
	}
	if !own() { // it was woken, given out, and rests again for somebody else, all just now
		o.resting.Claim(p)
		return false
	}
	return true
}

// choose takes an outside port for an inside endpoint: the same one where the pool has it and it is free, else an
// unpredictable one (RFC 6056, 3.3.1); where there is none, or the owner holds its share, one of its own that rests.
// charged says that it was charged already. A dry choice takes nothing.
func (n *NAT) choose(c *config, i int, inside frame.Tuple, owner frame.PortID, dry bool) (port uint16, charged, ok bool) {
	o, pool, want := &n.ports[i], c.pool[i], inside.SrcPort
	rests := o.resting != nil
	if rests && pool.Has(want) && o.retake(want, inside.Src, owner, dry) {
		return want, true, true
	}
	if o.held[owner].Load() < c.share[i] {
		if pool.Has(want) && o.claim(want, dry) {
			return want, false, true
		}
		if port, ok = o.used.search(pool, n.draw(pool), want, func(p uint16) bool { return o.claim(p, dry) }); ok {
			return port, false, true
		}
	}
	if rests {
		none := &PortSet{}
		port, ok = none.search(o.resting, n.draw(pool), want, func(p uint16) bool { return pool.Has(p) && o.retake(p, inside.Src, owner, dry) })
	}
	return port, ok, ok
}

// draw is a random port of the pool, as a rule, so that what follows a gap is not chosen more often.
func (n *NAT) draw(pool *PortSet) uint16 {
	x := frame.Mix(n.draws.Add(1)^n.seed, n.seed|1)
	for range 32 {
		if pool.Has(uint16(x >> 32)) {
			break
		}
		x = frame.Mix(x, 0x9e3779b97f4a7c15)
	}
	return uint16(x >> 32)
}

// share adds a flow to an outside port that several flows may have: they differ in whom they speak to. Who takes a free
// one is charged for it, up to limit.
func (o *outside) share(p uint16, owner frame.PortID, limit int32) bool {
	for {
		v := o.shared[p].Load()
		if v == 0 {
			if o.held[owner].Load() >= limit || !o.used.Claim(p) {
				return false // or a mapping's, resting, or being claimed
			}
			o.held[owner].Add(1)
			o.rested[p].owner.Store(uint32(owner))
			o.shared[p].Store(1)
			return true
		}
		if o.shared[p].CompareAndSwap(v, v+1) {
			return true
		}
	}
}

// unshare takes it away; the last flow frees the port. It does not rest: nobody else is let in by it (RFC 6888, REQ-8,
// exception C).
func (n *NAT) unshare(i int, p uint16) {
	o := &n.ports[i]
	if o.shared[p].Add(-1) == 0 {
		o.held[o.rested[p].owner.Load()].Add(-1)
		o.used.Release(p)
	}
}

// shareFor finds an outside port with which d's reply is nobody's yet, and shares it; dry, it only finds it.
func (n *NAT) shareFor(c *config, i int, d *draft, dry bool) bool {
	o, pool, inside := &n.ports[i], c.pool[i], d.orig.SrcPort
	try := func(p uint16) bool {
		d.reply.DstPort = p
		if !pool.Has(p) || n.flows.standing(d.reply) != inserted {
			return false
		}
		if dry {
			return o.shared[p].Load() > 0 || !o.used.Has(p) && o.held[d.port].Load() < c.share[i]
		}
		return o.share(p, d.port, c.share[i])
	}
	if try(inside) {
		return true
	}
	for range shareDraws {
		if try(n.draw(pool)) {
			return true
		}
	}
	none, left := &PortSet{}, shareScan
	_, ok := none.search(pool, n.draw(pool), inside, func(p uint16) bool { left--; return left < 0 || try(p) })
	return ok && left >= 0
}

const (
	shareDraws = 64   // ports tried at random
	shareScan  = 2048 // and then in turn, at most
)
