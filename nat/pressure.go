package nat

import (
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// mayGo tells what may go early, under pressure: flows that are closing or were never answered. Established ones never do.
//
//uvswitch:hot
func evictable(state uint32, proto uint8) bool {
	if state&seenReply == 0 {
		return true
	}
	s := tcpState(state & stateMask)
	return proto == frame.TCP && (s == tcpTimeWait || s == tcpClose || s == tcpLastAck)
}

const (
	evictStretch   = uint32(512) // flow entries looked at before seeing whether one was freed
	evictStretches = uint32(16)  // at most, in one call
	evictEnough    = 16          // flows ended, then it stops
)

// relieve makes room for port asks and tells whether it did: outside ports of protocol i, or, with anyProtocol, flows.
// It looks at stretches of the flow table and ends what may go of the one that asks: who exhausts something loses its own.
// (A port of somebody else's would have to rest first.) Dry, it ends nothing.
func (n *NAT) evictFor(i int, asks frame.PortID, dry bool) bool {
	mark := n.flows.highWater()
	if mark <= 1 {
		return false
	}
	barren, now := &n.triedAt[i+1][asks], n.now.Load()
	if now != 0 && barren.Load() == now {
		return false // asked already in this Tick
	}
	cursor := n.cursor.Load()
	for range min(evictStretches, (mark-1)/evictStretch+1) {
		if cursor += evictStretch; !dry {
			cursor = n.cursor.Add(evictStretch)
		}
		freed, ended := 0, 0
		for k := range min(evictStretch, mark-1) {
			e := 1 + (cursor+k)%(mark-1)
			s := &n.state[e]
			if ended == evictEnough || !n.flows.isLive(e) || s.port != asks || !evictable(s.state.Load(), n.flows.keys[e][0].Proto) {
				continue
			}
			shares := s.state.Load()&overloadsPort != 0
			if i != classAny && (s.mapping == 0 && !shares || protoIndex(n.flows.keys[e][0].Proto) != i) {
				continue
			}
			frees := i == classAny || shares || n.lastUser(s.mapping)
			if dry && frees {
				return true
			}
			if !dry && n.end(e, evicted) {
				if ended++; frees {
					freed++
				}
			}
		}
		if freed > 0 {
			return true
		}
	}
	if !dry {
		barren.Store(now)
	}
	return false
}

// lastUser tells whether a mapping, or the one that a permission holds, would end with one of its users.
func (n *NAT) lastUser(m uint32) bool {
	s := &n.mappings[m]
	return s.refs.Load() == 1 && (s.parent == 0 || n.lastUser(s.parent))
}

const classAny = -1

// Pressed tells whether the flow table is more than 15/16 full: the housekeeper should call Ease soon.
//
//uvswitch:hot
func (n *NAT) NearFull() bool { return n.flows.used.Load() > int64(n.flows.limit()-n.flows.limit()/16) }

// Ease keeps room in the flow table: when it is more than 15/16 full, what may go of the port that has most of such flows
// goes, and then of the next, until it is 7/8 full. It is the housekeeper's.
func (n *NAT) EarlyDrop() (removed int) {
	if !n.NearFull() {
		return 0
	}
	var loose [frame.MaxPorts]int // flows that may go, by port
	for e := uint32(1); e < n.flows.highWater(); e++ {
		if n.isEvictable(e) {
			loose[n.state[e].port]++
		}
	}
	goal := int64(n.flows.limit() - n.flows.limit()/8)
	for {
		most := slices.Max(loose[:])
		if most == 0 {
			return removed
		}
		before := removed
		for e := uint32(1); e < n.flows.highWater(); e++ {
			if n.flows.used.Load() <= goal {
				return removed
			}
			if !n.isEvictable(e) {
				continue
			}
			if p := n.state[e].port; loose[p] > most/2 && n.end(e, evicted) {
				loose[p]--
				removed++
			}
		}
		if removed == before {
			return removed // they have gone by themselves
		}
	}
}

// loose tells whether entry e is a flow that may go early.
func (n *NAT) isEvictable(e uint32) bool {
	return n.flows.isLive(e) && evictable(n.state[e].state.Load(), n.flows.keys[e][0].Proto)
}
