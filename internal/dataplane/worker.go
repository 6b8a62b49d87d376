package dataplane

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/ring"
)

const (
	puntBytes   = 1 << 20 // of the queues to the slow path,
	quietBytes  = 1 << 18
	injectBytes = 1 << 20 // and from it
	bufBytes    = 256 << 10
)

// A worker reads frames and carries each to its end. It never waits for another worker. It shares with others the stages' tables,
// two queues of its own to and from the slow path, and its mailbox.
type worker struct {
	dp     *Dataplane
	poller Poller
	batch  frame.Batch
	flood  [frame.MaxPorts]frame.PortID
	tally  tally
	gro    frame.GRO
	// By port: see Conn.GSOMaxSize. Written between two batches.
	gsoMax [frame.MaxPorts]struct{ tcp, udp int32 }
	counters
	origin   origin // of the batch that is being processed
	ended    int    // frames of that batch that have come to their end
	panics   int    // batches in a row that ended in a panic
	recent   recent
	observer Observer // nil, as a rule

	quiet   *ring.Shared             // to the slow path: the first frames of each port in a Tick, which it takes first
	punts   *ring.Shared             // likewise, all others
	puntsOf [frame.MaxPorts]struct { // what a port has punted in this Tick
		tick          frame.Tick
		frames, bytes int32
	}
	punted     bool       // in this batch
	nearFullAt frame.Tick // when the flow table was last seen filling
	shaper     shaper
	storms     [frame.MaxPorts]storm
	storming   stormCount
	turns      turns
	haste      haste
	uplink     frame.PortID // NoPort if another worker reads it
	injected   *ring.Shared // from the slow path
	roomWanted atomic.Bool  // see slowPath.injectRecord
	buf        []byte       // records of the reinjected batch, until the next one
	piece      []byte       // a fragment that is about to be sent
	pieceFrame frame.Frame  // likewise, as a frame

	pendingCalls atomic.Int32 // functions in mailbox
	mu           sync.Mutex   // Lock 58
	running      bool
	mailbox      []func()
}

func newWorker(d *Dataplane, p Poller) *worker {
	return &worker{
		dp: d, poller: p, quiet: ring.NewShared(quietBytes), punts: ring.NewShared(puntBytes), injected: ring.NewShared(injectBytes),
		buf: make([]byte, bufBytes), piece: make([]byte, frame.VnetLen+frame.MaxFrame), shaper: newShaper(p.Wake),
	}
}

// round reads one batch and carries it to its end, by the steps in pipeline.go.
//
//uvswitch:hot
func (w *worker) round() error {
	b := &w.batch
	b.N, b.Bulk, b.Locals, b.Failed, b.Gone = 0, 0, 0, nil, nil
	if err := w.poller.Poll(b); err != nil {
		return err
	}
	now := w.dp.clock()
	b.Tick, w.shaper.now = frame.TickAt(now), now
	for i := range b.Frames[:b.N] {
		w.tally.received(&b.Frames[i])
	}
	w.settle(now)
	w.process(b, received)
	b.Took, b.Scarce = w.dp.clock()-now, w.turns.oneIn[loud] > oneInOne
	w.charge(b, now)
	w.hasten(now)
	if w.reinject(b) {
		w.process(b, reinjected)
	}
	w.shaper.setAlarm(w.turns.nextResume())
	w.tally.flush(&w.counters)
	for i := range b.Failed {
		f := &b.Failed[i]
		w.counters.failed(f)
		w.recent.add(b.Tick, f.In, f.Port, f.Reason, int(f.Bytes), f.Head())
	}
	if w.punted || w.wantsSlowPath() {
		w.punted = false
		w.dp.slow.notify()
	}
	if len(b.Gone) > 0 {
		w.reportGone(b)
	}
	if w.pendingCalls.Load() != 0 {
		w.runMailbox()
	}
	return nil
}

// wantsSlowPath reports whether the slow path has something to do before its time: the flow table fills (once per Tick), entries
// that have ended take its room, or parked fragments may continue.
//
//uvswitch:hot
func (w *worker) wantsSlowPath() bool {
	if t := w.batch.Tick; t != w.nearFullAt && w.dp.NAT.NearFull() {
		w.nearFullAt = t
		return true
	}
	return w.dp.NAT.ManyEnded() || w.hasRoomWanted() || w.dp.slow.parked.n.Load() > 0 && w.dp.NAT.FragmentsArrived()
}

// hasRoomWanted reports whether parked fragments wait for room in the queue from the slow path, and it is empty.
//
//uvswitch:hot
func (w *worker) hasRoomWanted() bool { return w.roomWanted.Load() && w.injected.Empty() }

