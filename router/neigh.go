package router

import (
	"cmp"
	"math/rand/v2"
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
	Probe                        // used while stale: being solicited again
	Failed                       // did not answer
	Permanent                    // set by a user, or the address that belongs to a port
)

func (s NeighState) String() string {
	return [...]string{"INCOMPLETE", "REACHABLE", "STALE", "PROBE", "FAILED", "PERMANENT"}[s]
}

// Times and bounds of neighbor resolution.
const (
	reachableTime = 30 * frame.TicksPerSecond
	staleTime     = 600 * frame.TicksPerSecond // removed when unused and unconfirmed for this long
	failedTime    = 20 * frame.TicksPerSecond  // how long a failed neighbor is kept and listed
	retransTime   = 1 * frame.TicksPerSecond
	maxProbes     = 3
	maxNeighbors  = 4096    // per router
	maxOfPort     = 1024    // of these behind one port, or looked for by one
	maxUnresolved = 256     // of these without an answer
	maxIncomplete = 64      // of these still looked for: each costs a broadcast in a second
	maxQueue      = 16      // frames queued for one neighbor
	maxQueueBytes = 4 << 20 // bytes queued for all neighbors; at most an eighth of it from one port
)

type neighKey struct {
	net  frame.NetID
	addr frame.Addr
}

// neighbor is the slow path's state of a neighbor; the workers' part of it is copied to a neighTable.
type neighbor struct {
	state  NeighState
	mac    frame.MAC
	since  frame.Tick // when it was last confirmed, or became Stale, Failed or Incomplete
	next   frame.Tick // when to solicit again
	probes int
	owner  frame.PortID // charged: the port behind which the neighbor is; while that is not known, the one that looks for it
	queue  []PuntedFrame
	used   *atomic.Uint32 // 1 when a worker has used the entry
}

// A neighTable is an immutable hash table with open addressing, at most half full.
type neighTable struct {
	slots  []neighSlot
	shift  uint
	factor uint64 // of the hash: secret, so that nobody can choose addresses whose slots follow one another
}

type neighSlot struct {
	key  uint64 // net<<32 | addr; 0 for an empty slot, since no neighbor has address 0
	mac  frame.MAC
	used *atomic.Uint32
}

//uvswitch:hot
func (t *neighTable) lookup(n frame.NetID, a frame.Addr, dry bool) frame.MAC {
	if len(t.slots) == 0 {
		return 0
	}
	key := uint64(n)<<32 | uint64(a)
	mask := uint64(len(t.slots) - 1)
	for i := key * t.factor >> t.shift; ; i++ {
		s := &t.slots[i&mask]
		if s.key == key {
			if s.used.Load() == 0 && !dry {
				s.used.Store(1)
			}
			return s.mac
		}
		if s.key == 0 {
			return 0
		}
	}
}

// neighTable returns the workers' table of the neighbors with a usable MAC. The caller must hold mu.
func (r *Router) neighTable() neighTable {
	bits := uint(3)
	for 1<<bits < 2*len(r.neigh) {
		bits++
	}
	t := neighTable{slots: make([]neighSlot, 1<<bits), shift: 64 - bits, factor: rand.Uint64() | 1}
	for k, n := range r.neigh {
		if n.mac == 0 || n.state == Failed || n.state == Incomplete {
			continue
		}
		key := uint64(k.net)<<32 | uint64(k.addr)
		i := key * t.factor >> t.shift
		for t.slots[i&uint64(len(t.slots)-1)].key != 0 {
			i++
		}
		t.slots[i&uint64(len(t.slots)-1)] = neighSlot{key, n.mac, n.used}
	}
	return t
}

func (r *Router) publishNeighbors() {
	r.update(func(s *snapshot) { s.neigh = r.neighTable() })
}

// A Neighbor describes one neighbor entry.
type Neighbor struct {
	Net   frame.NetID
	Addr  frame.Addr
	MAC   frame.MAC // 0 if not known
	State NeighState
}

