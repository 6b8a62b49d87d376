package nat

import (
	"slices"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/share"
)

// evictable reports whether a flow in this state may be evicted to make room: it is closing, or not assured, as Linux's conntrack names a
// flow in which both ends have taken part. Else whoever sends SYNs from addresses that are not his own could fill a container's share.
//
//uvswitch:hot
func evictable(state uint32, proto uint8) bool {
	if state&assured == 0 {
		return true
	}
	s := tcpState(state & stateMask)
	return proto == frame.TCP && (s == tcpTimeWait || s == tcpClose || s == tcpLastAck)
}

const (
	evictStretch   = uint32(512) // entries looked at before checking whether that made room
	evictStretches = uint32(16)  // stretches in one call, at most
	evictEnough    = 16          // flows ended in one stretch, at most
)

// looseFlows remember up to 64 flows of one port that were evictable when noted, so that a port need not search the whole table for its
// own. A flow is noted when it begins and when it closes. They are hints: each is checked before use.
type looseFlows struct {
	in, out atomic.Uint32
	entries [64]atomic.Uint32
}

// noteLoose adds entry e, unless the place is that of another one that may still be evicted.
func (n *tracker[A]) noteLoose(e uint32) {
	port := n.state[e].port
	l := &n.loose[protoIndex(n.flows.keys[e][0].Proto)+1][port]
	at := &l.entries[l.in.Add(1)%uint32(len(l.entries))]
	if old := at.Load(); old == 0 || !n.isEvictable(old) || n.state[old].port != port {
		at.Store(e)
	}
}

// evictLoose ends loose flows of port asks, and reports whether that made room in class i.
func (n *tracker[A]) evictLoose(l *looseFlows, i int, asks frame.PortID, dry bool) (freed bool) {
	for ended, looks := 0, 0; looks < len(l.entries) && ended < evictEnough; looks++ {
		at := &l.entries[l.out.Add(1)%uint32(len(l.entries))]
		e := at.Load()
		if e == 0 {
			continue
		}
		did, frees := n.evict(e, i, asks, dry)
		if dry && frees {
			return true
		}
		if did {
			ended++
			freed = freed || frees
		}
		if did || !n.isEvictable(e) || n.state[e].port != asks {
			at.CompareAndSwap(e, 0)
		}
	}
	return freed
}

// evictFor makes room for port asks and reports whether it did: it frees outside ports of protocol i or, with classAny or classServed,
// flows. It ends evictable flows of port asks only: a port that exhausts a resource loses its own flows. An outside port freed by ending
// another port's flow would have to stay in quarantine first. It looks at the port's loose flows; if that frees nothing, it walks the flow
// table in stretches. A dry call ends nothing.
func (n *tracker[A]) evictFor(i int, asks frame.PortID, dry bool) bool {
	mark := n.flows.highWater()
	if mark <= 1 {
		return false
	}
	first, last := i+1, i+1
	if i < 0 {
		first, last = 0, protocols
	}
	for k := first; k <= last; k++ {
		if n.evictLoose(&n.loose[k][asks], i, asks, dry) {
			return true
		}
	}
	failedAt, now := &n.triedAt[i-classServed][asks], n.now.Load()
	if now != 0 && failedAt.Load() == now {
		return false // a walk has already failed in this Tick
	}
	cursor, freed := n.cursor.Load(), false
	for range min(evictStretches, (mark-1)/evictStretch+1) {
		if cursor += evictStretch; !dry {
			cursor = n.cursor.Add(evictStretch)
		}
		ended := 0
		for k := range min(evictStretch, mark-1) {
			if ended == evictEnough {
				break
			}
			did, frees := n.evict(1+(cursor+k)%(mark-1), i, asks, dry)
			if dry && frees {
				return true
			}
			if did {
				ended++
				freed = freed || frees
			}
		}
		if freed {
			return true
		}
	}
	if !dry {
		failedAt.Store(now)
	}
	return false
}

