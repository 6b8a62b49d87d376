package dataplane

import (
	"sync"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/router"
	"github.com/uvswitch/uvswitch/switch"
)

const (
	housekeeping = 1 * frame.TicksPerSecond // how often tables age
	sweepBudget  = 1 << 18                  // flow entries looked at per housekeeping
	drainBudget  = 1024                     // punted frames of one worker handled per run
)

// A keeper is the housekeeper: it handles what workers punt and lets the tables age. It is the router's Output:
// what the router sends goes to a worker by its ring, so that every frame takes the same way out.
type keeper struct {
	dp *Dataplane
	counters
	wake chan struct{}

	mu   sync.Mutex // everything below, the workers' rings (this end), and calls into the router's slow path
	next frame.Tick // when housekeeping is due
	sent bool       // something was injected

	deadMu sync.Mutex // held for an append: workers take it
	dead   []frame.PortID
}

// notify asks for a run; it never waits.
func (k *keeper) notify() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// gone notes a port whose device has died.
func (k *keeper) gone(id frame.PortID) {
	k.deadMu.Lock()
	k.dead = append(k.dead, id)
	k.deadMu.Unlock()
	k.notify()
}

// run handles what was punted and, when due, lets the tables age. It returns the ports that were found dead.
func (k *keeper) run(now frame.Tick) []frame.PortID {
	k.mu.Lock()
	for _, w := range k.dp.workers {
		n := 0
		for rec := w.punts.Peek(); rec != nil && n < drainBudget; rec = w.punts.Peek() {
			p := punted(rec)
			w.punts.Release()
			k.dp.Router.Punted(p, now, k)
			n++
		}
		if n == drainBudget {
			k.notify() // the rest, after whoever waits for mu
		}
	}
	due := int32(now-k.next) >= 0
	if due {
		k.next = now + housekeeping
		k.dp.Switch.Age(now, frame.Seconds(vswitch.DefaultAgeing))
		k.dp.Router.Tick(now, k)
		k.dp.NAT.Expire(now, sweepBudget)
	}
	if k.sent {
		k.sent = false
		k.dp.workers[0].base.Wake()
	}
	k.mu.Unlock()
	k.deadMu.Lock()
	dead := k.dead
	k.dead = nil
	k.deadMu.Unlock()
	if due && k.dp.NAT.Retire() {
		k.dp.Barrier()
		k.dp.NAT.Reclaim()
	}
	return dead
}

// do calls into the router's slow path with the housekeeper as its Output.
func (k *keeper) do(fn func(router.Output)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fn(k)
	if k.sent {
		k.sent = false
		k.dp.workers[0].base.Wake()
	}
}

var noVnet [frame.VnetLen]byte

// Send is router.Output's.
func (k *keeper) Send(net frame.NetID, eth []byte) {
	k.originated.Add(1)
	gw := k.port(frame.Gateway)
	gw.rxPackets.Add(1)
	gw.rxBytes.Add(uint64(len(eth)))
	ring := k.dp.workers[0].injected
	rec := ring.Reserve(recordLen + frame.VnetLen + len(eth))
	if rec == nil {
		k.dropped(frame.Gateway, frame.InjectQueueFull)
		return
	}
	putHeader(rec, frame.Gateway, net, net, frame.None, 0, 0)
	copy(rec[recordLen:], noVnet[:])
	copy(rec[recordLen+frame.VnetLen:], eth)
	ring.Commit()
	k.sent = true
}

// Release is router.Output's.
func (k *keeper) Release(p router.Punted) {
	ring := k.dp.workers[0].injected
	rec := ring.Reserve(recordLen + len(p.Raw))
	if rec == nil {
		k.dropped(p.In, frame.InjectQueueFull)
		return
	}
	flags := uint8(recHeld)
	if p.NATed {
		flags |= recNATed
	}
	putHeader(rec, p.In, p.Net, p.Egress, frame.None, flags, p.NextHop)
	copy(rec[recordLen:], p.Raw)
	ring.Commit()
	k.sent = true
}

// Consume is router.Output's. The gateway's counts are a port's: what it sent came in from it.
func (k *keeper) Consume(p router.Punted) {
	k.consumed.Add(1)
	gw := k.port(frame.Gateway)
	gw.txPackets.Add(1)
	gw.txBytes.Add(uint64(len(p.Raw) - frame.VnetLen))
}

// Drop is router.Output's.
func (k *keeper) Drop(p router.Punted, why frame.Reason) { k.dropped(p.In, why) }
