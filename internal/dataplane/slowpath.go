package dataplane

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/ring"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

const (
	maintenanceTime = 1 * frame.TicksPerSecond // how often tables age
	sweepBudget     = 1 << 18                  // flow entries visited per maintenance,
	sweepSlice      = 1 << 14                  // in slices, so that ARP and pings are answered meanwhile
	drainBudget     = 1024                     // punted frames of each worker handled per run
)

// The slowPath handles what workers punt, and ages the tables. It may allocate. It is the router's Output: a frame that the router
// sends goes to a worker by a queue, so that every frame takes the same way out.
type slowPath struct {
	dp *Dataplane
	counters
	wake   chan struct{}
	passes atomic.Uint64 // calls of process that have ended

	mu          sync.Mutex      // Lock 60: everything below, the workers' queues (this end), and calls into the router's slow path
	next        frame.Tick      // when maintenance is due
	parked      parkedFragments // fragments
	earlyDropAt frame.Tick      // when flows may be dropped early again
	sweep       int             // flow entries still to be visited
	sent        []bool          // something was injected, by worker
	cause       frame.PortID    // whose frame is handled; NoPort: none is
	recent      recent
	observer    Observer // nil, as a rule

	deadMu sync.Mutex // Lock 90: held for an append; workers take it
	dead   []frame.PortID
}

// notify asks for a run. It never waits.
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

func (k *slowPath) addPort(id frame.PortID) {
	k.mu.Lock()
	k.recent.addPort(id)
	k.mu.Unlock()
}

func (k *slowPath) removePort(id frame.PortID) {
	k.mu.Lock()
	k.parked.forget(k, id)
	k.recent.removePort(id)
	k.mu.Unlock()
}

// process handles the punted frames and, once a second, ages the tables. It returns the ports whose device has died.
func (k *slowPath) process(now frame.Tick) []frame.PortID {
	k.mu.Lock()
	if k.drain(now) {
		k.notify() // the rest, after those that wait for mu
	}
	due := int32(now-k.next) >= 0
	if k.parked.n.Load() > 0 && (due || k.hasRoomWanted() || k.dp.NAT.FragmentsArrived()) {
		k.parked.check(k, now, due)
	}
	if k.hasRoomWanted() { // the worker has taken everything meanwhile, and sleeps
		k.notify()
	}
	if due {
		k.next = now + maintenanceTime
		k.dp.Switch.Age(now, frame.Seconds(vswitch.DefaultAgeing))
		k.dp.Router.Tick(now, k)
		k.sweep = min(sweepBudget, k.dp.NAT.Capacity())
		k.dp.NAT.EndQuarantine(now)
		k.dp.NAT.ForgetAddrs(now)
		k.dp.NAT.SettleShares()
		k.dp.Router.SettleShares()
		k.parked.shares.Settle()
		for _, w := range k.dp.workers {
			for _, q := range w.queues() {
				q.Shares.Settle()
			}
		}
		k.dp.NAT.AgeFragments(now)
	}
	many := false
	if k.sweep > 0 {
		many = k.dp.NAT.Expire(now, min(k.sweep, sweepSlice)) > 0
		if k.sweep -= sweepSlice; k.sweep > 0 {
			k.notify()
		}
	}
	pressed := false
	if k.dp.NAT.NearFull() && int32(now-k.earlyDropAt) >= 0 {
		pressed = k.dp.NAT.EarlyDrop() > 0
		if k.earlyDropAt = now + 1; !pressed {
			k.earlyDropAt = now + maintenanceTime/2 // it walks the table: not again at once when it found nothing
		}
	}
	k.wakeWorkers()
	k.mu.Unlock()
	k.deadMu.Lock()
	dead := k.dead
	k.dead = nil
	k.deadMu.Unlock()
	if (due || pressed || many || k.dp.NAT.ManyEnded()) && k.dp.NAT.Retire() {
		k.dp.Barrier()
		k.dp.NAT.Reclaim()
	}
	k.passes.Add(1)
	return dead
}

// drain handles punted frames: a few of each worker in turn, and before these the first frames of each port in this Tick, of all workers. So
// a port that floods keeps nobody's ARP waiting. It reports whether some may be left.
func (k *slowPath) drain(now frame.Tick) (left bool) {
	for n := 0; n < drainBudget; n += quietFrames {
		left = false
		for _, w := range k.dp.workers {
			for _, each := range k.dp.workers {
				k.take(each.quiet, math.MaxInt, now)
			}
			if k.take(w.punts, quietFrames, now) {
				left = true
			}
		}
		if !left {
			return false
		}
	}
	return true
}

// take handles at most n frames of a queue, and reports whether there were so many.
func (k *slowPath) take(q *ring.Shared, n int, now frame.Tick) bool {
	for ; n > 0; n-- {
		rec := q.Peek()
		if rec == nil {
			return false
		}
		k.handle(rec, now)
		q.Release()
	}
	return true
}

