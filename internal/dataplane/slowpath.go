package dataplane

import (
	"sync"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/router"
	"github.com/uvswitch/uvswitch/switch"
)

const (
	housekeeping = 1 * frame.TicksPerSecond // how often tables age
	sweepBudget  = 1 << 18                  // flow entries looked at per housekeeping,
	sweepSlice   = 1 << 14                  // in slices, so that ARP and pings are answered meanwhile
	drainBudget  = 1024                     // punted frames of one worker handled per run
)

// A keeper is the housekeeper: it handles what workers punt and lets the tables age. It is the router's Output:
// what the router sends goes to a worker by its ring, so that every frame takes the same way out.
type slowPath struct {
	dp *Dataplane
	counters
	wake chan struct{}

	mu          sync.Mutex      // everything below, the workers' rings (this end), and calls into the router's slow path
	next        frame.Tick      // when housekeeping is due
	parked      parkedFragments // fragments
	earlyDropAt frame.Tick      // when the flow table may be eased again
	sweep       int             // flow entries still to be looked at
	sent        bool            // something was injected
	recent      recent
	observer    Observer // nil, as a rule

	deadMu sync.Mutex // held for an append: workers take it
	dead   []frame.PortID
}

// notify asks for a run; it never waits.
func (k *slowPath) notify() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// gone notes a port whose device has died.
func (k *slowPath) gone(id frame.PortID) {
	k.deadMu.Lock()
	k.dead = append(k.dead, id)
	k.deadMu.Unlock()
	k.notify()
}

// run handles what was punted and, when due, lets the tables age. It returns the ports that were found dead.
func (k *slowPath) process(now frame.Tick) []frame.PortID {
	k.mu.Lock()
	for _, w := range k.dp.workers {
		n := 0
		for rec := w.punts.Peek(); rec != nil && n < drainBudget; rec = w.punts.Peek() {
			k.handle(rec, now)
			w.punts.Release()
			n++
		}
		if n == drainBudget {
			k.notify() // the rest, after whoever waits for mu
		}
	}
	due := int32(now-k.next) >= 0
	if len(k.parked.held) > 0 && (due || k.parked.dirty || k.dp.NAT.FragmentsArrived()) {
		k.parked.check(k, now)
	}
	if due {
		k.next = now + housekeeping
		k.dp.Switch.Age(now, frame.Seconds(vswitch.DefaultAgeing))
		k.dp.Router.Tick(now, k)
		k.sweep = min(sweepBudget, k.dp.NAT.Capacity())
		k.dp.NAT.EndQuarantine(now)
		k.dp.NAT.AgeFragments(now)
	}
	if k.sweep > 0 {
		k.dp.NAT.Expire(now, min(k.sweep, sweepSlice))
		if k.sweep -= sweepSlice; k.sweep > 0 {
			k.notify()
		}
	}
	pressed := false
	if k.dp.NAT.NearFull() && int32(now-k.earlyDropAt) >= 0 {
		pressed = k.dp.NAT.EarlyDrop() > 0
		if k.earlyDropAt = now + 1; !pressed {
			k.earlyDropAt = now + housekeeping/2 // it walks the table: not for nothing again and again
		}
	}
	if k.sent {
		k.sent = false
		k.dp.workers[0].poller.Wake()
	}
	k.mu.Unlock()
	k.deadMu.Lock()
	dead := k.dead
	k.dead = nil
	k.deadMu.Unlock()
	if (due || pressed) && k.dp.NAT.Retire() {
		k.dp.Barrier()
		k.dp.NAT.Reclaim()
	}
	return dead
}

// handle takes up one punted frame: it waits, or is tried again, or is the router's.
func (k *slowPath) handle(rec []byte, now frame.Tick) {
	switch recordWhy(rec) {
	case frame.FragmentWaits:
		k.parked.add(k, rec, now)
	case frame.FlowBusy: // two workers made one flow at once: it stands by now
		p := punted(rec)
		k.inject(p.In, p.Net, p.Egress, rec[7], p.NextHop, p.Raw)
	default:
		k.dp.Router.HandlePunt(punted(rec), now, k)
	}
}

// do calls into the router's slow path with the housekeeper as its Output.
func (k *slowPath) call(fn func(router.Output)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fn(k)
	if k.sent {
		k.sent = false
		k.dp.workers[0].poller.Wake()
	}
}

// Send implements router.Output.
func (k *slowPath) Send(net frame.NetID, eth []byte) {
	k.originated.Add(1)
	gw := k.port(frame.Gateway)
	gw.rxPackets.Add(1)
	gw.rxBytes.Add(uint64(len(eth)))
	k.inject(frame.Gateway, net, net, 0, 0, append(make([]byte, frame.VnetLen, frame.VnetLen+len(eth)), eth...))
}

// Release implements router.Output.
func (k *slowPath) Release(p router.PuntedFrame) {
	flags := uint8(recResolve)
	if p.NATed {
		flags |= recNATed
	}
	k.inject(p.In, p.Net, p.Egress, flags, p.NextHop, p.Raw)
}

// Reroute implements router.Output.
func (k *slowPath) Reroute(p router.PuntedFrame, raw []byte) {
	k.originated.Add(1)
	k.inject(p.In, p.Net, frame.NoNet, recPre, 0, raw)
}

// inject hands a frame to a worker.
func (k *slowPath) inject(in frame.PortID, net, egress frame.NetID, flags uint8, hop frame.Addr, raw []byte) {
	ring := k.dp.workers[0].injected
	rec := ring.Reserve(recordLen + len(raw))
	if rec == nil {
		k.end(in, raw, frame.InjectQueueFull)
		return
	}
	putHeader(rec, in, net, egress, frame.None, flags, hop)
	copy(rec[recordLen:], raw)
	ring.Commit()
	k.sent = true
}

// Consume implements router.Output. The gateway's counts are a port's: what it sent came in from it.
func (k *slowPath) Consume(p router.PuntedFrame) {
	k.consumed.Add(1)
	gw := k.port(frame.Gateway)
	gw.txPackets.Add(1)
	gw.txBytes.Add(uint64(len(p.Raw) - frame.VnetLen))
	if k.observer != nil {
		k.observer.SlowPathDone(End{p.In, p.Raw, frame.None})
	}
}

// Drop implements router.Output.
func (k *slowPath) Drop(p router.PuntedFrame, why frame.Reason) { k.end(p.In, p.Raw, why) }

// end drops a frame, with its virtio-net header.
func (k *slowPath) end(in frame.PortID, raw []byte, why frame.Reason) {
	k.dropped(in, frame.NoPort, why)
	k.recent.add(k.dp.Now(), in, frame.NoPort, why, len(raw)-frame.VnetLen, raw[frame.VnetLen:])
	if k.observer != nil {
		k.observer.SlowPathDone(End{in, raw, why})
	}
}
