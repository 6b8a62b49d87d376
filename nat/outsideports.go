package nat

import (
	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// Indices of the protocols that have outside ports; ICMP's are its identifiers. Flows of other protocols differ only
// in their addresses.
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
	case frame.ICMP, frame.ICMPv6:
		return icmp
	case frame.SCTP:
		return sctp
	}
	return -1
}

// protoNumber is the reverse of protoIndex in family A.
func protoNumber[A frame.Address](i int) uint8 {
	if _, six := any(zero[A]()).(frame.Addr6); six && i == icmp {
		return frame.ICMPv6
	}
	return [protocols]uint8{tcp: frame.TCP, udp: frame.UDP, icmp: frame.ICMP, sctp: frame.SCTP}[i]
}

// outsidePorts are the outside ports of one protocol at one address of the host: free, in use, or in quarantine.
type outsidePorts struct {
	used        *PortSet         // in use or in quarantine: not available
	quarantine  *PortSet         // nil for ICMP
	overloaded  []atomic.Int32   // by port: flows that share it
	quarantined []quarantineInfo // valid for ports in quarantine; owner also for overloaded ports
}

// quarantineInfo records which inside address gave a port back, its owner, and when.
type quarantineInfo struct {
	since atomic.Uint32 // a Tick
	addr  atomic.Uint32 // the inside address: IPv4's, or a hash of IPv6's; see addrWord
	owner atomic.Uint32 // the port charged
}

// addrWord returns 32 bits that stand for an inside address.
func (n *tracker[A]) addrWord(a A) uint32 {
	switch a := any(a).(type) {
	case frame.Addr:
		return uint32(a)
	case frame.Addr6:
		return uint32(frame.Mix(a.Hi^n.seed, a.Lo^n.seed|1))
	}
	return 0
}

// quarantineTime is how long a port is given to no other address after its mapping has ended (RFC 6888, REQ-8). Late
// packets for the old mapping then reach no new one.
const quarantineTime = 120 * frame.TicksPerSecond

// releasePort puts an outside port into quarantine; the port stays charged to its owner meanwhile. ICMP identifiers
// have no quarantine and become free at once.
func (n *tracker[A]) releasePort(at A, i int, port uint16, owner frame.PortID, inside A) {
	a := n.addrs.find(at)
	if a == nil {
		n.portShares[i].Return(owner)
		return
	}
	o := &a.ports[i]
	if o.quarantine == nil {
		o.used.Release(port)
		n.portShares[i].Return(owner)
		return
	}
	r := &o.quarantined[port]
	r.since.Store(n.now.Load())
	r.addr.Store(n.addrWord(inside))
	r.owner.Store(uint32(owner))
	n.resting[i][owner].Add(1)
	o.quarantine.Claim(port)
	n.restedLast[i][owner].Store(uint32(port))
	n.noneRests[i][owner].forget()
}

// EndQuarantine frees the ports whose quarantine time has passed. The slow path calls it.
func (n *NAT) EndQuarantine(now frame.Tick) {
	n.endQuarantine(now)
	n.six.endQuarantine(now)
}

func (n *tracker[A]) endQuarantine(now frame.Tick) {
	for _, a := range *n.addrs.list.Load() {
		for i := range a.ports {
			o := &a.ports[i]
			if o.quarantine == nil {
				continue
			}
			o.quarantine.each(func(p uint16) {
				if now-frame.Tick(o.quarantined[p].since.Load()) >= quarantineTime {
					n.endQuarantineOf(o, i, p)
				}
			})
		}
	}
}

// endQuarantineOf frees a port in quarantine, unless another worker has just reused it.
func (n *tracker[A]) endQuarantineOf(o *outsidePorts, i int, p uint16) {
	if o.quarantine.Release(p) {
		n.uncharge(o, i, p)
		o.used.Release(p)
	}
}

