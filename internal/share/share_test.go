package share

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// takeAll lets the ports take units in turn until none gets any more.
func takeAll(p *Pool, ports ...frame.PortID) {
	for more := true; more; {
		more = false
		for _, id := range ports {
			more = p.Take(id) || more
		}
	}
}

// Whatever k greedy ports hold, each other port gets its floor and, of the lent half, 1/(k+1) between them.
func TestGreedyPorts(t *testing.T) {
	const units, ports = 16000, 20
	const floor = units / 2 / ports
	for k := 1; k < ports; k++ {
		var p Pool
		p.Divide(units, Among{Ports: ports}, 0)
		var greedy []frame.PortID
		for i := range k {
			greedy = append(greedy, frame.PortID(i+1))
		}
		takeAll(&p, greedy...)
		for _, id := range greedy {
			if got, want := p.Held(id), floor+units/2/(k+1); got < want-1 || got > want+1 {
				t.Errorf("%d greedy ports: one holds %d, want %d", k, got, want)
			}
		}
		for id := frame.PortID(k + 1); id <= ports; id++ {
			for range floor {
				if !p.Take(id) {
					t.Fatalf("beside %d greedy ports, port %d has %d of its floor of %d", k, id, p.Held(id), floor)
				}
			}
		}
		if p.Take(greedy[0]) {
			t.Errorf("%d greedy ports: one gets more", k)
		}
	}
	var p Pool
	p.Divide(units, Among{Ports: ports}, 0)
	if takeAll(&p, 3); p.Held(3) != p.Greatest() {
		t.Errorf("a port alone holds %d, Greatest says %d", p.Held(3), p.Greatest())
	}
}

// Ports of one tenant hold together what one port may hold, and none of them holds all of it; other ports see one greedy port.
func TestTenants(t *testing.T) {
	const units, ports = 16000, 20
	var p, alone Pool
	p.Divide(units, Among{Ports: ports}, 0)
	alone.Divide(units, Among{Ports: ports}, 0)
	p.Divide(units, Among{Ports: ports + 2, Tenants: map[frame.PortID]frame.PortID{1: 1, 2: 1, 3: 1}}, 0)
	takeAll(&alone, 1)
	takeAll(&p, 1)
	all := alone.Held(1)
	if got := p.Held(1); got < all/2-1 || got > all/2+1 {
		t.Errorf("one greedy port of a tenant holds %d, want half of %d", got, all)
	}
	takeAll(&p, 1, 2)
	for _, id := range []frame.PortID{2, 3} {
		for p.Held(id) < all/2/3 {
			if !p.Take(id) {
				t.Fatalf("port %d has %d, not its floor of the tenant's part", id, p.Held(id))
			}
		}
	}
	takeAll(&p, 1, 2, 3)
	if sum := p.Held(1) + p.Held(2) + p.Held(3); sum > all || sum < all*3/4-3 {
		t.Errorf("the tenant holds %d, a port alone holds %d", sum, all)
	}
	takeAll(&alone, 4)
	takeAll(&p, 4)
	if got, want := p.Held(4), alone.Held(4); got < want-1 {
		t.Errorf("beside the tenant a port holds %d, beside one port %d", got, want)
	}
	// The first port of the tenant goes, and the others stay together.
	for p.Held(1) > 0 {
		p.Return(1)
	}
	p.Divide(units, Among{Ports: ports + 1, Tenants: map[frame.PortID]frame.PortID{2: 2, 3: 2}}, 0)
	takeAll(&p, 2, 3)
	if sum := p.Held(2) + p.Held(3); sum > all {
		t.Errorf("the tenant holds %d, want at most %d", sum, all)
	}
	for id := range frame.PortID(5) {
		for p.Held(id) > 0 {
			p.Return(id)
		}
	}
	p.Divide(units, Among{Ports: ports}, 0)
	p.Settle()
	if takeAll(&p, 7); p.Held(7) != p.Greatest() {
		t.Errorf("afterwards a port alone holds %d, Greatest says %d", p.Held(7), p.Greatest())
	}
}

// A limit holds whatever is free; what a Divide leaves above a share is kept, and not extended.
func TestLimits(t *testing.T) {
	var p Pool
	if p.Take(1) {
		t.Error("a pool without units gives one")
	}
	p.Divide(1000, Among{Ports: 2}, 100)
	if takeAll(&p, 1); p.Held(1) != 100 {
		t.Errorf("holds %d, the limit is 100", p.Held(1))
	}
	var ofTenant Pool
	ofTenant.Divide(1000, Among{Ports: 3, Tenants: map[frame.PortID]frame.PortID{1: 1, 2: 1}}, 100)
	takeAll(&ofTenant, 1, 2)
	if sum := ofTenant.Held(1) + ofTenant.Held(2); sum > 100 || sum < 60 {
		t.Errorf("a tenant holds %d and %d, the limit is 100", ofTenant.Held(1), ofTenant.Held(2))
	}
	p.Divide(40, Among{Ports: 2}, 0)
	if p.Take(1) || !p.Take(2) {
		t.Error("after a Divide, a port above its share gets more, or another one not its floor")
	}
	for range 100 {
		p.Return(1)
	}
	if p.Return(2); p.left.Load() != 20 {
		t.Errorf("all are returned, and %d of 20 are left to lend", p.left.Load())
	}
	p.Divide(1, Among{Ports: 1000}, 0)
	if !p.Take(7) {
		t.Error("the only unit is given to nobody")
	}
}

// Whatever order goroutines take, return and resize in: at the end the counts agree, and no more are out than there are.
func TestConcurrent(t *testing.T) {
	var p Pool
	p.Divide(1000, Among{Ports: 10}, 0)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			var mine []frame.PortID
			for range 20000 {
				if len(mine) > 0 && r.IntN(2) == 0 {
					p.Return(mine[len(mine)-1])
					mine = mine[:len(mine)-1]
				} else if id := frame.PortID(r.IntN(10)); p.Take(id) {
					mine = append(mine, id)
				}
				if r.IntN(1000) == 0 {
					p.Divide(1000, Among{Ports: 8 + r.IntN(10)}, 0)
				}
			}
			for _, id := range mine {
				p.Return(id)
			}
		})
	}
	wg.Wait()
	p.Settle()
	if p.left.Load() != 500 {
		t.Errorf("%d are left to lend, want 500", p.left.Load())
	}
}

func TestNoAllocation(t *testing.T) {
	var p Pool
	p.Divide(1000, Among{Ports: 10}, 0)
	if n := testing.AllocsPerRun(100, func() { p.Take(1); p.Return(1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