// handle takes one punted frame: it is parked, tried again, or the router's.
func (k *slowPath) handle(rec []byte, now frame.Tick) {
	defer k.survive(rec)
	k.cause = recordPort(rec)
	defer func() { k.cause = frame.NoPort }()
	switch recordWhy(rec).Punt() {
	case frame.Park:
		k.parked.add(k, rec, now)
	case frame.Redo: // two workers created one flow at once: it exists by now; or it needs another source
		p := puntedFrame(rec)
		switch recordPoint(rec) {
		case atNewSource:
			if !p.NextHop.IsValid() {
				p.NextHop = k.dp.NAT.AskSource(p.Raw)
			}
			if p.Why = k.dp.NAT.UseAddr(p.NextHop); p.Why.Punt() == frame.Reject {
				k.dp.Router.HandlePunt(p, now, k) // the sender is told
				return
			} else if p.Why != frame.None {
				k.end(p.In, p.Raw, p.Why)
				return
			}
		case atUplink:
			if k.dp.learnWay == nil || !k.dp.learnWay(p.In, p.Raw) {
				k.end(p.In, p.Raw, frame.PuntRateLimited)
				return
			}
		}
		k.inject(hopOf(&p), recordPoint(rec), p.Raw)
	default:
		k.dp.Router.HandlePunt(puntedFrame(rec), now, k)
	}
}

// call runs fn with the slow path as the router's Output.
func (k *slowPath) call(fn func(router.Output)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fn(k)
	k.wakeWorkers()
}

// Send implements router.Output.
func (k *slowPath) Send(net frame.NetID, eth []byte) {
	k.originated.Add(1)
	gw := k.port(frame.Gateway)
	gw.rxPackets.Add(1)
	gw.rxBytes.Add(uint64(len(eth)))
	k.inject(hop{in: frame.Gateway, net: net, egress: net}, atOriginated, append(make([]byte, frame.VnetLen, frame.VnetLen+len(eth)), eth...))
}

// Release implements router.Output.
func (k *slowPath) Release(p router.PuntedFrame) {
	at := atResolve
	if p.NATed {
		at = atResolveTranslated
	}
	k.inject(hopOf(&p), at, p.Raw)
}

// Reroute implements router.Output.
func (k *slowPath) Reroute(p router.PuntedFrame, raw []byte) {
	k.originated.Add(1)
	k.inject(hop{in: p.In, net: p.Net}, atPreRouting, raw)
}

// injectTo chooses the worker that takes a frame: frames of one port, or to one station, keep their order.
func (k *slowPath) injectTo(in frame.PortID, raw []byte) int {
	n := int(in)
	if in == frame.Gateway {
		n = int(raw[frame.VnetLen+5]) // of the destination MAC
	}
	return n % len(k.dp.workers)
}

// wakeWorkers wakes the workers to which something was injected.
func (k *slowPath) wakeWorkers() {
	for i, sent := range k.sent {
		if sent {
			k.sent[i] = false
			k.dp.workers[i].poller.Wake()
		}
	}
}

// inject passes a frame to a worker, or drops it. An answer of the gateway is in the share of the port that asked.
func (k *slowPath) inject(h hop, at resumePoint, raw []byte) {
	holder := h.in
	if holder == frame.Gateway {
		holder = k.cause
	}
	to := k.injectTo(h.in, raw)
	rec := k.dp.workers[to].injected.Reserve(holder, recordLen+len(raw))
	if rec == nil {
		k.end(h.in, raw, frame.InjectQueueFull)
		return
	}
	putHeader(rec, h, frame.None, at)
	copy(rec[recordLen:], raw)
	k.dp.workers[to].injected.Commit()
	k.sent[to] = true
}

// injectRecord passes the frame of a punted record to a worker, if there is room. Otherwise the worker tells when its queue is empty.
func (k *slowPath) injectRecord(rec []byte) bool {
	in := recordPort(rec)
	to := k.injectTo(in, rec[recordLen:])
	w := k.dp.workers[to]
	again := w.injected.Reserve(in, len(rec))
	if again == nil {
		w.roomWanted.Store(true)
		return false
	}
	copy(again, rec)
	w.injected.Commit()
	k.sent[to] = true
	return true
}

// hasRoomWanted reports whether a worker has room that parked fragments wait for.
func (k *slowPath) hasRoomWanted() bool {
	return slices.ContainsFunc(k.dp.workers, (*worker).hasRoomWanted)
}

// clearWanted reports whether parked fragments waited for room in a queue. No queue is marked afterwards.
func (k *slowPath) clearWanted() (wanted bool) {
	for _, w := range k.dp.workers {
		wanted = w.roomWanted.Swap(false) || wanted
	}
	return wanted
}

// Consume implements router.Output. The gateway is counted like a port: it received this frame.
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

// end drops a frame. raw has its virtio-net header.
func (k *slowPath) end(in frame.PortID, raw []byte, why frame.Reason) {
	k.dropped(in, frame.NoPort, why)
	k.recent.add(k.dp.Now(), in, frame.NoPort, why, len(raw)-frame.VnetLen, raw[frame.VnetLen:])
	if k.observer != nil {
		k.observer.SlowPathDone(End{in, raw, why})
	}
}
