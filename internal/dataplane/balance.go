package dataplane

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// The workers share the ports by load. One worker reads all ports as long as it can: what a receiver answers is then read in the worker's
// next round, without a wake-up. A worker that has no time left while a CPU is spare gives ports to the worker that has most time. When there
// is little to do, the first worker reads all ports again.
//
// A port moves between two batches, so none of its frames is lost. They keep their order, but for those that still wait in the old worker: for
// a receiver with a rate, for a slow receiver, or for the slow path.
const (
	balanceEvery = 100 * time.Millisecond
	fullLoad     = 85 // percent of a CPU: more is too much for one worker
	lightLoad    = 30 // percent of a CPU, of all workers together: one worker can do that
	lightFor     = 10 * time.Second
	muchBetter   = 90  // percent: a move must leave at most this part of the load of the busier worker
	quietPackets = 100 // of all ports in an interval: nothing moves
	yieldTries   = 1000
)

// A load is what was done in an interval: by a worker, CPU time in percent of the interval; by a port, any measure that is the same for all.
type load struct {
	percent int
	ports   []portLoad
}

type portLoad struct {
	id    frame.PortID
	cost  uint64
	stays bool // the port cannot move
}

// A move gives ports to another worker.
type move struct {
	ports    []frame.PortID
	from, to int
}

// A balancer decides which ports move. It is told of each interval.
type balancer struct {
	light time.Duration // for how long there has been little to do
}

// decide returns the next move; ok is false if nothing should move. spare says that a CPU has nothing to do.
func (b *balancer) decide(workers []load, spare bool, interval time.Duration) (m move, ok bool) {
	all, busiest, idlest := 0, 0, 0
	for i, w := range workers {
		all += w.percent
		if w.percent > workers[busiest].percent {
			busiest = i
		}
		if w.percent < workers[idlest].percent {
			idlest = i
		}
	}
	if b.light += interval; all >= lightLoad {
		b.light = 0
	}
	switch {
	case b.light >= lightFor:
		for i, w := range workers[1:] {
			m = move{from: i + 1, to: 0}
			for _, p := range w.ports {
				if !p.stays {
					m.ports = append(m.ports, p.id)
				}
			}
			if len(m.ports) > 0 {
				return m, true
			}
		}
	case workers[busiest].percent >= fullLoad && spare && busiest != idlest:
		return lighten(workers, busiest, idlest)
	}
	return m, false
}

// lighten moves the port that makes the two workers most alike.
func lighten(workers []load, from, to int) (m move, ok bool) {
	sum := func(w load) (n uint64) {
		for _, p := range w.ports {
			n += p.cost
		}
		return n
	}
	here, there := sum(workers[from]), sum(workers[to])
	movable := slices.DeleteFunc(slices.Clone(workers[from].ports), func(p portLoad) bool { return p.stays })
	if len(movable) == 0 || here == 0 {
		return m, false
	}
	after := func(p portLoad) uint64 { return max(here-p.cost, there+p.cost) }
	best := slices.MinFunc(movable, func(p, q portLoad) int { return cmp.Compare(after(p), after(q)) })
	if after(best)*100 > here*muchBetter {
		return m, false
	}
	return move{[]frame.PortID{best.id}, from, to}, true
}

// balance moves ports between workers until ctx is done.
func (d *Dataplane) balance(ctx context.Context) {
	var b balancer
	m := meter{cpu: make([]int64, len(d.workers)), cost: map[frame.PortID]uint64{}}
	tick := time.NewTicker(balanceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		loads, interval := d.measure(&m)
		if move, ok := b.decide(loads, d.spare(), interval); ok {
			d.move(move)
		}
	}
}

// A meter is what the workers and ports had done by the end of the last interval.
type meter struct {
	at      int64 // ns of the data plane's clock
	packets uint64
	cpu     []int64 // ns, by worker; 0: not known
	cost    map[frame.PortID]uint64
}

// measure returns what was done since the last call, and how long that was. While the ports are quiet, no worker is woken for it.
func (d *Dataplane) measure(m *meter) (loads []load, interval time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock()
	interval = time.Duration(now - m.at)
	m.at = now
	loads = make([]load, len(d.workers))
	packets := uint64(0)
	for id, w := range d.readers {
		cost, n := uint64(0), uint64(0)
		for _, s := range d.all() {
			if p := s.ports[id].Load(); p != nil {
				n += p.rxPackets.Load()
				cost += p.rxBytes.Load() + frameCost*p.rxPackets.Load()
			}
		}
		packets += n
		loads[w].ports = append(loads[w].ports, portLoad{id, cost - min(cost, m.cost[id]), d.stays(id)})
		m.cost[id] = cost
	}
	for id := range m.cost {
		if _, there := d.readers[id]; !there {
			delete(m.cost, id)
		}
	}
	quiet := packets-min(packets, m.packets) < quietPackets
	m.packets = packets
	for i, w := range d.workers {
		if quiet { // the workers sleep, or nearly so
			m.cpu[i] = 0
			continue
		}
		var cpu int64
		w.run(func() { cpu = w.poller.CPUTime() })
		if loads[i].percent = int(100 * (cpu - m.cpu[i]) / max(1, int64(interval))); m.cpu[i] == 0 {
			loads[i].percent = 0 // not known yet
		}
		m.cpu[i] = cpu
	}
	return loads, interval
}

// stays reports whether a port cannot move: the uplink, and a port with a rate, since its frames wait for their time in its worker.
func (d *Dataplane) stays(id frame.PortID) bool { return id == d.uplink || d.rated[id] }

// move gives ports to another worker.
func (d *Dataplane) move(m move) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range m.ports {
		if at, there := d.readers[id]; !there || at != m.from || d.stays(id) {
			continue
		}
		from, to := d.workers[m.from], d.workers[m.to]
		yielded := false
		var owes storm
		for range yieldTries {
			from.run(func() {
				from.turns.forget(id)
				if yielded = from.poller.Yield(id); yielded {
					owes = from.storms[id].owes()
					from.storms[id] = storm{}
				}
			})
			if yielded {
				break
			}
		}
		if !yielded { // the worker ends
			return
		}
		var err error
		to.run(func() {
			to.storms[id] = owes
			err = to.poller.Take(id, frame.ReadPort)
		})
		if d.readers[id] = m.to; err != nil {
			d.slow.gone(id) // its device has gone meanwhile
		}
	}
}
