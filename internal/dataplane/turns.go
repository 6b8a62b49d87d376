package dataplane

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A frame costs its worker CPU time, also when it is refused. So a port that floods is paused: it is not read for a while. Its frames wait in
// its device's queue. What does not fit there is dropped by the device, at the cost of the sender.
//
//   - Frames that are refused or need the slow path get a tenth of the worker's time. A port that has refusedLeast of them in a batch pauses
//     for nine times as long as they took. So does a port that has some in a row of batches with refusedLeast of them. A port most of whose frames in
//     the batch are neither does not pause. A long frame counts for several: a batch has room for a few long frames only.
//   - A port belongs to a class: see classes.go. If ports of a lower class have frames, and the worker must wait for a CPU or is
//     never idle, those of a higher class get less and less of its time, down to one part in oneInMost. They get more and more again, once that has ended.
//
// Ports of one class are paused one after another, so the parts are those of all paused ports of a class together.
const (
	refusedLeast = 8       // refused frames in a batch,
	refusedBytes = 8 << 10 // or so many of these bytes, for one more each
	refusedOneIn = 10      // refused frames get one part in so many of the time

	turnWindow = int64(10 * time.Millisecond)
	oneInOne   = 1 // all of the time
	longest    = int64(250 * time.Millisecond)
	dearest    = int64(100 * time.Microsecond) // that a frame is charged for: the frames of a batch do not cost the same
)

// turns is what a worker knows of its ports' turns. Times are ns of the data plane's clock.
type turns struct {
	paused []pausedPort // in the order in which they will be read again

	loud       [frame.MaxPorts]int64  // until then, the port is loud, if it costs enough
	batches    uint32                 // that were busy
	row        [frame.MaxPorts]streak // of busy batches with frames of the port
	refusing   uint32                 // batches with many refused frames
	refusedRow [frame.MaxPorts]streak // of these, with such frames of the port
	dense      [frame.MaxPorts]int64  // until then, the port is dense, if it costs enough
	flooding   [frame.MaxPorts]int64  // until then, the port floods, whatever it costs
	devices    [frame.MaxPorts]device // of the ports
	long       [frame.MaxPorts]uint8  // batches with longBytes of the port; halved by every other batch with frames of it
	cost       [frame.MaxPorts]int64  // of the ports, in the last costWindows: bytes, and frameCost for each frame
	mean       int64                  // cost of the ports that may be loud, in the mean
	losers     []loser                // in the last window
	floods     bool                   // some port floods
	until      int64                  // until then, CPU times are measured: some port has been loud or has flooded
	others     [classes]bool          // in this window, a port of a lower class has sent to another one of a lower class
	began      int64                  // of the window
	ran        int64                  // CPU time of this thread when the window began; 0: not known
	waited     int64                  // likewise, its CPU wait
	oneIn      [classes]int64         // ports of a class get one part in so many of the time; what is above oneInMost counts as that

	bulkTo   [frame.MaxPorts]int64 // until then, the port receives frames of the bulk queue
	debt     [frame.MaxPorts]int64 // ns of a pause that would be too short
	charges  []charge              // of the last batch
	frames   int64                 // in the last batch
	cpu      int64                 // CPU time of this thread when the batch came
	measured bool                  // cpu is known
}

type pausedPort struct {
	id    frame.PortID
	class class // when it was paused
	until int64
}

// A charge is for frames of a port in one batch. Their cost is known after the next Poll, which writes what they have caused: it is the CPU
// time from Poll to Poll, in equal parts for all frames of the batch.
type charge struct {
	id            frame.PortID
	frames, oneIn int64 // they get one part in oneIn of the time
	answers, most int64 // frames to the port that are charged, too, and their limit: the port's own frames
}

// settle pauses the ports that are charged for the last batch, and reads paused ports again whose time has come.
//
//uvswitch:hot
func (w *worker) settle(now int64) {
	t := &w.turns
	if measured := t.measured; len(t.charges) > 0 || now < t.until {
		before := t.cpu
		if t.cpu, t.measured = w.poller.CPUTime(), true; measured {
			w.storming.took(t.cpu - before)
		}
		for _, c := range t.charges {
			if measured {
				w.pause(c.id, t.classOf(c.id, now, 0), now, (c.oneIn-1)*c.frames*min((t.cpu-before)/t.frames, dearest))
			}
		}
	} else {
		t.measured, w.storming.copies = false, 0
	}
	n := 0
	for n < len(t.paused) && t.paused[n].until <= now {
		id := t.paused[n].id
		t.row[id].last, t.refusedRow[id].last = t.batches, t.refusing // a pause is no gap
		w.poller.Resume(id)
		n++
	}
	if n > 0 {
		t.paused = t.paused[:copy(t.paused, t.paused[n:])]
	}
}

