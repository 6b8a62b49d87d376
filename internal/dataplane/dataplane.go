package dataplane

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/share"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// A Dataplane is the stages, and the workers that run them.
type Dataplane struct {
	Switch *vswitch.Switch
	Router *router.Router
	NAT    *nat.NAT

	clock   func() int64
	workers []*worker
	slow    slowPath

	learnWay func(in frame.PortID, raw []byte) bool // see SetLearnWay

	tell      func(Panic) // see TellPanics
	toldPanic atomic.Uint32

	mu      sync.Mutex // Lock 55: ports that are added and removed
	readers map[frame.PortID]int
	rated   map[frame.PortID]bool         // ports with a rate for what is received
	uplink  frame.PortID                  // NoPort without one
	spare   func() bool                   // see Balance; nil: ports stay where they are
	tenants map[frame.PortID]frame.PortID // see SetTenants; under mu
	also    []func(share.Among)           // see DivideAlso
}

// New makes a data plane with one worker per Poller. clock returns the nanoseconds since the start of the switch plus one tick, so that
// no tick is 0. Every worker reads it once per batch.
func New(n *nat.NAT, clock func() int64, pollers ...Poller) *Dataplane {
	d := &Dataplane{
		Switch: vswitch.New(), Router: router.New(), NAT: n, clock: clock, readers: map[frame.PortID]int{}, rated: map[frame.PortID]bool{}, uplink: frame.NoPort,
	}
	d.slow.dp, d.slow.cause = d, frame.NoPort
	d.slow.wake = make(chan struct{}, 1)
	d.slow.sent = make([]bool, len(pollers))
	for _, p := range pollers {
		d.workers = append(d.workers, newWorker(d, p))
	}
	for _, c := range d.all() {
		c.ports[frame.NoPort].Store(&portCounters{}) // the gateway's
	}
	return d
}

// Workers is how many workers there are.
func (d *Dataplane) Workers() int { return len(d.workers) }

// SetLearnWay sets what tells the uplink's programs the way of a frame that came back for frame.WayUnknown, and reports whether it did. The slow
// path calls it.
func (d *Dataplane) SetLearnWay(learn func(in frame.PortID, raw []byte) bool) { d.learnWay = learn }

// Now reads the dataplane's clock.
func (d *Dataplane) Now() frame.Tick { return frame.TickAt(d.clock()) }

// Balance makes the workers share the ports by load: see balance.go. spare reports whether a CPU has nothing to do. It is called before ports
// are added. Without it, the worker with the fewest ports reads a port.
func (d *Dataplane) Balance(spare func() bool) { d.spare = spare }

// AddPort connects port p to the wire c. One worker reads the wire; every worker may write to it. On an error nothing remains.
func (d *Dataplane) AddPort(p vswitch.Port, c frame.Conn) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, taken := d.readers[p.ID]; taken || p.ID == frame.NoPort || p.ID >= frame.MaxPorts {
		return fmt.Errorf("dataplane: port id %d is taken or out of range", p.ID)
	}
	device, _ := c.(frame.Offerer)
	if device != nil {
		if _, counts := device.Offered(); !counts {
			device = nil
		}
	}
	for _, s := range d.all() {
		s.ports[p.ID].Store(&portCounters{device: device})
	}
	joining := p
	joining.Flags |= vswitch.Joining
	d.Switch.SetPort(joining)
	reader := 0
	if d.spare == nil {
		reader = d.idlest()
	}
	if d.readers[p.ID] = reader; p.Net == frame.NoNet {
		d.uplink = p.ID
	}
	d.divide()
	d.slow.addPort(p.ID)
	for i, w := range d.workers {
		var err error
		read := frame.NotRead
		switch {
		case i == reader && p.Net == frame.NoNet:
			read = frame.ReadUplink
		case i == reader:
			read = frame.ReadPort
		}
		w.run(func() { err = w.addPort(p.ID, c, read) })
		if err != nil {
			d.removePort(p.ID)
			return fmt.Errorf("dataplane: adding port %d: %w", p.ID, err)
		}
	}
	d.Switch.SetPort(p)
	return nil
}

// idlest is the worker that reads the fewest ports.
func (d *Dataplane) idlest() int {
	load := make([]int, len(d.workers))
	for _, w := range d.readers {
		load[w]++
	}
	best := 0
	for i := range load {
		if load[i] < load[best] {
			best = i
		}
	}
	return best
}

// RemovePort disconnects a port. When it returns, no worker uses the port's Conn.
func (d *Dataplane) RemovePort(id frame.PortID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removePort(id)
}