// Neighbors returns all entries, sorted by network and address.
func (r *Router) Neighbors() []Neighbor {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Neighbor
	for k, n := range r.neigh {
		out = append(out, Neighbor{k.net, k.addr, n.mac, n.state})
	}
	slices.SortFunc(out, func(a, b Neighbor) int {
		return cmp.Or(cmp.Compare(a.Net, b.Net), cmp.Compare(a.Addr, b.Addr))
	})
	return out
}

// SetNeighbor adds a permanent entry, or makes an entry permanent. Frames that are queued for it are released.
func (r *Router) SetNeighbor(net frame.NetID, a frame.Addr, m frame.MAC, out Output) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := neighKey{net, a}
	n := r.neigh[k]
	if n == nil {
		n = r.addNeighbor(k, Permanent, frame.NoPort)
	}
	r.become(n, Permanent)
	n.mac = m
	r.publishNeighbors()
	r.flushQueue(n, out)
}

// DeleteNeighbor removes an entry and reports whether it existed. Frames that are queued for it are dropped.
func (r *Router) DeleteNeighbor(net frame.NetID, a frame.Addr, out Output) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := neighKey{net, a}
	n := r.neigh[k]
	if n == nil {
		return false
	}
	r.dropQueue(n, out)
	r.removeNeighbor(k, n)
	r.publishNeighbors()
	return true
}

// addNeighbor makes an entry, charged to a port.
func (r *Router) addNeighbor(k neighKey, state NeighState, owner frame.PortID) *neighbor {
	n := &neighbor{state: state, owner: owner % frame.MaxPorts, used: new(atomic.Uint32)}
	r.neigh[k] = n
	r.neighborsOf[n.owner]++
	r.countState(n, 1)
	return n
}

// countState adds by to the counts of neighbors in the state of n.
func (r *Router) countState(n *neighbor, by int) {
	if n.state.unresolved() {
		r.unresolvedOf[n.owner] += by
	}
	if n.state == Incomplete {
		r.incompleteOf[n.owner] += by
	}
}

func (r *Router) removeNeighbor(k neighKey, n *neighbor) {
	delete(r.neigh, k)
	r.neighborsOf[n.owner]--
	r.countState(n, -1)
}

// become changes the state of an entry.
func (r *Router) become(n *neighbor, state NeighState) {
	r.countState(n, -1)
	n.state = state
	r.countState(n, 1)
}

func (s NeighState) unresolved() bool { return s == Incomplete || s == Failed }

// hasRoom reports whether port id may have another entry in this state. An entry of another port makes room if need be. The refusal is
// cheap: a port that scans a subnet harms itself only.
func (r *Router) hasRoom(id frame.PortID, state NeighState, out Output) bool {
	id %= frame.MaxPorts
	return r.neighborsOf[id] < maxOfPort && (!state.unresolved() || r.unresolvedOf[id] < maxUnresolved) && (len(r.neigh) < maxNeighbors || r.evict(out))
}

// learn records MAC m for a neighbor behind a port, from its ARP request or reply. create allows adding a neighbor that is not in
// the table (the Merge_flag of RFC 826).
func (r *Router) learn(k neighKey, m frame.MAC, behind frame.PortID, now frame.Tick, create bool, out Output) {
	n := r.neigh[k]
	switch {
	case n == nil && (!create || !r.hasRoom(behind, Reachable, out)):
		return
	case n == nil:
		n = r.addNeighbor(k, Incomplete, behind)
	case n.state == Permanent:
		return
	}
	changed := n.mac != m || n.state.unresolved()
	r.become(n, Reachable)
	r.neighborsOf[n.owner]--
	n.owner = behind % frame.MaxPorts
	r.neighborsOf[n.owner]++
	n.mac, n.since, n.probes = m, now, 0
	if !changed {
		return
	}
	r.publishNeighbors()
	r.flushQueue(n, out)
}