// pause pauses a port for ns after the pauses of others of its class. A port that had sent one more batch before its pause began pauses for longer.
func (w *worker) pause(id frame.PortID, of class, now, ns int64) {
	t := &w.turns
	if t.debt[id] += ns; t.debt[id] < alarmEvery { // the worker does not wake up more often
		return
	}
	ns, t.debt[id] = t.debt[id], 0
	i := slices.IndexFunc(t.paused, func(p pausedPort) bool { return p.id == id })
	if i < 0 {
		from := now
		for _, p := range t.paused {
			if p.class == of {
				from = max(from, p.until)
			}
		}
		i = len(t.paused)
		t.paused = append(t.paused, pausedPort{id, of, from})
		counted := id
		if id == frame.Bulk {
			counted = w.uplink
		}
		if c := w.counters.port(counted); c != nil {
			c.pauses.Add(1)
		}
		w.poller.Pause(id)
	}
	t.paused[i].class = of // perhaps it was another one
	for ; i < len(t.paused); i++ {
		if t.paused[i].class == of {
			t.paused[i].until = min(t.paused[i].until+ns, now+longest)
		}
	}
	slices.SortStableFunc(t.paused, func(a, b pausedPort) int { return cmp.Compare(a.until, b.until) })
}

// nextResume is when the first paused port will be read again.
//
//uvswitch:hot
func (t *turns) nextResume() int64 {
	if len(t.paused) == 0 {
		return math.MaxInt64
	}
	return t.paused[0].until
}

// charge notes what the ports of a received batch have sent.
//
//uvswitch:hot
func (w *worker) charge(b *frame.Batch, now int64) {
	t := &w.turns
	t.charges, t.frames = t.charges[:0], int64(b.N)
	busy := b.N >= busyBatch || b.N >= busyBatch/2 && len(t.paused) > 0
	if busy {
		t.batches++
	}
	refusing := w.tally.refusals >= refusedLeast
	if refusing {
		t.refusing++
	}
	for _, id := range w.tally.touched[:w.tally.n] {
		p := &w.tally.ports[id]
		if p.rxPackets == 0 {
			continue
		}
		t.cost[id] += int64(p.rxBytes + frameCost*p.rxPackets)
		if id == w.uplink { // it carries the frames of many senders: only its bulk queue may be loud
			w.chargeBulk(b, now)
			continue
		}
		many := p.rxPackets+p.segments/loudSize >= loudFrames
		many = busy && 2*p.rxPackets*w.tally.senders >= uint64(b.N) && t.row[id].add(t.batches) || many
		w.findLoud(id, many, p.rxBytes, now)
		inARow := refusing && p.refused > 0 && t.refusedRow[id].add(t.refusing)
		if (inARow || p.refusals >= refusedLeast) && 2*p.refused >= p.rxPackets {
			t.until, t.flooding[id] = now+loudTime, now+loudTime
			t.charges = append(t.charges, charge{id: id, frames: int64(p.refused), oneIn: refusedOneIn, most: int64(p.refused)})
		} else {
			t.chargeLoud(id, int64(p.rxPackets), int64(p.rxPackets), now)
		}
	}
	if len(t.charges) > 0 {
		w.chargeAnswers(b)
	}
	if now < t.until && !t.others[loud] {
		t.servesOthers(b, now)
	}
	if now-t.began >= turnWindow {
		w.closeWindow(now)
	}
}

// chargeBulk notes what the bulk queue of the uplink has sent, and who receives it. It is not charged for answers: the receiver sends them.
//
//uvswitch:hot
func (w *worker) chargeBulk(b *frame.Batch, now int64) {
	if b.Bulk == 0 {
		return
	}
	t, n, size := &w.turns, int64(bits.OnesCount64(b.Bulk)), 0
	for i := range b.Frames[:b.N] {
		if f := &b.Frames[i]; b.Bulk>>i&1 != 0 {
			size += f.Len()
			t.bulkTo[f.Out%frame.MaxPorts] = now + loudTime
		}
	}
	t.cost[frame.Bulk] += int64(size) + frameCost*n
	w.findLoud(frame.Bulk, n >= loudFrames, uint64(size), now)
	t.chargeLoud(frame.Bulk, n, 0, now)
}

