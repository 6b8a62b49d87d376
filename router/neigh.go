package router

import (
	"cmp"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// NeighState is the state of a neighbor, by the names of `ip neigh`.
type NeighState uint8

const (
	Incomplete NeighState = iota // solicited, no answer yet
	Reachable                    // confirmed within reachableTime
	Stale                        // known, but not confirmed lately
	Delay                        // used while stale: solicited again soon, unless it is confirmed before
	Probe                        // being solicited again
	Failed                       // did not answer
	Permanent                    // set by a user, or the address that belongs to a port
)

func (s NeighState) String() string {
	return [...]string{"INCOMPLETE", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "PERMANENT"}[s]
}

// Times and bounds of neighbor resolution.
const (
	reachableTime = 30 * frame.TicksPerSecond
	staleTime     = 600 * frame.TicksPerSecond // removed when unused and unconfirmed for this long
	failedTime    = 20 * frame.TicksPerSecond  // how long a failed neighbor is kept and listed
	delayTime     = 5 * frame.TicksPerSecond   // RFC 4861, 10: DELAY_FIRST_PROBE_TIME
	retransTime   = 1 * frame.TicksPerSecond
	maxProbes     = 3
	maxNeighbors  = 4096    // per router, without those that are Permanent; ports share them
	maxOfPort     = 1024    // of these behind one port, or looked for by one
	evictedPart   = 8       // a port that needs room loses at least this part of its entries at once, so that it rarely looks for some
	maxUnresolved = 256     // of these without an answer
	maxIncomplete = 64      // of these still looked for: each costs a broadcast in a second
	maxQueue      = 16      // frames queued for one neighbor
	maxQueueBytes = 4 << 20 // bytes queued for all neighbors; at most an eighth of it from one port
)

type neighKey struct {
	net  frame.NetID
	addr netip.Addr
}

// neighbor is the slow path's state of a neighbor. What workers need of it is in a neighTable.
type neighbor struct {
	key      neighKey
	state    NeighState
	mac      frame.MAC
	since    frame.Tick // when it was last confirmed, or became Stale, Failed or Incomplete
	next     frame.Tick // when to solicit again
	probes   int
	isRouter bool         // the R flag of its last advertisement
	owner    frame.PortID // charged: the port behind which the neighbor is; while that is not known, the one that looks for it; NoPort: nobody
	queue    []PuntedFrame
	used     *atomic.Uint32 // 1 when a worker has used the entry; it belongs to the slot
}

// Station returns the MAC of the station of a network that has an IPv4 address, as far as a neighbor is known; else 0. It takes no lock.
func (r *Router) Station(net frame.NetID, a netip.Addr) frame.MAC {
	return r.snap.Load().neigh.lookup(net, frame.AddrFrom(a), true)
}

// A Neighbor describes one neighbor entry.
type Neighbor struct {
	Net   frame.NetID
	Addr  netip.Addr
	MAC   frame.MAC // 0 if not known
	State NeighState

	IsRouter bool // it has said that it is a router (IPv6)
}

// Neighbors returns all entries, sorted by network and address.
func (r *Router) Neighbors() []Neighbor {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Neighbor
	for k, n := range r.neigh {
		out = append(out, Neighbor{k.net, k.addr, n.mac, n.state, n.isRouter})
	}
	slices.SortFunc(out, func(a, b Neighbor) int {
		return cmp.Or(cmp.Compare(a.Net, b.Net), a.Addr.Compare(b.Addr))
	})
	return out
}

// SetNeighbor adds a permanent entry, or makes an entry permanent. Frames that are queued for it are released.
func (r *Router) SetNeighbor(net frame.NetID, a netip.Addr, m frame.MAC, out Output) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := neighKey{net, a}
	n := r.neigh[k]
	if n == nil {
		n = r.addNeighbor(k, Permanent, frame.NoPort)
	}
	r.become(n, Permanent)
	r.charge(n, frame.NoPort)
	n.mac = m
	r.tellWorkers(n)
	r.flushQueue(n, out)
}

// DeleteNeighbor removes an entry and reports whether it existed. Frames that are queued for it are dropped.
func (r *Router) DeleteNeighbor(net frame.NetID, a netip.Addr, out Output) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := neighKey{net, a}
	n := r.neigh[k]
	if n == nil {
		return false
	}
	r.dropQueue(n, out)
	r.removeNeighbor(n)
	return true
}