func (r *Router) flushQueue(n *neighbor, out Output) {
	for _, p := range n.queue {
		r.queuedBytes -= len(p.Raw)
		r.queuedBytesOf[p.In%frame.MaxPorts] -= len(p.Raw)
		out.Release(p)
	}
	n.queue = nil
}

// evict makes room for a neighbor and reports whether it could: it removes one failed, incomplete or stale neighbor,
// in this order.
func (r *Router) evict(out Output) bool {
	for _, want := range []NeighState{Failed, Incomplete, Stale} {
		for k, n := range r.neigh {
			if n.state != want {
				continue
			}
			r.dropQueue(n, out)
			if r.removeNeighbor(k, n); !want.unresolved() { // else no worker knows it
				r.publishNeighbors()
			}
			return true
		}
	}
	return false
}

func (r *Router) dropQueue(n *neighbor, out Output) {
	for _, p := range n.queue {
		r.queuedBytes -= len(p.Raw)
		r.queuedBytesOf[p.In%frame.MaxPorts] -= len(p.Raw)
		out.Drop(p, frame.NeighborFailed)
	}
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
		if !r.hasRoom(p.In, Failed, out) {
			out.Drop(p, frame.NeighborQueueFull)
			return
		}
		n = r.addNeighbor(k, Failed, p.In)
	}
	if n.state == Failed {
		if r.incompleteOf[n.owner] >= maxIncomplete {
			out.Drop(p, frame.NeighborQueueFull)
			return
		}
		r.become(n, Incomplete)
		n.mac, n.probes, n.since = 0, 1, now
		n.next = now + retransTime
		r.solicit(k, 0, out)
	}
	if len(n.queue) >= maxQueue || r.queuedBytes+len(p.Raw) > maxQueueBytes || r.queuedBytesOf[p.In%frame.MaxPorts]+len(p.Raw) > maxQueueBytes/8 {
		out.Drop(p, frame.NeighborQueueFull)
		return
	}
	r.queuedBytes += len(p.Raw)
	r.queuedBytesOf[p.In%frame.MaxPorts] += len(p.Raw)
	n.queue = append(n.queue, p)
}

// Tick updates the states of the neighbors and ages the path MTUs; call it about once a second.
func (r *Router) Tick(now frame.Tick, out Output) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snap.Load().pmtu.age(now)
	r.snap.Load().ways.age(now)
	r.ageAssemblies(now)
	changed := false
	for k, n := range r.neigh {
		switch n.state {
		case Reachable:
			if now-n.since > reachableTime {
				n.state, n.since = Stale, now
				n.used.Store(0)
			}
		case Stale:
			if n.used.Load() != 0 {
				n.state, n.probes, n.next = Probe, 0, now
			} else if now-n.since > staleTime {
				r.removeNeighbor(k, n)
				changed = true
			}
		case Failed:
			if now-n.since > failedTime {
				r.removeNeighbor(k, n)
			}
		}
		if (n.state == Probe || n.state == Incomplete) && now-n.next < 1<<31 {
			changed = r.probe(k, n, now, out) || changed
		}
	}
	if changed {
		r.publishNeighbors()
	}
}

// probe solicits the neighbor again, or declares it failed after maxProbes. The queued frames of a failed neighbor
// are dropped and their senders get an ICMP error.
func (r *Router) probe(k neighKey, n *neighbor, now frame.Tick, out Output) (failed bool) {
	if n.probes < maxProbes {
		n.probes++
		n.next = now + retransTime
		r.solicit(k, n.mac, out)
		return false
	}
	r.become(n, Failed)
	n.since = now
	for _, p := range n.queue {
		e := frame.NeighborFailed.Info().Error
		r.icmpError(p, e.Type, e.Code, 0, now, out)
	}
	r.dropQueue(n, out)
	return true
}