// findLoud finds out whether a port is loud or dense: whether it has many frames in this batch, or many bytes in a row of batches.
//
//uvswitch:hot
func (w *worker) findLoud(id frame.PortID, many bool, bytes uint64, now int64) {
	t := &w.turns
	if long := t.isLong(id, bytes); !long && !many {
		return
	}
	t.loud[id], t.until = now+loudTime, now+loudTime
	if many && w.dp.offererOf(id) == nil {
		t.dense[id] = now + loudTime
	}
}

// chargeLoud charges a port for the frames of this batch, and for so many answers at most, if its class has only a part of the time.
//
//uvswitch:hot
func (t *turns) chargeLoud(id frame.PortID, frames, answers, now int64) {
	if c := t.classOf(id, now, 0); t.oneIn[c] > oneInOne {
		t.charges = append(t.charges, charge{id: id, frames: frames, oneIn: min(t.oneIn[c], oneInMost[c]), most: answers})
	}
}

// chargeAnswers charges a port for what the uplink brings it, too: its own frames made others send that.
//
//uvswitch:hot
func (w *worker) chargeAnswers(b *frame.Batch) {
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.ToPort || f.Net != frame.NoNet {
			continue
		}
		for k := range w.turns.charges {
			if c := &w.turns.charges[k]; f.Out == c.id && c.answers < c.most {
				c.answers++
				c.frames++
			}
		}
	}
}

// closeWindow sets the parts of the classes for the next window, and finds the ports that flood.
//
//uvswitch:hot
func (w *worker) closeWindow(now int64) {
	t := &w.turns
	if now < t.until {
		ran, waited, took := w.poller.CPUTime(), w.poller.CPUWait(), now-t.began
		if t.ran != 0 {
			w.storming.has(ran-t.ran, ran-t.ran+waited-t.waited)
		}
		isScarce := waited-t.waited > took/8 || ran-t.ran+waited-t.waited > took-took/32
		for c := loud; c < classes; c++ {
			switch {
			case t.others[c] && isScarce && t.ran != 0:
				t.oneIn[c] = min(4*oneInMost[c], max(2, 2*t.oneIn[c])) // so it counts as oneInMost for two windows after the last frame of others
			case !t.others[c]:
				t.oneIn[c] = max(oneInOne, t.oneIn[c]/2)
			case t.oneIn[c] > oneInOne:
				t.oneIn[c]--
			}
		}
		t.ran, t.waited = ran, waited
	} else {
		t.oneIn, t.ran = [classes]int64{}, 0
		w.storming.forget()
	}
	left := int64(1 << 16)
	for range min((now-t.began)/turnWindow, 8*costWindows) {
		left -= left / costWindows
	}
	t.losers = t.losers[:0]
	for id := range t.cost {
		t.cost[id], t.debt[id] = t.cost[id]*left>>16, t.debt[id]*left>>16
		if t.loud[id] <= now && t.flooding[id] <= now {
			if t.devices[id].known {
				t.devices[id] = device{}
			}
		} else if wants := w.wants(frame.PortID(id)); wants > 0 {
			t.losers = append(t.losers, loser{frame.PortID(id), wants})
		}
	}
	t.findFloods(now, now-t.began)
	sum, ports := int64(0), int64(0)
	t.floods = false
	for id := range t.cost {
		switch {
		case t.flooding[id] > now:
			t.floods = true
		case t.loud[id] > now:
			sum, ports = sum+t.cost[id], ports+1
		}
	}
	t.mean = sum / max(1, ports)
	t.began, t.others = now, [classes]bool{}
}

// forget forgets a port that is being removed.
func (t *turns) forget(id frame.PortID) {
	t.paused = slices.DeleteFunc(t.paused, func(p pausedPort) bool { return p.id == id })
	t.charges = slices.DeleteFunc(t.charges, func(c charge) bool { return c.id == id })
	t.loud[id], t.dense[id], t.flooding[id], t.bulkTo[id], t.devices[id] = 0, 0, 0, 0, device{}
	t.long[id], t.cost[id], t.debt[id], t.row[id], t.refusedRow[id] = 0, 0, 0, streak{}, streak{}
}

// refused counts a frame of the received batch that cost time for nothing, or for the slow path.
//
//uvswitch:hot
func (w *worker) refused(f *frame.Frame) {
	if w.origin == received {
		weight := uint64(1 + f.Len()/refusedBytes)
		w.tally.ports[f.In].refused++
		w.tally.ports[f.In].refusals += weight
		w.tally.refusals += weight
	}
}

// isRefusal reports whether a drop is to the disadvantage of the frame's sender. A port may always send faster than its rate, and many TCP
// acknowledgements.
//
//uvswitch:hot
func isRefusal(why frame.Reason) bool {
	return why != frame.AckSuperseded && why != frame.RxRateExceeded && why != frame.TxRateExceeded
}