// addNeighbor makes an entry, charged to a port that has room for it.
func (r *Router) addNeighbor(k neighKey, state NeighState, owner frame.PortID) *neighbor {
	n := &neighbor{key: k, state: state, owner: frame.NoPort, used: new(atomic.Uint32)}
	r.neigh[k] = n
	r.charge(n, owner)
	return n
}

// charge makes a port pay for an entry, if it has room for it; NoPort: nobody pays.
func (r *Router) charge(n *neighbor, owner frame.PortID) {
	if owner == n.owner || owner != frame.NoPort && !r.shares.neighbors.Take(owner%frame.MaxPorts) {
		return
	}
	r.countState(n, -1)
	if n.owner != frame.NoPort {
		r.shares.neighbors.Return(n.owner)
	}
	if n.owner = owner; owner != frame.NoPort {
		n.owner %= frame.MaxPorts
	}
	r.countState(n, 1)
}

// countState adds by to the counts of neighbors in the state of n.
func (r *Router) countState(n *neighbor, by int) {
	if n.owner == frame.NoPort {
		return
	}
	if n.state.unresolved() {
		r.unresolvedOf[n.owner] += by
	}
	if n.state == Incomplete {
		r.incompleteOf[n.owner] += by
	}
}

// removeNeighbor removes an entry, from the workers' table too.
func (r *Router) removeNeighbor(n *neighbor) {
	delete(r.neigh, n.key)
	r.charge(n, frame.NoPort)
	n.mac = 0
	r.tellWorkers(n)
}

// become changes the state of an entry.
func (r *Router) become(n *neighbor, state NeighState) {
	r.countState(n, -1)
	n.state = state
	r.countState(n, 1)
}

func (s NeighState) unresolved() bool { return s == Incomplete || s == Failed }

// hasRoom reports whether port id may have another entry in this state. If need be, entries of its own make room. A refusal is cheap: a port
// that scans a subnet harms itself only.
func (r *Router) hasRoom(id frame.PortID, state NeighState, now frame.Tick, out Output) bool {
	id %= frame.MaxPorts
	if state.unresolved() && r.unresolvedOf[id] >= maxUnresolved {
		return false
	}
	return r.shares.neighbors.May(id) || r.evict(id, now, out)
}

// evict removes entries of a port, those first that are worth least: failed ones, then stale ones, the oldest first. It looks for them at most
// once in a Tick. It reports whether the port has room then.
func (r *Router) evict(id frame.PortID, now frame.Tick, out Output) bool {
	if r.evictedAt[id] == now {
		return false
	}
	r.evictedAt[id] = now
	var list []*neighbor
	for _, n := range r.neigh {
		if n.owner == id && (n.state == Failed || n.state == Stale) {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b *neighbor) int { // Failed has the greater number
		return cmp.Or(cmp.Compare(b.state, a.state), cmp.Compare(a.used.Load(), b.used.Load()), cmp.Compare(now-b.since, now-a.since))
	})
	part := r.shares.neighbors.Held(id) / evictedPart
	for i, n := range list {
		if i > part && r.shares.neighbors.May(id) {
			break
		}
		r.dropQueue(n, out)
		r.removeNeighbor(n)
	}
	return r.shares.neighbors.May(id)
}

// learn records MAC m for a neighbor behind a port, from its ARP request or reply. create allows adding a neighbor that is not in
// the table (the Merge_flag of RFC 826).
func (r *Router) learn(k neighKey, m frame.MAC, behind frame.PortID, now frame.Tick, create bool, out Output) {
	n := r.neigh[k]
	switch {
	case n == nil && (!create || !r.hasRoom(behind, Reachable, now, out)):
		return
	case n == nil:
		n = r.addNeighbor(k, Incomplete, behind)
	case n.state == Permanent:
		return
	}
	r.charge(n, behind)
	r.confirm(n, m, Reachable, now, out)
}

func (r *Router) flushQueue(n *neighbor, out Output) {
	for _, p := range n.queue {
		r.shares.queue.ReturnMany(p.In%frame.MaxPorts, len(p.Raw))
		out.Release(p)
	}
	r.queued.Add(int64(-len(n.queue)))
	n.queue = nil
}

// confirm makes the entry of a neighbor what it has just said of itself: its MAC, and whether that is confirmed.
func (r *Router) confirm(n *neighbor, m frame.MAC, state NeighState, now frame.Tick, out Output) {
	changed := n.mac != m || n.state.unresolved()
	r.become(n, state)
	n.mac, n.since, n.probes = m, now, 0
	if state == Stale {
		n.used.Store(0)
	}
	if changed {
		r.tellWorkers(n)
		r.flushQueue(n, out)
	}
}