// uncharge gives back the unit that the owner of a port holds. The caller has taken the port out of quarantine, and it is still in use.
func (n *tracker[A]) uncharge(o *outsidePorts, i int, p uint16) {
	if owner := frame.PortID(o.quarantined[p].owner.Load()); owner != frame.NoPort { // else it was left to the host
		n.resting[i][owner].Add(-1)
		n.portShares[i].Return(owner)
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

// claim takes a free port and charges its owner, and reports whether it could; a dry call takes nothing.
func (n *tracker[A]) claim(o *outsidePorts, i int, p uint16, owner frame.PortID, dry bool) bool {
	if dry {
		return !o.used.Has(p) && n.portShares[i].May(owner)
	}
	if o.used.Has(p) || !n.portShares[i].Take(owner) {
		return false
	}
	if !o.used.Claim(p) {
		n.portShares[i].Return(owner)
		return false
	}
	return true
}

// reuse takes a port out of quarantine for the inside address that had it before (RFC 6888, REQ-8, exception B). The
// port stays charged to owner.
func (n *tracker[A]) reuse(o *outsidePorts, i int, p uint16, inside A, owner frame.PortID, dry bool) bool {
	own := func() bool {
		return o.quarantined[p].addr.Load() == n.addrWord(inside) && o.quarantined[p].owner.Load() == uint32(owner)
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
	if !own() { // meanwhile it was freed, claimed, and put into quarantine for another endpoint
		o.quarantine.Claim(p)
		return false
	}
	n.resting[i][owner].Add(-1)
	return true
}

// choose takes an outside port of address a for an inside endpoint, and charges the endpoint's owner for it, in this order:
//   - the published port that leads to this endpoint,
//   - the same port number, if it is in the pool and free,
//   - an unpredictable one of the same class: of those that the host's kernel picks for its own connections, or of the others
//     (RFC 6056, 3.3.1),
//   - any other of the pool,
//   - a port that the same inside address has in quarantine. If the owner has reached its limit, only this choice is left.
//
// A port whose last connection the other end may not let go yet is passed over (see timewait.go). A dry call takes nothing.
func (n *tracker[A]) choose(c *config[A], a *hostAddr[A], i int, d *pendingFlow[A], dry bool) (port uint16, ok bool) {
	inside, owner := &d.orig, d.port
	o, pool, want := &a.ports[i], c.pool[i], inside.SrcPort
	good := n.choosing(a, i, d)
	rests := o.quarantine != nil && n.resting[i][owner].Load() > 0
	if p := c.publishedAs(i, a.addr, inside); p != 0 && (inside.Dst != a.addr || inside.DstPort != p) {
		if rests && n.reuse(o, i, p, inside.Src, owner, dry) || n.claim(o, i, p, owner, dry) {
			return p, true
		}
	}
	if rests && pool.Has(want) && good.takes(want) && n.reuse(o, i, want, inside.Src, owner, dry) {
		return want, true
	}
	held, most := n.portShares[i].Held(owner), n.portShares[i].Most(owner)
	if i == tcp {
		most -= min(most-1, (most+7)/8) // the rest is for ports that are shared
	}
	if held < most {
		if pool.Has(want) && good.takes(want) && n.claim(o, i, want, owner, dry) {
			return want, true
		}
		for _, set := range [...]*PortSet{c.class(i, want), pool} {
			for range maxLooks { // at random: the next port is likely to have been used by the same container
				if p := n.randomPort(set)&^1 | want&1; (p < 1024) == (want < 1024) && set.Has(p) && a.letsGo(i, p, d.syn, good.now) && n.claim(o, i, p, owner, dry) {
					return p, true
				}
			}
			if port, ok = o.used.search(set, n.randomPort(set), want, func(p uint16) bool { return n.claim(o, i, p, owner, dry) }); ok {
				return port, true
			}
		}
	}
	if rests {
		return n.chooseResting(o, i, d, pool, good, dry)
	}
	return 0, false
}

// chooseResting takes a port that the inside address of d has in quarantine. Other addresses behind the same port may have very many there. So it looks
// at the one that came last, and at a bounded number of others; if these are not the address's own, it looks again in another Tick.
func (n *tracker[A]) chooseResting(o *outsidePorts, i int, d *pendingFlow[A], pool *PortSet, good *chooser[A], dry bool) (uint16, bool) {
	now := n.now.Load()
	key := uint64(n.addrWord(d.orig.Src))<<32 | uint64(now)
	if n.noneRests[i][d.port].is(key, now) {
		return 0, false
	}
	try := func(p uint16) bool {
		return pool.Has(p) && good.takes(p) && n.reuse(o, i, p, d.orig.Src, d.port, dry)
	}
	if p, want := uint16(n.restedLast[i][d.port].Load()), d.orig.SrcPort; (p < 1024) == (want < 1024) && (p^want)&1 == 0 && try(p) { // RFC 4787, 4.2
		return p, true
	}
	if p, ok := o.quarantine.searchFew(restingScan, n.randomPort(pool), d.orig.SrcPort, try); ok {
		return p, true
	}
	if !dry {
		n.noneRests[i][d.port].note(key)
	}
	return 0, false
}

const restingScan = 512

var noPorts PortSet

// searchFew tries at most that many ports of the set, in the order of search.
func (s *PortSet) searchFew(most int, start, inside uint16, try func(uint16) bool) (uint16, bool) {
	p, ok := noPorts.search(s, start, inside, func(p uint16) bool { most--; return most < 0 || try(p) })
	return p, ok && most >= 0
}

// randomPort returns a random port, almost always one of the pool. It draws again rather than taking the next port of
// the pool, so that a port after a gap is not chosen more often.
func (n *tracker[A]) randomPort(pool *PortSet) uint16 {
	x := frame.Mix(n.draws.Add(1)^n.seed, n.seed|1)
	for range 32 {
		if pool.Has(uint16(x >> 32)) {
			break
		}
		x = frame.Mix(x, 0x9e3779b97f4a7c15)
	}
	p := uint16(x >> 32)
	for n := 0; n < 1<<16 && !pool.Has(p); n++ { // the set is small
		p++
	}
	return p
}

// overload adds a flow to an outside port that several flows to different destinations may use. The owner of the
// first flow is charged for the port. It reports whether the port could be taken.
func (n *tracker[A]) overload(o *outsidePorts, i int, p uint16, owner frame.PortID) bool {
	for {
		v := o.overloaded[p].Load()
		if v == 0 {
			if !n.claim(o, i, p, owner, false) {
				return false // it may have no more, a mapping has it, it is in quarantine, or another worker is claiming it
			}
			o.quarantined[p].owner.Store(uint32(owner))
			o.overloaded[p].Store(1)
			return true
		}
		if o.overloaded[p].CompareAndSwap(v, v+1) {
			return true
		}
	}
}

// endOverload removes a flow from an overloaded port; the last flow frees the port. The port needs no quarantine,
// since it admits no other remote endpoint (RFC 6888, REQ-8, exception C).
func (n *tracker[A]) endOverload(i int, at A, p uint16) {
	a := n.addrs.find(at)
	if a == nil {
		return
	}
	o := &a.ports[i]
	if o.overloaded[p].Add(-1) == 0 {
		owner := frame.PortID(o.quarantined[p].owner.Load())
		o.used.Release(p)
		n.portShares[i].Return(owner)
	}
}

// overloadFor finds an outside port of d.reply.Dst with which no other flow has the reply tuple of d, and overloads it; a dry call
// only finds it.
func (n *tracker[A]) overloadFor(c *config[A], i int, d *pendingFlow[A], dry bool) bool {
	a := n.addrs.find(d.reply.Dst)
	if a == nil || n.exhausted[d.port].is(exhaustedKey(d, n.now.Load()), n.now.Load()) {
		return false
	}
	o, pool, inside := &a.ports[i], c.pool[i], d.orig.SrcPort
	good, more := n.choosing(a, i, d), n.portShares[i].May(d.port)
	try := func(p uint16) bool {
		d.reply.DstPort = p
		if !pool.Has(p) || o.overloaded[p].Load() == 0 && (!more || o.used.Has(p)) || // cheap, and before:
			n.flows.probe(d.reply) != inserted || !good.takes(p) {
			return false
		}
		return dry || n.overload(o, i, p, d.port)
	}
	if d.source == zero[A]() && try(inside) { // else the way out may have refused this port
		return true
	}
	for range overloadDraws {
		if try(n.randomPort(pool)) {
			return true
		}
	}
	if _, ok := pool.searchFew(overloadScan, n.randomPort(pool), inside, try); ok {
		return true
	}
	if !dry {
		n.exhausted[d.port].note(exhaustedKey(d, n.now.Load()))
	}
	return false
}

const (
	overloadDraws = 64   // ports tried at random
	overloadScan  = 2048 // ports tried in order after that, at most
)

// An exhaustedFor remembers a search for a port that found none, so that it is not repeated within the same Tick: for a destination, all
// ports that an owner might share have a flow; or none rests that an address may have again. It is a hash of what was searched for, and of the Tick.
type exhaustedFor struct{ key atomic.Uint64 }

func (x *exhaustedFor) is(key uint64, now uint32) bool { return now != 0 && x.key.Load() == key }

func (x *exhaustedFor) note(key uint64) { x.key.Store(key) }

func (x *exhaustedFor) forget() { x.key.Store(0) }

func exhaustedKey[A frame.Address](d *pendingFlow[A], now uint32) uint64 {
	t := d.reply
	t.DstPort = 0 // what is searched for
	return t.Hash(uint64(now))
}