// serve has the gateways answer what they can answer at once. Captures show questions and answers, which then are two frames: see slowPath.
//
//uvswitch:hot
func (w *worker) serve(b *frame.Batch) {
	if w.observer == nil {
		w.dp.Router.Serve(b)
	}
}

// coalesce joins frames of one flow that go to one port.
//
//uvswitch:hot
func (w *worker) coalesce(b *frame.Batch) {
	if b.N < 2 {
		return
	}
	w.gro.Begin()
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.ToPort {
			continue
		}
		longest := w.gsoMax[f.Out].tcp
		if f.Proto == frame.UDP {
			longest = w.gsoMax[f.Out].udp
		}
		switch what, older := w.gro.Add(f, int(longest)); what {
		case frame.Merged:
			f.Verdict = frame.Coalesced
		case frame.Supersedes:
			older.DropFor(frame.AckSuperseded)
		}
	}
}

// transmit does what each frame's verdict says, and ends the frame for this worker.
//
//uvswitch:hot
func (w *worker) transmit(b *frame.Batch) {
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		w.ended = i
		switch f.Verdict {
		case frame.ToPort:
			w.ended++ // it is counted as sent before it is sent
			if f.Flags&frame.Cut != 0 {
				w.sendPieces(f)
			} else {
				w.send(f.Out, f)
			}
		case frame.Coalesced:
			w.tally.sent(f.Out, f.Len())
		case frame.Flood:
			w.ended++
			w.floodFrame(f)
		case frame.Punt:
			w.punt(f, &b.To[i])
		case frame.Queued:
		default:
			w.drop(f, f.Reason)
		}
		if f.Flags&frame.Displaces != 0 && f.Verdict == frame.ToPort {
			w.refused(f)
		}
	}
	w.ended = b.N
	if w.observer != nil {
		w.observer.Decided(b)
	}
}

// observe shows a parsed batch to the observer.
//
//uvswitch:hot
func (w *worker) observe(b *frame.Batch) {
	if w.observer != nil {
		w.observer.Received(b, w.origin == reinjected)
	}
}

// drop ends a frame.
//
//uvswitch:hot
func (w *worker) drop(f *frame.Frame, why frame.Reason) {
	f.DropFor(why)
	out := frame.NoPort
	if why == frame.TxRateExceeded {
		out = f.Out
	}
	w.counters.dropped(f.In, out, why)
	if isRefusal(why) {
		w.refused(f)
	}
	w.recent.add(w.batch.Tick, f.In, out, why, f.Len(), f.Bytes())
}

//uvswitch:hot
func (w *worker) send(id frame.PortID, f *frame.Frame) {
	w.tally.sent(id, f.Len())
	w.poller.Send(id, f)
}

// sendPieces sends a packet that is too long for its way in fragments. A Poller writes frames outside its own buffers at once, so that
// one buffer does for all.
func (w *worker) sendPieces(f *frame.Frame) {
	pieces, ok := frame.NewPieces(f, w.dp.Router.MTUFor(f))
	if !ok {
		w.drop(f, frame.FragmentationNeeded)
		return
	}
	n := 0
	for raw := pieces.Next(w.piece); raw != nil; raw = pieces.Next(w.piece) {
		w.pieceFrame.Reset(raw, f.In)
		w.pieceFrame.Slot = f.Slot // for observers, it is the packet
		w.send(f.Out, &w.pieceFrame)
		n++
	}
	w.tally.extra += uint64(n - 1)
}

// floodFrame sends one frame to every port that takes it; nothing is copied here.
//
//uvswitch:hot
func (w *worker) floodFrame(f *frame.Frame) {
	n := w.dp.Switch.FloodSet(f, w.flood[:])
	if f.Flags&frame.Injected == 0 && !w.storms[f.In%frame.MaxPorts].take(f, w.shaper.now, w.dp.Switch.StormLimit(f), n, &w.storming) {
		w.drop(f, frame.StormLimited)
		return
	}
	w.storming.copies += int64(n)
	for _, id := range w.flood[:n] {
		w.shaper.charge(id, f)
		w.send(id, f)
	}
	if f.ToGateway {
		f.Reason = frame.GatewayService
		w.punt(f, &noWay)
		f.Verdict = frame.Flood // whatever became of the gateway's copy
		n++
	}
	if n == 0 {
		w.drop(f, frame.NoEgress)
		return
	}
	w.tally.extra += uint64(n - 1)
}