func (r *Router) dropQueue(n *neighbor, out Output) {
	for _, p := range n.queue {
		r.shares.queue.ReturnMany(p.In%frame.MaxPorts, len(p.Raw))
		out.Drop(p, frame.NeighborFailed)
	}
	r.queued.Add(int64(-len(n.queue)))
	n.queue = nil
}

// enqueue queues a frame until its neighbor is known, and solicits the neighbor.
func (r *Router) enqueue(p PuntedFrame, now frame.Tick, out Output) {
	k := neighKey{p.Egress, p.NextHop}
	n := r.neigh[k]
	if n != nil && n.mac != 0 && n.state != Failed && n.state != Incomplete {
		out.Release(p) // the neighbor answered before the frame arrived here
		return
	}
	if n == nil {
		if !r.hasRoom(p.In, Failed, now, out) {
			out.Drop(p, frame.NeighborQueueFull)
			return
		}
		n = r.addNeighbor(k, Failed, p.In)
	}
	if n.state == Failed {
		in := p.In % frame.MaxPorts
		if in != n.owner && r.unresolvedOf[in] < maxUnresolved {
			r.charge(n, in) // whoever looks for it pays
		}
		if in != n.owner || r.incompleteOf[n.owner] >= maxIncomplete {
			out.Drop(p, frame.NeighborQueueFull)
			return
		}
		r.become(n, Incomplete)
		n.mac, n.probes, n.since = 0, 1, now
		n.next = now + retransTime
		r.solicit(k, 0, out)
	}
	if !r.shares.queue.TakeMany(p.In%frame.MaxPorts, len(p.Raw)) {
		out.Drop(p, frame.NeighborQueueFull)
		return
	}
	n.queue = append(n.queue, p)
	r.queued.Add(1)
	if len(n.queue) > maxQueue {
		old := n.oldestOfMany()
		r.shares.queue.ReturnMany(n.queue[old].In%frame.MaxPorts, len(n.queue[old].Raw))
		out.Drop(n.queue[old], frame.NeighborQueueFull)
		n.queue = slices.Delete(n.queue, old, old+1)
		r.queued.Add(-1)
	}
}

// oldestOfMany returns the index of the frame that goes when the queue overflows: the oldest (RFC 4861, 7.2.2; RFC 1122, 2.3.2.2) of the port
// that has the most frames there, so that no port pushes out the frames of one that has fewer.
func (n *neighbor) oldestOfMany() (oldest int) {
	most := 0
	for i, p := range n.queue {
		count := 0
		for _, q := range n.queue[i:] {
			if q.In == p.In {
				count++
			}
		}
		if count > most {
			oldest, most = i, count
		}
	}
	return oldest
}

// Tick updates the states of the neighbors and ages the path MTUs; call it about once a second.
func (r *Router) Tick(now frame.Tick, out Output) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snap.Load().pmtu.age(now)
	r.snap.Load().ways.age(now)
	r.ageAssemblies(now, out)
	r.advertise(now, out)
	for _, n := range r.neigh {
		switch n.state {
		case Reachable:
			if now-n.since > reachableTime {
				n.state, n.since = Stale, now
				n.used.Store(0)
			}
		case Stale:
			if n.used.Load() != 0 {
				n.state, n.next = Delay, now+delayTime
			} else if now-n.since > staleTime {
				r.removeNeighbor(n)
			}
		case Delay:
			if int32(now-n.next) >= 0 {
				n.state, n.probes, n.next = Probe, 0, now
			}
		case Failed:
			if now-n.since > failedTime {
				r.removeNeighbor(n)
			}
		}
		if (n.state == Probe || n.state == Incomplete) && now-n.next < 1<<31 {
			r.probe(n, now, out)
		}
	}
}

// probe solicits the neighbor again, or declares it failed after maxProbes. The queued frames of a failed neighbor
// are dropped and their senders get an ICMP error.
func (r *Router) probe(n *neighbor, now frame.Tick, out Output) {
	if n.probes < maxProbes {
		n.probes++
		n.next = now + retransTime
		r.solicit(n.key, n.mac, out)
		return
	}
	r.become(n, Failed)
	n.since = now
	r.tellWorkers(n)
	for _, p := range n.queue {
		e := frame.NeighborFailed.Info().Error
		r.sendErrorFor(p, e, 0, now, out)
	}
	r.dropQueue(n, out)
}
