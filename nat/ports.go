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
type outsidePorts struct {
	used        *PortSet // in use or resting: not to be had
	quarantine  *PortSet
	overloaded  []atomic.Int32               // by port: flows of mapping address-and-port-dependent that share it
	quarantined []quarantineInfo             // valid for resting ports
	heldBy      [frame.MaxPorts]atomic.Int32 // by owner: mappings and resting ports
}

// rest says who gave a port back, and when.
type quarantineInfo struct {
	since atomic.Uint32 // a Tick
	addr  atomic.Uint32 // the inside address
	owner atomic.Uint32 // the port charged
}

// restTime is how long a port is given to nobody else after its mapping has ended (RFC 6888, REQ-8): what is still
// on its way to the old one reaches no new one.
const quarantineTime = 120 * frame.TicksPerSecond

// release gives an outside port back; it stays charged to its owner while it rests. Identifiers do not rest.
func (n *NAT) releasePort(i int, port uint16, owner frame.PortID, inside frame.Addr) {
	o := &n.ports[i]
	if o.quarantine == nil {
		o.used.Release(port)
		o.heldBy[owner].Add(-1)
		return
	}
	r := &o.quarantined[port]
	r.since.Store(n.now.Load())
	r.addr.Store(uint32(inside))
	r.owner.Store(uint32(owner))
	o.quarantine.Claim(port)
}

// EndRests ends the rest of ports that have rested long enough. It is the housekeeper's.
func (n *NAT) EndQuarantine(now frame.Tick) {
	for i := range n.ports {
		o := &n.ports[i]
		if o.quarantine == nil {
			continue
		}
		o.quarantine.each(func(p uint16) {
			if now-frame.Tick(o.quarantined[p].since.Load()) >= quarantineTime {
				n.endQuarantineOf(o, p)
			}
		})
	}
}

// endRest makes a resting port free, unless somebody else has just taken it.
func (n *NAT) endQuarantineOf(o *outsidePorts, p uint16) {
	owner := o.quarantined[p].owner.Load()
	if o.quarantine.Release(p) {
		o.used.Release(p)
		o.heldBy[owner].Add(-1)
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
func (o *outsidePorts) claim(p uint16, dry bool) bool {
	if dry {
		return !o.used.Has(p)
	}
	return o.used.Claim(p)
}

// retake takes a port that rests after the same inside address had it (RFC 6888, REQ-8, exception B). It stays charged.
func (o *outsidePorts) reuse(p uint16, inside frame.Addr, owner frame.PortID, dry bool) bool {
	own := func() bool {
		return o.quarantined[p].addr.Load() == uint32(inside) && o.quarantined[p].owner.Load() == uint32(owner)
	}
	if !o.quarantine.Has(p) || !own() {
		return false
	}
	if dry {
		return true
	}
	if !o.quarantine.Release(p) {
		return false
	}
	if !own() { // it was woken, given out, and rests again for somebody else, all just now
		o.quarantine.Claim(p)
		return false
	}
	return true
}

// choose takes an outside port for an inside endpoint: the same one where the pool has it and it is free, else an
// unpredictable one (RFC 6056, 3.3.1); where there is none, or the owner holds its share, one of its own that rests.
// charged says that it was charged already. A dry choice takes nothing.
func (n *NAT) choose(c *config, i int, inside frame.Tuple, owner frame.PortID, dry bool) (port uint16, charged, ok bool) {
	o, pool, want := &n.ports[i], c.pool[i], inside.SrcPort
	rests := o.quarantine != nil
	if rests && pool.Has(want) && o.reuse(want, inside.Src, owner, dry) {
		return want, true, true
	}
	if o.heldBy[owner].Load() < c.quota[i] {
		if pool.Has(want) && o.claim(want, dry) {
			return want, false, true
		}
		if port, ok = o.used.search(pool, n.randomPort(pool), want, func(p uint16) bool { return o.claim(p, dry) }); ok {
			return port, false, true
		}
	}
	if rests {
		none := &PortSet{}
		port, ok = none.search(o.quarantine, n.randomPort(pool), want, func(p uint16) bool { return pool.Has(p) && o.reuse(p, inside.Src, owner, dry) })
	}
	return port, ok, ok
}

// draw is a random port of the pool, as a rule, so that what follows a gap is not chosen more often.
func (n *NAT) randomPort(pool *PortSet) uint16 {
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
func (o *outsidePorts) overload(p uint16, owner frame.PortID, limit int32) bool {
	for {
		v := o.overloaded[p].Load()
		if v == 0 {
			if o.heldBy[owner].Load() >= limit || !o.used.Claim(p) {
				return false // or a mapping's, resting, or being claimed
			}
			o.heldBy[owner].Add(1)
			o.quarantined[p].owner.Store(uint32(owner))
			o.overloaded[p].Store(1)
			return true
		}
		if o.overloaded[p].CompareAndSwap(v, v+1) {
			return true
		}
	}
}

// unshare takes it away; the last flow frees the port. It does not rest: nobody else is let in by it (RFC 6888, REQ-8,
// exception C).
func (n *NAT) endOverload(i int, p uint16) {
	o := &n.ports[i]
	if o.overloaded[p].Add(-1) == 0 {
		o.heldBy[o.quarantined[p].owner.Load()].Add(-1)
		o.used.Release(p)
	}
}

// shareFor finds an outside port with which d's reply is nobody's yet, and shares it; dry, it only finds it.
func (n *NAT) overloadFor(c *config, i int, d *pendingFlow, dry bool) bool {
	o, pool, inside := &n.ports[i], c.pool[i], d.orig.SrcPort
	try := func(p uint16) bool {
		d.reply.DstPort = p
		if !pool.Has(p) || n.flows.probe(d.reply) != inserted {
			return false
		}
		if dry {
			return o.overloaded[p].Load() > 0 || !o.used.Has(p) && o.heldBy[d.port].Load() < c.quota[i]
		}
		return o.overload(p, d.port, c.quota[i])
	}
	if try(inside) {
		return true
	}
	for range overloadDraws {
		if try(n.randomPort(pool)) {
			return true
		}
	}
	none, left := &PortSet{}, overloadScan
	_, ok := none.search(pool, n.randomPort(pool), inside, func(p uint16) bool { left--; return left < 0 || try(p) })
	return ok && left >= 0
}

const (
	overloadDraws = 64   // ports tried at random
	overloadScan  = 2048 // and then in turn, at most
)