// evict ends flow e if port asks may lose it to make room in class i, and reports whether it did, and whether that frees something. A dry
// call ends nothing.
func (n *tracker[A]) evict(e uint32, i int, asks frame.PortID, dry bool) (did, frees bool) {
	s := &n.state[e]
	if !n.isEvictable(e) || s.port != asks {
		return false, false
	}
	shares := s.state.Load()&overloadsPort != 0
	switch i {
	case classAny:
		frees = true
	case classServed:
		if frees = s.state.Load()&servedFlow != 0; !frees {
			return false, false
		}
	default:
		if s.mapping == 0 && !shares || protoIndex(n.flows.keys[e][0].Proto) != i {
			return false, false
		}
		frees = shares || n.lastUser(s.mapping)
	}
	if did = !dry && n.end(e, evicted); did {
		n.evictedAt[asks].Store(n.now.Load())
	}
	return did, frees && (dry || did)
}

// displaces reports whether new flows of a port take the place of its older ones in this Tick.
func (n *tracker[A]) displaces(port frame.PortID) bool {
	now := n.now.Load()
	return now != 0 && n.evictedAt[port].Load() == now
}

// mayBeFreeSoon reports whether a SYN for which there is no outside port is dropped in silence: in the first second of a shortage of its
// port. When its sender sends it again, another connection may have ended. After that second, the sender is told.
func (n *tracker[A]) mayBeFreeSoon(in frame.PortID, b *frame.Batch) bool {
	if int(in) >= len(n.refused) {
		return false
	}
	r, now := &n.refused[in], uint32(b.Tick)
	first := r.first.Load()
	if int32(now-r.last.Load()) > 2*frame.TicksPerSecond { // a new shortage
		first = now
	}
	if !b.Dry {
		r.first.Store(first)
		r.last.Store(now)
	}
	return int32(now-first) < frame.TicksPerSecond
}

// lastUser reports whether m is a mapping that ends with one of its users, or a permission with which its mapping
// ends.
func (n *tracker[A]) lastUser(m uint32) bool {
	s := &n.mappings[m]
	return s.refs.Load() == 1 && (s.parent == 0 || n.lastUser(s.parent))
}

// Classes of flows for evictFor, besides the indices of protocols.
const (
	classAny    = -1
	classServed = -2 // flows that began elsewhere
)

// NearFull reports whether the flow table is more than 15/16 full: the slow path should call EarlyDrop soon.
//
//uvswitch:hot
func (n *NAT) NearFull() bool { return n.nearFull() || n.six.nearFull() }

//uvswitch:hot
func (n *tracker[A]) nearFull() bool {
	return n.flows.used.Load() > int64(n.flows.limit()-n.flows.limit()/16)
}

// ManyEnded reports whether entries that have ended take room from new ones: the slow path should reclaim them soon.
//
//uvswitch:hot
func (n *NAT) ManyEnded() bool { return n.manyEnded() || n.six.manyEnded() }

//uvswitch:hot
func (n *tracker[A]) manyEnded() bool {
	return n.flows.manyEnded() || n.maps.manyEnded() || n.reclaimSoon.Load() != 0
}

// hasGraceRoom reports whether a port may have a new flow, as far as its entries in their grace period are concerned: they, too, take room
// that others need.
func (n *tracker[A]) hasGraceRoom(d *pendingFlow[A], dry bool) bool {
	room := func(p *share.Pool) bool {
		if d.status&servedFlow != 0 {
			return p.Held(d.port) < mostServed(p, d.port)
		}
		return p.May(d.port)
	}
	if room(&n.endedFlows) && room(&n.endedMaps) {
		return true
	}
	if !dry {
		n.reclaimSoon.Store(1)
	}
	return false
}

// EarlyDrop keeps room in the flow table. When the table is more than 15/16 full, it ends evictable flows until the
// table is 7/8 full: first those of the port that has most of them, then those of the next. It returns how many flows
// it ended. The slow path calls it.
func (n *NAT) EarlyDrop() (removed int) { return n.earlyDrop() + n.six.earlyDrop() }

func (n *tracker[A]) earlyDrop() (removed int) {
	if !n.nearFull() {
		return 0
	}
	var loose [frame.MaxPorts]int // evictable flows by port
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
			return removed // other callers have ended them meanwhile
		}
	}
}

// isEvictable reports whether entry e is a live flow that may be evicted.
func (n *tracker[A]) isEvictable(e uint32) bool {
	return n.flows.isLive(e) && evictable(n.state[e].state.Load(), n.flows.keys[e][0].Proto)
}
