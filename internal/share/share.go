// Package share divides a bounded resource among the ports of the switch, so that no port can take all of it.
//
// Half of the resource is reserved: each of the ports that are there has an equal part of it, its floor. The other half is lent. A port
// may hold more than its floor while it has borrowed less than what is left to lend (a dynamic threshold: Choudhury and Hahne, Dynamic
// Queue Length Thresholds for Shared-Memory Packet Switches, 1998). One greedy port alone gets half of what is lent, and k greedy ports
// leave 1/(k+1) of it. So every other port has its floor, and more.
//
// Ports of one tenant count as one port. Inside a tenant, a port may always hold half of its equal part of what the tenant may hold. Beyond that, it may
// hold as much as the tenant may still take. So no port of a tenant can take all.
package share

import (
	"maps"
	"sync"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// minPorts is the number of ports that floors are for at least. A switch with few ports leaves room for more.
const minPorts = 8

// A Pool counts who holds units of one resource. Take, Return and the questions take no lock, and may be called by several goroutines at
// once. The zero Pool has no units: see Divide.
type Pool struct {
	mu      sync.Mutex                    // Lock 80: Divide and Settle
	tenants map[frame.PortID]frame.PortID // as Divide got them; under mu

	units atomic.Int64
	most  atomic.Int64 // that one port, or a tenant, may hold, whatever is free; 0: no limit of that kind
	floor atomic.Int64
	left  atomic.Int64                 // of the lent half; it may be below 0 for a while, after a Divide
	held  [frame.MaxPorts]atomic.Int32 // by port

	// By tenant, which is called by one of its ports. A port without a tenant is its own.
	tenant [frame.MaxPorts]atomic.Uint32 // of a port; 0: its own
	sum    [frame.MaxPorts]atomic.Int32  // what the tenant holds
	count  [frame.MaxPorts]atomic.Int32  // ports of the tenant; 0: one
}

// Among says among whom resources are divided.
type Among struct {
	Ports   int                           // how many there are
	Tenants map[frame.PortID]frame.PortID // ports that count as one: each port of a tenant leads to the same one of its ports
}

// sharers is how many ports and tenants there are.
func (a Among) sharers() int {
	n := a.Ports
	for id, t := range a.Tenants {
		if id != t {
			n--
		}
	}
	return max(n, minPorts)
}

// Divide sets the number of units, who shares them, and how many units one port or tenant may hold whatever is free (0: any number). Ports keep what
// they hold.
func (p *Pool) Divide(units int, among Among, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	floor, sameTenants := int64(max(1, units/2/among.sharers())), maps.Equal(p.tenants, among.Tenants)
	if sameTenants && p.units.Load() == int64(units) && p.most.Load() == int64(most) && p.floor.Load() == floor {
		return
	}
	p.units.Store(int64(units))
	p.most.Store(int64(most))
	p.floor.Store(floor)
	if !sameTenants {
		p.setTenantsLocked(maps.Clone(among.Tenants))
	}
	p.settleLocked()
}

func (p *Pool) setTenantsLocked(tenants map[frame.PortID]frame.PortID) {
	p.tenants = tenants
	counts := map[frame.PortID]int32{}
	for _, t := range tenants {
		counts[t]++
	}
	for i := range p.tenant {
		p.tenant[i].Store(uint32(tenants[frame.PortID(i)]))
		p.count[i].Store(counts[frame.PortID(i)])
	}
}

func (p *Pool) tenantOf(id frame.PortID) frame.PortID {
	if t := p.tenant[id].Load(); t != 0 {
		return frame.PortID(t)
	}
	return id
}

// CopyFrom makes p what q is now.
func (p *Pool) CopyFrom(q *Pool) {
	p.units.Store(q.units.Load())
	p.most.Store(q.most.Load())
	p.floor.Store(q.floor.Load())
	p.left.Store(q.left.Load())
	for i := range p.held {
		p.held[i].Store(q.held[i].Load())
		p.tenant[i].Store(q.tenant[i].Load())
		p.sum[i].Store(q.sum[i].Load())
		p.count[i].Store(q.count[i].Load())
	}
}

// Settle counts again what is left to lend. Take and Return keep the number right, but for those that ran beside a Divide.
func (p *Pool) Settle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settleLocked()
}

