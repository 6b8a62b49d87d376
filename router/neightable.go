package router

import (
	"math/rand/v2"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A neighTable has the MACs of the neighbors of one family, for workers: a hash table with open addressing, at most half full. The slow path
// changes it while workers read it. A slot has one neighbor as long as there is the table: mac, which is written last, says whether it is set.
type neighTable[A frame.Address] struct {
	slots  []neighSlot[A]
	shift  uint
	factor uint64 // of the hash: secret, so that nobody can choose addresses whose slots follow one another
	set    int    // slots; the slow path's
}

type neighSlot[A frame.Address] struct {
	mac  atomic.Uint64 // 0: the slot is not set
	addr A
	net  frame.NetID
	used *atomic.Uint32
}

const noMAC = 1 << 63 // of a slot whose neighbor has no MAC any more

func newNeighTable[A frame.Address](size int) *neighTable[A] {
	bits := uint(6)
	for 1<<bits < 4*size { // as many again may come before the next table
		bits++
	}
	return &neighTable[A]{slots: make([]neighSlot[A], 1<<bits), shift: 64 - bits, factor: rand.Uint64() | 1}
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

// find returns the slot of a neighbor and its MAC, or the slot that it would have, and 0.
//
//uvswitch:hot
func (t *neighTable[A]) find(n frame.NetID, a A) (*neighSlot[A], uint64) {
	mask := uint64(len(t.slots) - 1)
	for i := t.first(n, a); ; i++ {
		s := &t.slots[i&mask]
		if mac := s.mac.Load(); mac == 0 || s.addr == a && s.net == n {
			return s, mac
		}
	}
}

//uvswitch:hot
func (t *neighTable[A]) lookup(n frame.NetID, a A, dry bool) frame.MAC {
	s, mac := t.find(n, a)
	if mac == 0 || mac == noMAC {
		return 0
	}
	if s.used.Load() == 0 && !dry {
		s.used.Store(1)
	}
	return frame.MAC(mac)
}

// put sets the MAC of a neighbor; 0: workers do not know the neighbor any more. It reports whether there was room.
func (t *neighTable[A]) put(n *neighbor, mac frame.MAC) bool {
	a := frame.Of[A](n.key.addr)
	s, old := t.find(n.key.net, a)
	switch {
	case old == 0 && mac == 0:
		return true
	case old == 0 && 2*(t.set+1) > len(t.slots):
		return false
	case old == 0:
		t.set++
		s.addr, s.net, s.used = a, n.key.net, n.used
	case mac == 0:
		mac = noMAC
	}
	n.used = s.used
	s.mac.Store(uint64(mac))
	return true
}

// fillNeighbors gives the workers new tables. The caller must hold mu.
func (r *Router) fillNeighbors(s *snapshot) {
	six := 0
	for k := range r.neigh {
		if k.addr.Is6() {
			six++
		}
	}
	s.neigh, s.neigh6 = newNeighTable[frame.Addr](len(r.neigh)-six), newNeighTable[frame.Addr6](six)
	for _, n := range r.neigh {
		s.put(n)
	}
}

func (s *snapshot) put(n *neighbor) bool {
	mac := n.mac
	if n.state.unresolved() {
		mac = 0
	}
	if n.key.addr.Is6() {
		return s.neigh6.put(n, mac)
	}
	return s.neigh.put(n, mac)
}

// tellWorkers makes the workers see the MAC that an entry has now. The caller must hold mu.
func (r *Router) tellWorkers(n *neighbor) {
	if !r.dry && !r.snap.Load().put(n) {
		r.update(r.fillNeighbors)
	}
}
