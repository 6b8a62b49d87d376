package dataplane

import (
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A panic in a step is a fault of the switch, and a frame has found it. A container may have made that frame for this purpose. So the panic does not end
// the network of all others: the frames of the batch are dropped for internal_error, and the worker goes on.

const (
	maxPanics  = 1000                      // batches in a row: a worker that ends no batch any more gives up
	tellPanics = 10 * frame.TicksPerSecond // at most one panic is told in this time
)

// A Panic is one that a worker or the slow path has survived.
type Panic struct {
	What  string // what it says
	Stack string
	Ports []frame.PortID // whose frames were handled
}

// TellPanics makes fn hear of panics. fn must not wait: a worker calls it. It is called before Run.
func (d *Dataplane) TellPanics(fn func(Panic)) { d.tell = fn }

// panicked tells of a panic with this value.
func (d *Dataplane) panicked(what any, ports ...frame.PortID) {
	now, last := uint32(d.Now()), d.toldPanic.Load()
	if d.tell != nil && (last == 0 || now-last >= tellPanics) && d.toldPanic.CompareAndSwap(last, now) {
		d.tell(Panic{fmt.Sprint(what), string(debug.Stack()), ports})
	}
}

// survive is deferred where a batch is carried through the steps.
func (w *worker) survive(b *frame.Batch) {
	what := recover()
	if what == nil {
		return
	}
	if w.panics++; w.panics == maxPanics {
		panic(fmt.Sprintf("%d batches in a row have failed; the last one: %v\n%s", maxPanics, what, debug.Stack()))
	}
	var ports []frame.PortID
	for i := w.ended; i < b.N; i++ {
		f := &b.Frames[i]
		if ports = append(ports, f.In); f.Verdict != frame.Queued {
			w.drop(f, frame.InternalError)
		}
	}
	slices.Sort(ports)
	w.dp.panicked(what, slices.Compact(ports)...)
	defer func() { _ = recover() }() // the observer may be what has panicked
	if w.observer != nil {
		w.observer.Decided(b)
	}
}

// survive is deferred where a punted frame is handled.
func (k *slowPath) survive(rec []byte) {
	if what := recover(); what != nil {
		k.end(recordPort(rec), rec[recordLen:], frame.InternalError)
		k.dp.panicked(what, recordPort(rec))
	}
}
