package nat

import (
	"math/bits"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// protocols have outside ports (ICMP: identifiers) of their own.
const protocols = 3

//uvswitch:hot
func protoIndex(proto uint8) int {
	switch proto {
	case frame.TCP:
		return 0
	case frame.UDP:
		return 1
	case frame.ICMP:
		return 2
	}
	return -1
}

// PortSetBytes is the size of a PortSet in memory: a bit for each port, bit p&7 of byte p>>3.
const PortSetBytes = 65536 / 8

// A PortSet is a set of ports that several workers change at once: claiming a port is one atomic operation, so a
// set is also the allocator. The memory may be shared with others, such as a BPF program.
type PortSet [65536 / 64]atomic.Uint64

// NewPortSet makes an empty set.
func NewPortSet() *PortSet { return new(PortSet) }

// Claim adds p and tells whether it was absent.
func (s *PortSet) Claim(p uint16) bool {
	bit := uint64(1) << (p & 63)
	return s[p>>6].Or(bit)&bit == 0
}

// Release removes p.
func (s *PortSet) Release(p uint16) { s[p>>6].And(^(uint64(1) << (p & 63))) }

// Has tells whether p is in the set.
func (s *PortSet) Has(p uint16) bool { return s[p>>6].Load()>>(p&63)&1 != 0 }

// AddRange adds the ports lo to hi.
func (s *PortSet) AddRange(lo, hi uint16) {
	for p := int(lo); p <= int(hi); p++ {
		s.Claim(uint16(p))
	}
}

// RemoveRange removes the ports lo to hi.
func (s *PortSet) RemoveRange(lo, hi uint16) {
	for p := int(lo); p <= int(hi); p++ {
		s.Release(uint16(p))
	}
}

// Len counts the ports in the set.
func (s *PortSet) Len() (n int) {
	for i := range s {
		n += bits.OnesCount64(s[i].Load())
	}
	return n
}

// claimFrom claims some port that pool has and s has not, searching from port start on: first among those of the
// parity wanted (RFC 4787, REQ-4), then among all.
func (s *PortSet) claimFrom(pool *PortSet, start uint16, odd bool) (uint16, bool) {
	parity := uint64(0x5555555555555555)
	if odd {
		parity = ^parity
	}
	for _, mask := range [2]uint64{parity, ^uint64(0)} {
		for i := range len(s) + 1 {
			w := (int(start>>6) + i) % len(s)
			avail := pool[w].Load() & mask
			if i == 0 {
				avail &= ^uint64(0) << (start & 63)
			}
			for {
				free := avail &^ s[w].Load()
				if free == 0 {
					break
				}
				if p := uint16(w<<6 + bits.TrailingZeros64(free)); s.Claim(p) {
					return p, true
				}
			}
		}
	}
	return 0, false
}

// acquire returns the mapping of an inside endpoint (source, and the host's address as destination), with one more
// user, making it when there is none: the same
// endpoint has the same outside port whatever it speaks to (RFC 4787, REQ-1; RFC 5382, REQ-1).
func (n *NAT) acquire(c *config, inside frame.Tuple, owner frame.PortID) (mapping uint32, port uint16, why frame.Reason) {
	h := inside.Hash(n.maps.seed)
	for range 4 {
		if m, _, ok := n.maps.lookup(&inside, h); ok {
			if n.hold(m) {
				return m, n.maps.keys[m][1].SrcPort, frame.None
			}
			continue // its last user has just left; it will be gone
		}
		if n.maps.standing(inside) != inserted {
			continue
		}
		i := protoIndex(inside.Proto)
		if n.mapped[i][owner].Load() >= c.share[i] && !n.relieve(i, owner) {
			return 0, 0, frame.NATPortsExhausted
		}
		port, ok := n.choose(c, i, inside)
		if !ok {
			if n.relieve(i, owner) {
				continue
			}
			return 0, 0, frame.NATPortsExhausted
		}
		outside := frame.Tuple{Src: c.External, SrcPort: port, Proto: inside.Proto}
		m, ok := n.maps.alloc(inside, outside)
		if !ok {
			n.ports[i].Release(port)
			return 0, 0, frame.FlowTableFull
		}
		n.refs[m].Store(1)
		n.owner[m] = owner
		_, _, out := n.maps.insert(m)
		if out == inserted {
			n.mapped[i][owner].Add(1)
			return m, port, frame.None
		}
		n.ports[i].Release(port)
		if out == full {
			return 0, 0, frame.FlowTableFull
		}
	}
	return 0, 0, frame.FlowBusy
}

// choose claims an outside port: the inside one when the pool has it and it is free, else an unpredictable one
// (RFC 6056, 3.3.1). Ports of ICMP are identifiers, and all are in its pool.
func (n *NAT) choose(c *config, i int, inside frame.Tuple) (uint16, bool) {
	want := inside.SrcPort
	if c.pool[i].Has(want) && n.ports[i].Claim(want) {
		return want, true
	}
	start := frame.Mix(n.draws.Add(1)^n.seed, n.seed|1)
	for range 32 { // a place in the pool, so that what follows a gap is not chosen more often
		if c.pool[i].Has(uint16(start >> 32)) {
			break
		}
		start = frame.Mix(start, 0x9e3779b97f4a7c15)
	}
	return n.ports[i].claimFrom(c.pool[i], uint16(start>>32), want&1 != 0)
}

// hold adds a user to a mapping unless its last one has left.
func (n *NAT) hold(m uint32) bool {
	for {
		r := n.refs[m].Load()
		if r == 0 {
			return false
		}
		if n.refs[m].CompareAndSwap(r, r+1) {
			return true
		}
	}
}

// release takes a user away; the last one ends the mapping and frees its outside port.
func (n *NAT) release(m uint32) {
	if n.refs[m].Add(-1) != 0 {
		return
	}
	outside, owner := n.maps.keys[m][1], n.owner[m]
	if n.maps.kill(m) {
		i := protoIndex(outside.Proto)
		n.ports[i].Release(outside.SrcPort)
		n.mapped[i][owner].Add(-1)
	}
}

// relieve frees outside ports under pressure and tells whether it did. It looks at stretches of the flow table and
// ends what may go early: flows that are closing or were never answered, of the port that asks or of one that holds
// at least as many. So who exhausts the ports loses its own first.
func (n *NAT) relieve(i int, asks frame.PortID) bool {
	mark := n.flows.mark()
	if mark <= 1 {
		return false
	}
	freed := 0
	for range min(relieveStretches, (mark-1)/relieveStretch+1) {
		start := n.cursor.Add(relieveStretch)
		for k := range min(relieveStretch, mark-1) {
			e := 1 + (start+k)%(mark-1)
			s := &n.state[e]
			if !n.flows.isLive(e) || s.mapping == 0 || protoIndex(n.flows.keys[e][0].Proto) != i ||
				s.port != asks && n.mapped[i][s.port].Load() < n.mapped[i][asks].Load() {
				continue
			}
			last := n.refs[s.mapping].Load() == 1
			if mayGo(s.state.Load(), n.flows.keys[e][0].Proto) && n.remove(e) && last {
				freed++
			}
		}
		if freed > 0 {
			return true
		}
	}
	return false
}

const (
	relieveStretch   = uint32(512) // flow entries looked at before seeing whether one was freed
	relieveStretches = uint32(16)  // at most, in one call
)

// mayGo tells which flows go early: unreplied and closing ones.
func mayGo(state uint32, proto uint8) bool {
	if state&seenReply == 0 {
		return true
	}
	s := tcpState(state & stateMask)
	return proto == frame.TCP && (s == tcpTimeWait || s == tcpClose || s == tcpLastAck)
}
