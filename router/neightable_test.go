package router

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Nobody can foresee which addresses share a slot.
func TestNeighborTablesHaveSecrets(t *testing.T) {
	if a, b := newNeighTable[frame.Addr](8), newNeighTable[frame.Addr](8); a.factor == b.factor {
		t.Errorf("two tables have the factor %x", a.factor)
	}
}

func neighborAt(n int, six bool) *neighbor {
	a := netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
	if six {
		a = netip.AddrFrom16([16]byte{0xfd, 14: byte(n >> 8), 15: byte(n)})
	}
	return &neighbor{key: neighKey{frame.NetID(n % 3), a}, state: Reachable, owner: frame.NoPort, used: new(atomic.Uint32)}
}

// Workers find what a map would say, whatever is put, changed and taken away; other workers read meanwhile and see only MACs that the neighbor has had.
func TestNeighTable(t *testing.T) {
	for _, six := range []bool{false, true} {
		r := New()
		rng := rand.New(rand.NewPCG(1, 2))
		var stop atomic.Bool
		var readers sync.WaitGroup
		lookup := func(k neighKey) frame.MAC {
			if six {
				return r.snap.Load().neigh6.lookup(k.net, frame.Of[frame.Addr6](k.addr), false)
			}
			return r.snap.Load().neigh.lookup(k.net, frame.Of[frame.Addr](k.addr), false)
		}
		readers.Go(func() {
			for n := 0; !stop.Load(); n = (n + 1) % 2000 {
				if mac := lookup(neighborAt(n, six).key); mac != 0 && int(mac>>8)&0xffff != n {
					t.Errorf("neighbor %d has the MAC %s", n, mac)
					return
				}
			}
		})
		for range 50_000 {
			i := rng.IntN(2000)
			n := r.neigh[neighborAt(i, six).key]
			switch {
			case n == nil:
				n = neighborAt(i, six)
				r.neigh[n.key] = n
				fallthrough
			case rng.IntN(3) > 0:
				n.mac = frame.MAC(0x02<<40 | i<<8 | rng.IntN(256))
				r.tellWorkers(n)
			default:
				r.removeNeighbor(n)
			}
			if n = r.neigh[n.key]; n != nil && lookup(n.key) != n.mac || n != nil && n.used.Load() == 0 {
				t.Fatalf("%v is %s, and the workers find %s (used %d)", n.key, n.mac, lookup(n.key), n.used.Load())
			}
		}
		stop.Store(true)
		readers.Wait()
		for i := range 2000 {
			k, want := neighborAt(i, six).key, frame.MAC(0)
			if n := r.neigh[k]; n != nil {
				want = n.mac
			}
			if got := lookup(k); got != want {
				t.Errorf("%v is %s, and the workers find %s", k, want, got)
			}
		}
	}
}

// A station that changes its MAC with each frame makes no new table: that would cost as much as there are neighbors.
func TestNeighborsChangeInPlace(t *testing.T) {
	r := New()
	for i := range 1000 {
		n := neighborAt(i, false)
		n.mac = 1
		r.neigh[n.key] = n
		r.tellWorkers(n)
	}
	n, before := r.neigh[neighborAt(7, false).key], r.snap.Load()
	allocs := testing.AllocsPerRun(1000, func() {
		n.mac++
		r.tellWorkers(n)
		n.state = Failed
		r.tellWorkers(n)
		n.state = Reachable
		r.tellWorkers(n)
	})
	if r.snap.Load() != before || allocs != 0 {
		t.Errorf("a new table, or %v allocations", allocs)
	}
}