// punt copies a frame for the slow path, which counts what becomes of it.
//
//uvswitch:hot
func (w *worker) punt(f *frame.Frame, way *frame.Way6) {
	if !w.mayPunt(f) {
		w.drop(f, frame.PuntRateLimited)
		return
	}
	to, n := w.quiet, recordLen+len(f.Raw())
	var rec []byte
	if w.isQuiet(f) {
		rec = to.Reserve(f.In, n)
	}
	if rec == nil {
		to = w.punts
		rec = to.Reserve(f.In, n)
	}
	if rec == nil {
		w.drop(f, frame.PuntQueueFull)
		return
	}
	putRecord(rec, f, way)
	to.Commit()
	w.punted = true
	w.refused(f)
}

// noWay is for frames that the router has not seen.
var noWay frame.Way6

// mayPunt limits what a port punts in each Tick: the slow path is one goroutine, which has limits of its own behind that.
//
//uvswitch:hot
func (w *worker) mayPunt(f *frame.Frame) bool {
	p := &w.puntsOf[f.In%frame.MaxPorts]
	if p.tick != w.batch.Tick {
		p.tick, p.frames, p.bytes = w.batch.Tick, 0, 0
	}
	p.frames++
	p.bytes += int32(len(f.Raw()))
	most := int32(puntBytes / 4)
	if f.Net == frame.NoNet {
		most *= 2
	}
	return p.bytes <= most && p.frames <= most/recordSpace
}

// quietFrames are how many frames of a port in a Tick have a queue of their own, and quietLength how long these may be together: what a port that
// floods sends does not keep the ARP and the pings of others waiting.
const quietFrames, quietLength = 16, 4096

// isQuiet reports whether a frame is one of the first of its port in this Tick. mayPunt has counted it.
//
//uvswitch:hot
func (w *worker) isQuiet(f *frame.Frame) bool {
	p := &w.puntsOf[f.In%frame.MaxPorts]
	return p.frames <= quietFrames && p.bytes <= quietLength
}

// recordSpace is what a small record takes of the queue, in bytes.
const recordSpace = 256

func (w *worker) reportGone(b *frame.Batch) {
	for _, id := range b.Gone {
		w.dp.slow.gone(id)
	}
}

// queues are those to and from the slow path.
func (w *worker) queues() [3]*ring.Shared { return [...]*ring.Shared{w.quiet, w.punts, w.injected} }

// limit sets the rates of a port. The workers share one bucket for each direction; nil means no limit.
func (w *worker) limit(id frame.PortID, rx, tx *bucket) {
	w.shaper.limit(id, rx, tx)
	w.poller.Wake()
}

func (w *worker) addPort(id frame.PortID, c frame.Conn, read frame.Reading) error {
	w.gsoMax[id].tcp, w.gsoMax[id].udp = int32(c.GSOMaxSize(frame.TCP)), int32(c.GSOMaxSize(frame.UDP))
	if read == frame.ReadUplink {
		w.uplink = id
	}
	w.recent.addPort(id)
	return w.poller.Add(id, c, read)
}

func (w *worker) removePort(id frame.PortID) {
	w.gsoMax[id].tcp, w.gsoMax[id].udp = 0, 0
	w.turns.forget(id)
	w.storms[id] = storm{}
	if w.uplink == id {
		w.uplink = frame.NoPort
		w.turns.forget(frame.Bulk)
	}
	w.limit(id, nil, nil) // releases its queued frames, which are dropped because the port is gone
	w.poller.Remove(id)
	w.recent.removePort(id)
}

// run runs fn on the worker between two batches and waits for it; at once, when the worker is not running.
func (w *worker) run(fn func()) {
	w.mu.Lock()
	if !w.running {
		defer w.mu.Unlock()
		fn()
		return
	}
	done := make(chan struct{})
	var failed any
	w.mailbox = append(w.mailbox, func() {
		defer close(done)
		defer func() {
			if failed = recover(); failed != nil { // the caller's, not the worker's
				failed = fmt.Sprintf("%v\n%s", failed, debug.Stack())
			}
		}()
		fn()
	})
	w.pendingCalls.Add(1)
	w.mu.Unlock()
	w.poller.Wake()
	if <-done; failed != nil {
		panic(failed)
	}
}

func (w *worker) runMailbox() {
	w.mu.Lock()
	box := w.mailbox
	w.mailbox = nil
	w.pendingCalls.Store(0)
	w.mu.Unlock()
	for _, fn := range box {
		fn()
	}
}

// loop reads until stop is set, then finishes its mailbox and closes its Poller.
func (w *worker) loop(stop *atomic.Bool) error {
	var err error
	for err == nil && !stop.Load() {
		err = w.round()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = false
	for _, fn := range w.mailbox {
		fn()
	}
	w.mailbox = nil
	w.shaper.alarm.Stop()
	return errors.Join(err, w.poller.Close())
}