func (p *Pool) settleLocked() {
	left, floor := p.units.Load()/2, p.floor.Load()
	var sums [frame.MaxPorts]int32
	for i := range p.held {
		sums[p.tenantOf(frame.PortID(i))] += p.held[i].Load()
	}
	for i := range sums {
		if p.sum[i].Load() != sums[i] { // as a rule they are equal, and workers read them
			p.sum[i].Store(sums[i])
		}
		left -= max(0, int64(sums[i])-floor)
	}
	p.left.Store(left)
}

// Take gives port id one more unit, and reports whether it may have it.
func (p *Pool) Take(id frame.PortID) bool { return p.TakeMany(id, 1) }

// TakeMany gives port id n more units, or none. It reports whether the port may have them.
func (p *Pool) TakeMany(id frame.PortID, n int) bool {
	if p.Held(id)+n > p.Most(id) {
		return false
	}
	p.ChargeMany(id, n)
	return true
}

// Charge gives port id one more unit, whether or not the port may have it.
func (p *Pool) Charge(id frame.PortID) { p.ChargeMany(id, 1) }

// ChargeMany gives port id n more units, whether or not the port may have them.
func (p *Pool) ChargeMany(id frame.PortID, n int) {
	p.held[id].Add(int32(n))
	if n := p.borrowed(int64(p.sum[p.tenantOf(id)].Add(int32(n))), n); n > 0 {
		p.left.Add(-n)
	}
}

// Return takes a unit back.
func (p *Pool) Return(id frame.PortID) { p.ReturnMany(id, 1) }

// ReturnMany takes n units back.
func (p *Pool) ReturnMany(id frame.PortID, n int) {
	p.held[id].Add(int32(-n))
	if n := p.borrowed(int64(p.sum[p.tenantOf(id)].Add(int32(-n)))+int64(n), n); n > 0 {
		p.left.Add(n)
	}
}

// borrowed is how many of the last n units of sum are above the floor.
func (p *Pool) borrowed(sum int64, n int) int64 { return min(max(0, sum-p.floor.Load()), int64(n)) }

// May reports whether port id may have one more unit. Several goroutines that ask at the same moment may take a few more.
func (p *Pool) May(id frame.PortID) bool { return p.Held(id) < p.Most(id) }

// Held is how many units port id holds.
func (p *Pool) Held(id frame.PortID) int { return int(p.held[id].Load()) }

// Most is how many units port id may hold at this moment. The number falls while others take some.
func (p *Pool) Most(id frame.PortID) int {
	t := p.tenantOf(id)
	floor, held := p.floor.Load(), int64(p.sum[t].Load())
	borrowed, most := max(0, held-floor), floor
	switch left := p.left.Load(); {
	case left <= borrowed: // no more
		most = max(floor, held)
	default:
		most = floor + (left+borrowed+1)/2
	}
	most = p.capped(most)
	if ports := int64(p.count[t].Load()); ports > 1 {
		own, free := int64(p.held[id].Load()), max(0, most-held)
		most = min(own+free, max(most/2/ports, (own+free+1)/2))
	}
	return int(most)
}

// Greatest is how many units a port may hold when nobody else has borrowed any.
func (p *Pool) Greatest() int {
	return int(p.capped(p.floor.Load() + (p.units.Load()/2+1)/2))
}

// capped is most, but no more than the absolute limit and than there are units.
func (p *Pool) capped(most int64) int64 {
	if limit := p.most.Load(); limit != 0 {
		most = min(most, limit)
	}
	return min(most, p.units.Load())
}
