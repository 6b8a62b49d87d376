package router

import (
	"cmp"
	"math/rand/v2"
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
	maxNeighbors  = 4096    // per router
	maxOfPort     = 1024    // of these behind one port, or looked for by one
	maxUnresolved = 256     // of these without an answer
	maxIncomplete = 64      // of these still looked for: each costs a broadcast in a second
	maxQueue      = 16      // frames queued for one neighbor
	maxQueueBytes = 4 << 20 // bytes queued for all neighbors; at most an eighth of it from one port
)

type neighKey struct {
	net  frame.NetID
	addr netip.Addr
}

// neighbor is the slow path's state of a neighbor; the workers' part of it is copied to a neighTable.
type neighbor struct {
	state    NeighState
	mac      frame.MAC
	since    frame.Tick // when it was last confirmed, or became Stale, Failed or Incomplete
	next     frame.Tick // when to solicit again
	probes   int
	isRouter bool         // the R flag of its last advertisement
	owner    frame.PortID // charged: the port behind which the neighbor is; while that is not known, the one that looks for it
	queue    []PuntedFrame
	used     *atomic.Uint32 // 1 when a worker has used the entry
}

// A neighTable is an immutable hash table with open addressing, at most half full, of the neighbors of one family.
type neighTable[A frame.Address] struct {
	slots  []neighSlot[A]
	shift  uint
	factor uint64 // of the hash: secret, so that nobody can choose addresses whose slots follow one another
}

type neighSlot[A frame.Address] struct {
	addr A
	net  frame.NetID
	mac  frame.MAC // 0 for an empty slot
	used *atomic.Uint32
}

//uvswitch:hot
func (t *neighTable[A]) first(n frame.NetID, a A) uint64 {
	key := uint64(n)
	switch a := any(a).(type) {
	case frame.Addr:
		key = key<<32 | uint64(a)
	case frame.Addr6:
		key ^= frame.Mix(a.Hi^t.factor, a.Lo^t.factor)
	}
	return key * t.factor >> t.shift
}

//uvswitch:hot
func (t *neighTable[A]) lookup(n frame.NetID, a A, dry bool) frame.MAC {
	if len(t.slots) == 0 {
		return 0
	}
	mask := uint64(len(t.slots) - 1)
	for i := t.first(n, a); ; i++ {
		s := &t.slots[i&mask]
		if s.mac == 0 {
			return 0
		}
		if s.addr == a && s.net == n {
			if s.used.Load() == 0 && !dry {
				s.used.Store(1)
			}
			return s.mac
		}
	}
}

func (t *neighTable[A]) add(k neighKey, n *neighbor) {
	a, mask := frame.Of[A](k.addr), uint64(len(t.slots)-1)
	i := t.first(k.net, a)
	for t.slots[i&mask].mac != 0 {
		i++
	}
	t.slots[i&mask] = neighSlot[A]{a, k.net, n.mac, n.used}
}

func newNeighTable[A frame.Address](size int) neighTable[A] {
	bits := uint(3)
	for 1<<bits < 2*size {
		bits++
	}
	return neighTable[A]{slots: make([]neighSlot[A], 1<<bits), shift: 64 - bits, factor: rand.Uint64() | 1}
}

// fillNeighbors gives the workers the neighbors with a usable MAC. The caller must hold mu.
func (r *Router) fillNeighbors(s *snapshot) {
	six := 0
	for k := range r.neigh {
		if k.addr.Is6() {
			six++
		}
	}
	s.neigh, s.neigh6 = newNeighTable[frame.Addr](len(r.neigh)-six), newNeighTable[frame.Addr6](six)
	for k, n := range r.neigh {
		switch {
		case n.mac == 0 || n.state == Failed || n.state == Incomplete:
		case k.addr.Is6():
			s.neigh6.add(k, n)
		default:
			s.neigh.add(k, n)
		}
	}
}

func (r *Router) publishNeighbors() { r.update(r.fillNeighbors) }

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
	n.mac = m
	r.publishNeighbors()
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
	r.moveNeighbor(n, behind)
	r.confirm(n, m, Reachable, now, out)
}

// moveNeighbor charges an entry to the port behind which the neighbor is.
func (r *Router) moveNeighbor(n *neighbor, behind frame.PortID) {
	r.countState(n, -1)
	r.neighborsOf[n.owner]--
	n.owner = behind % frame.MaxPorts
	r.neighborsOf[n.owner]++
	r.countState(n, 1)
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
		r.publishNeighbors()
		r.flushQueue(n, out)
	}
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
				n.state, n.next = Delay, now+delayTime
			} else if now-n.since > staleTime {
				r.removeNeighbor(k, n)
				changed = true
			}
		case Delay:
			if int32(now-n.next) >= 0 {
				n.state, n.probes, n.next = Probe, 0, now
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
		r.sendErrorFor(p, e, 0, now, out)
	}
	r.dropQueue(n, out)
	return true
}