// Settle returns when no frame of a port that forwards no more goes on: each worker has ended its batch, and what waits elsewhere will be dropped.
func (d *Dataplane) Settle(id frame.PortID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.workers {
		w.run(func() {})
	}
	d.slow.mu.Lock()
	d.slow.parked.forget(&d.slow, id)
	d.slow.mu.Unlock()
}

func (d *Dataplane) removePort(id frame.PortID) {
	for _, w := range d.workers {
		w.run(func() { w.removePort(id) })
	}
	d.Switch.DeletePort(id)
	d.slow.removePort(id)
	delete(d.readers, id)
	delete(d.rated, id)
	if d.uplink == id {
		d.uplink = frame.NoPort
	}
	d.divide()
	for _, s := range d.all() {
		s.ports[id].Store(nil)
	}
}

// SetTenants sets which ports count as one where resources are divided: see share.Among.
func (d *Dataplane) SetTenants(tenants map[frame.PortID]frame.PortID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tenants = tenants
	d.divide()
}

func (d *Dataplane) divide() {
	among := share.Among{Ports: len(d.readers), Tenants: d.tenants}
	d.NAT.DivideAmong(among)
	d.Router.DivideAmong(among)
	d.slow.parked.shares.Divide(maxWaitBytes, among, maxWaitBytes/8)
	for _, w := range d.workers {
		for _, q := range w.queues() {
			q.Divide(among)
		}
	}
	for _, fn := range d.also {
		fn(among)
	}
}

// DivideAlso calls fn with those who share resources: now, and again each time that they change.
func (d *Dataplane) DivideAlso(fn func(share.Among)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.also = append(d.also, fn)
	d.divide()
}

// Barrier returns when every worker has passed a batch boundary: no worker uses what was unlinked before.
func (d *Dataplane) Barrier() {
	for _, w := range d.workers {
		w.run(func() {})
	}
}

// Alive returns when every worker and the slow path have made progress, while Run runs. It does not queue for the slow path's lock.
func (d *Dataplane) Alive() {
	d.Barrier()
	passes := d.slow.passes.Load()
	for d.slow.notify(); d.slow.passes.Load() == passes; {
		time.Sleep(time.Millisecond)
	}
}

// WithSlowPath calls fn with the slow path as the router's Output.
func (d *Dataplane) WithSlowPath(fn func(router.Output)) { d.slow.call(fn) }

// Run runs the workers and the slow path until ctx is done. It calls gone for each port whose device has died.
func (d *Dataplane) Run(ctx context.Context, gone func(frame.PortID)) error {
	var stop atomic.Bool
	var wg sync.WaitGroup
	errs := make(chan error, len(d.workers))
	for _, w := range d.workers {
		w.mu.Lock()
		w.running = true
		w.mu.Unlock()
	}
	for _, w := range d.workers {
		wg.Go(func() {
			runtime.LockOSThread()
			errs <- w.loop(&stop)
		})
	}
	balanced, stopBalance := context.WithCancel(ctx)
	defer stopBalance()
	if d.spare != nil && len(d.workers) > 1 {
		wg.Go(func() { d.balance(balanced) })
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var err error
	for ctx.Err() == nil && err == nil {
		select {
		case <-ctx.Done():
		case err = <-errs:
		case <-tick.C:
		case <-d.slow.wake:
		}
		for _, id := range d.slow.process(d.Now()) {
			gone(id)
		}
	}
	stop.Store(true)
	stopBalance()
	for _, w := range d.workers {
		w.poller.Wake()
	}
	wg.Wait()
	return err
}

// Step processes what is waiting, without goroutines: every worker reads one batch, then the slow path runs. It is for tests in virtual
// time, whose Pollers never wait.
func (d *Dataplane) Step() error {
	for _, w := range d.workers {
		if err := w.round(); err != nil {
			return err
		}
	}
	d.slow.process(d.Now())
	return nil
}

// SetRate limits what the switch receives from port id (rx) and what it sends to it (tx). A Rate of 0 bits is no limit.
func (d *Dataplane) SetRate(id frame.PortID, rx, tx Rate) {
	d.mu.Lock()
	defer d.mu.Unlock()
	in, out := newBucket(rx), newBucket(tx)
	d.rated[id] = in != nil
	for i, w := range d.workers {
		from := in
		if i != d.readers[id] { // this worker does not read the port
			from = nil
		}
		w.run(func() { w.limit(id, from, out) })
	}
}
